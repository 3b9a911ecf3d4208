import json
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.records import read_evaluation, read_metrics, read_samples


def line(step: int, kind: str = "train", ce: float | None = 1.0) -> str:
    record = {
        "kind": kind,
        "step": step,
        "tokens": step * 10,
        "seconds": step * 0.5,
        "ce": [ce],
        "new_field": 1,
    }
    return json.dumps(record) + "\n"


def test_metrics_by_kind_in_order_of_steps(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(2) + line(1) + line(2, "validation") + line(2, "note"))
    metrics = read_metrics(tmp_path)
    assert [record.step for record in metrics.train] == [1, 2]
    assert [record.step for record in metrics.validation] == [2]
    assert metrics.train[0].tokens == 10
    assert metrics.train[0].lr is None


def test_a_step_logged_again_after_a_resume_counts_once_and_as_logged_last(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(1) + line(2, ce=9.0) + line(3, ce=9.0) + line(2, ce=2.0))
    assert [(r.step, r.ce[0]) for r in read_metrics(tmp_path).train] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_a_line_that_is_still_being_written_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(1) + line(2)[:20])
    assert [record.step for record in read_metrics(tmp_path).train] == [1]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + "{oops}\n" + line(2))
    with pytest.raises(WMTPError, match=r"metrics\.jsonl:2: not JSON"):
        read_metrics(tmp_path)
    path.write_text(line(1) + '{"kind": "train", "step": 2}\n')
    with pytest.raises(WMTPError, match=r"metrics\.jsonl:2: tokens: "):
        read_metrics(tmp_path)


def test_a_directory_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"is .* a run directory"):
        read_metrics(tmp_path)


def test_a_broken_evaluation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-x.json"
    path.write_text('{"task": "x"}')
    with pytest.raises(WMTPError, match=r"evaluation-x\.json: protocol: "):
        read_evaluation(path)


def test_samples_keep_line_separators_inside_strings(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    sample = {"task_id": "x/0", "sample": 0, "completion": "a\u2028b\x85\ud800", "verdict": "failed"}
    path.write_text(json.dumps(sample) + "\n" + json.dumps(sample | {"sample": 1}, ensure_ascii=True) + "\n")
    assert [row.sample for row in read_samples(path)] == [0, 1]
    assert read_samples(path)[0].completion == "a\u2028b\x85\ud800"
