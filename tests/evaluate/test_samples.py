"""The file of samples: written as they come, gone on from, never mixed."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wmtp.errors import WMTPError
from wmtp.evaluate.samples import Key, Origin, SampleFile, read_foreign
from wmtp.sandbox import Execution, Verdict

Write = Callable[[str, Sequence[Any]], Path]

ORIGIN = Origin({"checkpoint": "step-1", "seed": 0, "temperatures": (0.5,)}, {"cpu_seconds": 3.0})
KEYS = [Key("a", 0.5, 0), Key("a", 0.5, 1), Key("b", 0.5, 0)]
PASSED = Execution(Verdict.PASSED, "", 0.0)
FAILED = Execution(Verdict.FAILED, "f(1) returned 2", 0.0, inside=True)
LATE = Execution(Verdict.TIMEOUT, "used up 3 s", 0.0, public=False)


def opened(path: Path, origin: Origin = ORIGIN, said: list[str] | None = None) -> SampleFile:
    return SampleFile(path, origin, (said if said is not None else []).append)


def fill(path: Path) -> None:
    with opened(path) as file:
        for key in KEYS:
            file.add(key, f"code of {key.task_id} {key.sample}\r\n\u2028")
        for key, execution in zip(KEYS, (PASSED, FAILED, LATE), strict=True):
            file.judge(key, execution)
        file.finish(KEYS)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "t.jsonl"
    fill(path)
    with opened(path) as file:
        assert list(file.completions) == KEYS
        assert file.completions[KEYS[1]] == "code of a 1\r\n\u2028"
        assert file.executions == dict(zip(KEYS, (PASSED, FAILED, LATE), strict=True))


def test_what_ended_a_completion_is_kept_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with opened(path) as file:
        for key, stop in zip(KEYS, ("eos", "length", None), strict=True):
            file.add(key, "code", stop)
            file.judge(key, PASSED)
    with opened(path) as file:
        assert file.stops == {KEYS[0]: "eos", KEYS[1]: "length"}
        file.finish(KEYS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("stop") for line in lines] == ["eos", "length", None]
    path.write_text(path.read_text().replace('"eos"', '"end"'))
    with pytest.raises(WMTPError, match="'stop' should be one of eos, stop, length"), opened(path):
        pass


def test_the_words_are_human_evals(tmp_path: Path) -> None:
    fill(tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["passed"] for line in lines] == [True, False, False]
    assert [line["result"] for line in lines] == ["passed", "failed: f(1) returned 2", "timed out"]
    assert lines[0] == {
        "task_id": "a",
        "sample": 0,
        "temperature": 0.5,
        "completion": "code of a 0\r\n\u2028",
        "passed": True,
        "result": "passed",
        "verdict": "passed",
        "message": "",
    }
    assert lines[1]["inside"] is True
    assert lines[2]["public"] is False
    foreign = read_foreign(tmp_path / "t.jsonl", ["a", "b"])
    assert [(key.task_id, key.sample) for key in foreign] == [("a", 0), ("a", 1), ("b", 0)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_cut_anywhere_nothing_whole_is_lost_and_nothing_torn_is_read(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "t.jsonl"
    path.unlink(missing_ok=True)
    with opened(path) as file:
        for key in KEYS:
            file.add(key, "x = '\u00e9'")
            file.judge(key, PASSED)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    lines = [json.loads(line) for line in whole[:cut].splitlines(keepends=True) if line.endswith(b"\n")]
    with opened(path) as file:
        assert {(key.task_id, key.sample) for key in file.completions} == {
            (x["task_id"], x["sample"]) for x in lines
        }
        assert len(file.executions) == sum("verdict" in x for x in lines)
        for key in KEYS:
            file.add(key, "x = '\u00e9'")
            if key not in file.executions:
                file.judge(key, PASSED)
        file.finish(KEYS)
    with opened(path) as file:
        assert file.executions == dict.fromkeys(KEYS, PASSED)


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint", "step-2"), ("seed", 1), ("temperatures", (0.5, 0.8))]
)
def test_samples_of_another_origin_are_set_aside(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "t.jsonl"
    fill(path)
    content = path.read_text()
    origin, result = (tmp_path / "t.json").read_text(), tmp_path / "evaluation-t.json"
    result.write_text("the result")
    said: list[str] = []
    other = replace(ORIGIN, completions={**ORIGIN.completions, key: value})
    with SampleFile(path, other, said.append, result) as file:
        assert not file.completions
        assert not file.executions
        file.add(KEYS[0], "new")
    aside = "t.jsonl.old-1, t.json.old-1, evaluation-t.json.old-1"
    assert said == [f"{path}: holds samples of another {key}; set aside: {aside}"]
    assert (tmp_path / "t.jsonl.old-1").read_text() == content
    assert (tmp_path / "t.json.old-1").read_text() == origin
    assert (tmp_path / "evaluation-t.json.old-1").read_text() == "the result"
    with SampleFile(path, ORIGIN, said.append, result):
        pass
    assert said[1].endswith("set aside: t.jsonl.old-2, t.json.old-2")
    assert [*tmp_path.glob("*.jsonl"), *tmp_path.glob("evaluation-*.json")] == [path]


@pytest.mark.parametrize("about", [None, "[1]", '"a"', "{", '{"completions": 3}'])
def test_samples_that_do_not_say_where_they_are_from_are_set_aside(tmp_path: Path, about: str | None) -> None:
    fill(tmp_path / "t.jsonl")
    (tmp_path / "t.json").unlink()
    if about is not None:
        (tmp_path / "t.json").write_text(about)
    said: list[str] = []
    with opened(tmp_path / "t.jsonl", said=said) as file:
        assert not file.completions
    assert "holds samples of another origin" in said[0]


def test_under_other_conditions_only_verdicts_are_dropped(tmp_path: Path) -> None:
    path, said = tmp_path / "t.jsonl", list[str]()
    fill(path)
    with opened(path, replace(ORIGIN, verdicts={"cpu_seconds": 9.0}), said) as file:
        assert list(file.completions) == KEYS
        assert not file.executions
    assert said == [f"{path}: judged under other conditions; the completions are judged again"]
    with opened(path, ORIGIN) as file:
        assert list(file.completions) == KEYS
        assert not file.executions


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "t.jsonl"),
        pytest.raises(WMTPError, match=r"t\.jsonl: another evaluation writes it"),
        opened(tmp_path / "t.jsonl"),
    ):
        pass
    with opened(tmp_path / "t.jsonl"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"t.jsonl", "t.json"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2: not JSON"),
        ('{"task_id": "a", "sample": 0}', "line 2: 'completion' should be there"),
        ('{"task_id": "a", "completion": "x"}', "line 2: damaged: 'sample'"),
        ('{"task_id": "a", "sample": 0, "completion": "x", "verdict": "odd"}', "line 2: damaged: 'odd'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "t.jsonl"
    fill(path)
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + line + "\n" + "".join(rest))
    with pytest.raises(WMTPError, match=expected), opened(path):
        pass


def test_foreign_samples_may_be_uneven_and_compressed(tmp_path: Path) -> None:
    rows = [{"task_id": t, "completion": c} for t, c in ((7, "p"), ("b", "q"), (7, "r"), ("7", "s"))]
    path = tmp_path / "s.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert read_foreign(path, ["7", "b"]) == {
        Key("7", None, 0): "p",
        Key("b", None, 0): "q",
        Key("7", None, 1): "r",
        Key("7", None, 2): "s",
    }


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"task_id": "a", "completion": "x"}, {"task_id": "c", "completion": "x"}],
            "line 2: unknown task_id 'c'",
        ),
        ([{"task_id": "a"}], "line 1: 'completion' should be there, as text"),
        ([{"task_id": "a", "completion": 3}], "line 1: 'completion' should be there, as text"),
        ([{"completion": "x"}], "line 1: 'task_id' should be there"),
        ([{"task_id": ["a"], "completion": "x"}], "line 1: 'task_id' should be there"),
        (["a"], "line 1: should be an object, not str"),
        ([], "has no rows"),
        (
            [{"task_id": "a", "completion": "x", "temperature": t} for t in (0.1, 0.2)],
            "has samples at several temperatures",
        ),
    ],
)
def test_foreign_rows_that_are_no_samples(write_lines: Write, rows: list[Any], expected: str) -> None:
    with pytest.raises(WMTPError, match=expected):
        read_foreign(write_lines("s.jsonl", rows), ["a", "b"])
    with pytest.raises(WMTPError, match=r"--samples gone\.jsonl: no such file"):
        read_foreign(Path("gone.jsonl"), ["a"])
    with pytest.raises(WMTPError, match=r"--samples \.: is a directory"):
        read_foreign(Path(), ["a"])
    with pytest.raises(WMTPError, match="--samples /dev/null: is not a regular file: save it first"):
        read_foreign(Path("/dev/null"), ["a"])
