"""Keys of recipes of before, and the scorer that they mean now."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from wmtp.config import Recipe, load, override, recipe_from, to_dict, to_yaml
from wmtp.errors import WMTPError

OF_BEFORE = {
    "rho1": {"excess": "signed", "percentile_top_p": None},
    "entropy": {"prefer": "high"},
    "grad_norm": {"smoothing": 0.5},
    "grpo": {"clip": 2.0},
    "learned": {"clean": {"curated": True}, "rows": 4, "hidden": 16, "lr": 0.01},
    "blend": {},
}


def scorer_of_file(path: Path, values: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """`scorer` of the recipe that a file with these values is."""
    path.write_text(yaml.safe_dump(values))
    return to_dict(load(path, None, overrides)[0].scorer)


def written_before(name: str | None, **sections: Any) -> dict[str, Any]:
    """A recipe as runs of before hold it: all sections in full."""
    values = to_dict(Recipe())
    del values["scorer"]
    values["train"] |= {"algo": "mtp-baseline", "scorer": name}
    return values | OF_BEFORE | sections


@pytest.mark.parametrize(
    ("values", "expected", "became"),
    [
        (
            {"train": {"algo": "rho1-wmtp"}, "rho1": {"excess": "absolute"}},
            {"name": "rho1-excess-v1", "excess": "absolute"},
            "train.algo: now scorer: {name: rho1-excess-v1, excess: absolute}",
        ),
        (
            {"train": {"algo": "critic-wmtp"}},
            {"name": "critic-delta-v1"},
            "train.algo: now scorer: {name: critic",
        ),
        ({"train": {"scorer": "m:C", "algo": "rho1-wmtp"}}, {"name": "m:C"}, "train.scorer, train.algo: now"),
        (
            {"train": {"scorer": "entropy-v1"}, "entropy": {"prefer": "low"}, "grpo": {"clip": 1.0}},
            {"name": "entropy-v1", "prefer": "low"},
            "train.scorer, entropy.prefer: now scorer: {name: entropy-v1, prefer: low}",
        ),
        (
            {"train": {"scorer": "grad-norm-v1"}, "grad_norm": {"smoothing": 0.1}},
            {"name": "grad-norm-v1", "smoothing": 0.1},
            "train.scorer, grad_norm.smoothing: now scorer: ",
        ),
        (
            {"train": {"scorer": "learned-v1"}, "learned": {"clean": {"good": 1}, "lr": 0.1}},
            {"name": "learned-v1", "clean": {"good": 1}, "lr": 0.1},
            "train.scorer, learned.clean, learned.lr: now scorer: ",
        ),
        (
            {"train": {"scorer": "blend"}, "blend": {"grpo-v1": 1, "uniform": 2}, "grpo": {"clip": 1.0}},
            {"name": "blend", "parts": {"grpo-v1": 1, "uniform": 2}, "settings": {"grpo-v1": {"clip": 1.0}}},
            "train.scorer, blend.grpo-v1, blend.uniform, grpo.clip: now scorer: ",
        ),
        (
            {"rho1": {"percentile_top_p": 0.3}},
            {"name": "uniform"},
            "rho1.percentile_top_p: now loss: {top_p: 0.3}",
        ),
    ],
)
def test_a_recipe_of_before_runs_and_says_what_it_became(
    values: dict[str, Any],
    expected: dict[str, Any],
    became: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "old.yaml"
    assert scorer_of_file(path, values) == expected
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for key in became.split(": ", 1)[0].split(", "):
        assert key in said
    assert said.startswith(f"note: {path}: ")
    assert became.split(": ", 1)[1] in said
    scorer_of_file(path, {"scorer": expected})
    assert capsys.readouterr().err == "", "today's keys need no word"


def test_what_a_run_of_before_wrote_is_todays_recipe() -> None:
    sections = {"rho1": {"excess": "absolute", "percentile_top_p": 0.2}}
    found = recipe_from(written_before("rho1-excess-v1", **sections), "step-8")
    today = {"scorer": {"name": "rho1-excess-v1", "excess": "absolute"}, "loss.top_p": 0.2}
    assert found == override(Recipe(), today, "test")
    assert recipe_from(written_before(None), "step-8") == Recipe()


def test_the_command_line_goes_before_the_file_in_either_form(tmp_path: Path) -> None:
    path, rho1 = tmp_path / "r.yaml", {"name": "rho1-excess-v1", "excess": "absolute"}
    old = {"train": {"algo": "rho1-wmtp"}, "rho1": {"excess": "signed"}, "entropy": {"prefer": "low"}}
    for values in (old, {"scorer": {"name": "rho1-excess-v1", "excess": "signed"}}):
        assert scorer_of_file(path, values, "rho1.excess=absolute") == rho1
        assert scorer_of_file(path, values, "scorer.excess=absolute") == rho1
        assert scorer_of_file(path, values, "train.algo=mtp-baseline") == {"name": "uniform"}
        for name in (
            "train.scorer=grpo-v1",
            "scorer=grpo-v1",
            "scorer.name=grpo-v1",
            "scorer={name: grpo-v1}",
        ):
            assert scorer_of_file(path, values, name) == {"name": "grpo-v1"}
            assert scorer_of_file(path, values, "grpo.clip=1", name) == {"name": "grpo-v1", "clip": 1}
    parts = {"entropy-v1": 1.0}
    mixed = {"scorer": {"name": "blend", "parts": parts, "settings": {"entropy-v1": {"prefer": "high"}}}}
    found = scorer_of_file(path, mixed, "entropy.prefer=low")
    assert found == {"name": "blend", "parts": parts, "settings": {"entropy-v1": {"prefer": "low"}}}
    assert scorer_of_file(path, old, "scorer=entropy-v1") == {"name": "entropy-v1", "prefer": "low"}


def test_arms_have_the_settings_of_their_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {
        "rho1": {"train.algo": "rho1-wmtp", "train.control": "shuffled"},
        "signed": {"train.algo": "rho1-wmtp", "rho1.excess": "signed", "rho1.percentile_top_p": 0.5},
        "uniform": {},
    }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"compare": {"arms": arms, "reference": {"train.algo": "mtp-baseline"}}}))
    recipe, _ = load(path, None, ["rho1.excess=absolute"])
    assert recipe.compare.arms == {
        "rho1": {"train.control": "shuffled", "scorer": {"name": "rho1-excess-v1", "excess": "absolute"}},
        "signed": {"loss.top_p": 0.5, "scorer": {"name": "rho1-excess-v1", "excess": "signed"}},
        "uniform": {},
    }
    assert recipe.compare.reference == {"scorer": {"name": "uniform"}}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "compare.arms.rho1: train.algo: now scorer: {name: rho1-excess-v1, excess: abs" in said
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load(tmp_path / "again.yaml")[0] == recipe


def test_a_file_extends_another_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.yaml").write_text(
        "train: {algo: '${oc.env:WMTP_TEST_ALGO}'}\nrho1: {excess: relative}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nscorer: {excess: absolute}\n")
    monkeypatch.setenv("WMTP_TEST_ALGO", "rho1-wmtp")
    assert to_dict(load(child)[0].scorer) == {"name": "rho1-excess-v1", "excess": "absolute"}
    child.write_text("extends: base.yaml\nscorer: entropy-v1\n")
    assert to_dict(load(child)[0].scorer) == {"name": "entropy-v1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{train: {algo: rho1-wmtp}, scorer: entropy-v1}",
            "train.algo: the scorer rho1-excess-v1, but scorer.name is entropy-v1; keep scorer.name",
        ),
        (
            "{scorer: {name: entropy-v1, prefer: low}, entropy: {prefer: high}}",
            "entropy.prefer is high, and scorer.prefer, as it is called now, low; keep the latter",
        ),
        ("{entropy: {prefers: low}}", "unknown key 'entropy.prefers'; did you mean 'prefer'?"),
        ("{rho1: 3}", "rho1: should be settings, not 3"),
        ("{scorer: null}", "scorer: should name a scorer, not None"),
        ("{scorer: ''}", "scorer: should name a scorer, not ''"),
        ("{scorer: '${name}'}", "the scorer's name '${name}': Interpolation key 'name' not found"),
        ("{compare: {arms: {a: {3: 4}}}}", "compare.arms.a.3.[key]: input should be a valid string, not 3"),
        (
            "{train: {algo: rho-wmtp}}",
            "train.algo: unknown algo 'rho-wmtp'; did you mean 'rho1-wmtp' or 'critic-wmtp'?",
        ),
    ],
)
def test_a_contradiction_or_mistake_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(WMTPError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {expected}"


def test_keys_of_before_can_be_referred_to(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: ${train.algo}-${rho1.excess}\ntrain: {algo: mtp-baseline}\nrho1: {excess: signed}\n"
    )
    recipe, _ = load(path, None, ["train.algo=rho1-wmtp", "rho1.excess=absolute"])
    assert recipe.name == "rho1-wmtp-absolute"


def test_null_on_the_command_line_undoes_the_top_p_of_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("loss: {top_p: 0.5}\nrho1: {percentile_top_p: 0.3}\n")
    assert load(path, None, ["rho1.percentile_top_p=null"])[0].loss.top_p == 0.5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("changes", [{"scorer.parts": {"uniform": 1}}, {"blend": {"uniform": 1}}])
def test_other_parts_of_a_mixture_leave_settings_of_the_first_behind(changes: dict[str, Any]) -> None:
    settings = {"entropy-v1": {"prefer": "low"}}
    mixed = {"scorer": {"name": "blend", "parts": {"entropy-v1": 1}, "settings": settings}}
    found = override(override(Recipe(), mixed, "test"), changes, "test")
    assert to_dict(found.scorer) == {"name": "blend", "parts": {"uniform": 1}, "settings": {}}


@pytest.mark.parametrize(
    ("change", "scorer"),
    [
        ("rho1={excess: absolute}", "rho1-excess-v1"),
        ("learned.clean.curated=true", "learned-v1"),
        ("blend.entropy-v1.start=1", "blend"),
    ],
)
def test_so_is_a_whole_section_or_a_part_of_a_setting(change: str, scorer: str) -> None:
    with pytest.raises(WMTPError, match=f"is a setting of the scorer {scorer}, and scorer.name is uniform"):
        load(None, None, [change])


def test_a_setting_that_nobody_reads_is_refused_where_it_is_asked_for() -> None:
    line = "override rho1.excess=absolute: rho1.excess is a setting of the scorer rho1-excess-v1, and scorer.name is "
    with pytest.raises(WMTPError) as caught:
        load(None, None, ["rho1.excess=absolute", "scorer=entropy-v1"])
    assert str(caught.value).startswith(
        "override rho1.excess=absolute scorer=entropy-v1: rho1.excess is a setting"
    )
    with pytest.raises(WMTPError) as caught:
        load(None, None, ["rho1.excess=absolute"])
    assert str(caught.value) == f"{line}uniform"


def test_processes_of_a_launcher_leave_the_note_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WMTP_LAUNCHER", "1")
    assert load(None, None, ["train.algo=rho1-wmtp"])[0].scorer.name == "rho1-excess-v1"
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("WMTP_LAUNCHER")
    load(None, None, ["train.algo=rho1-wmtp"])
    assert capsys.readouterr().err.startswith("note: recipe: train.algo: now scorer: ")
