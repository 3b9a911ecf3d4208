import json
import math
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.experiment.results import (
    ArmResult,
    Comparison,
    Difference,
    Interval,
    ReferenceResult,
    SeedResult,
    TokenSample,
    read_comparison,
    read_heatmap,
    write_comparison,
    write_heatmap,
)


def arm(name: str, *, difference: Difference | None, ce: float = 0.5) -> ArmResult:
    return ArmResult(
        name=name,
        description={"loss.lambda": 0.5, "deterministic": True, "data.where": {"curated": [1, None]}},
        pass_at_1=Interval(0.5, 0.4, 0.6),
        difference=difference,
        validation_ce=Interval(ce, None, None),
        tokens_per_forward=2.1,
        acceptance=[0.8, 0.5],
        training_tokens_per_second=1000.0,
        training_seconds=10.0,
        training_tokens=10_000,
        by_seed=[SeedResult(seed=0, pass_at_1=0.5, validation_ce=0.5, run=f"arms/{name}/seed-0")],
        verdicts={"passed": 5, "failed": 5},
    )


def comparison(**changes: object) -> Comparison:
    content: dict[str, object] = {
        "name": "demo", "task": "tinycode", "protocol": "tinycode-greedy", "baseline": "a", "seeds": [0],
        "steps": 100, "problems": 10,
        "arms": [arm("a", difference=None), arm("b", difference=Difference(0.1, -0.1, 0.3, 0.4))],
        "reference": ReferenceResult(pass_at_1=None, validation_ce=0.4, seconds=5.0, run="reference"),
        "conditions": {"threads": 2, "precision": "bfloat16"},
    }  # fmt: skip
    return Comparison(**(content | changes))  # type: ignore[arg-type]


SAMPLE = TokenSample(
    title="t",
    prompt_tokens=1,
    tokens=["a", "\n"],
    supervised=[False, True],
    planted=[False, True],
    weights={"a": [None, 0.25]},
)


def test_a_comparison_survives_the_file(tmp_path: Path) -> None:
    written = comparison()
    write_comparison(written, tmp_path)
    assert read_comparison(tmp_path) == written
    assert read_comparison(tmp_path).arms[0].description["deterministic"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_a_heat_map_survives_the_file(tmp_path: Path) -> None:
    write_heatmap([SAMPLE], tmp_path)
    assert read_heatmap(tmp_path) == [SAMPLE]


def test_arms_by_role() -> None:
    found = comparison()
    assert found.baseline_arm.name == "a"
    assert [other.name for other in found.other_arms] == ["b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "c"}, "'c' is not one of the arms"),
        ({"arms": [arm("a", difference=None), arm("a", difference=None)]}, "same name"),
        ({"arms": [arm("a", difference=None), arm("b", difference=None)]}, "'b'"),
        ({"arms": [arm("a", difference=Difference(0, 0, 0, 1))]}, "'a'"),
    ],
)
def test_a_comparison_that_contradicts_itself_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        comparison(**changes)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Interval(math.nan, None, None)


def test_token_columns_must_have_one_length() -> None:
    with pytest.raises(ValueError, match=r"weights\.a: 1 entries for 2 tokens"):
        TokenSample("t", 0, ["a", "b"], [True, True], [False, False], {"a": [1.0]})


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"comparison\.json: no such file"):
        read_comparison(tmp_path)


def test_a_wrong_file_is_named_with_the_key(tmp_path: Path) -> None:
    write_comparison(comparison(), tmp_path)
    path = tmp_path / "comparison.json"
    content = json.loads(path.read_text())
    content["arms"][1]["pass_at_1"]["value"] = "half"
    path.write_text(json.dumps(content))
    with pytest.raises(WMTPError, match=r"comparison\.json: arms\.1\.pass_at_1\.value: .*number") as error:
        read_comparison(tmp_path)
    assert "\n" not in str(error.value)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_comparison(comparison(), tmp_path)
    path = tmp_path / "comparison.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(WMTPError, match=r"comparison\.json: "):
        read_comparison(tmp_path)
