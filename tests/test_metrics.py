import json
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wmtp.metrics import MetricsLog
from wmtp.tracking.ledger import Tail
from wmtp.typed_json import read_lines_as


def test_a_record_is_dated_in_the_file_and_comes_back_as_it_was(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write({"kind": "train", "step": 1})
    assert list(log) == [{"kind": "train", "step": 1}]
    assert abs(json.loads(log.path.read_text())["time"] - time.time()) < 5


def test_rewinding_leaves_the_lines_as_they_are(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2):
        log.write({"kind": "train", "step": step, "x": 0.1})
    first = log.path.read_text().splitlines(keepends=True)[0]
    log.rewind(1)
    assert log.path.read_text() == first


def test_the_tail_of_a_file_that_grows_and_is_rewound(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    tail = Tail(log.path)
    assert list(tail.read()) == []
    log.write({"kind": "train", "step": 1})
    with log.path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert [r["step"] for r in tail.read()] == [1]
    with log.path.open("a") as file:
        file.write('ep": 2}\nno record\n{"kind": "train"}\n[]\n')
    assert [r["step"] for r in tail.read()] == [2]
    assert list(tail.read()) == []
    log.path.write_text('{"kind": "train", "step": 1}\n')
    log.rewind(1)
    log.write({"kind": "train", "step": 2})
    assert [r["step"] for r in tail.read()] == [1, 2]


def test_a_torn_last_line_is_no_record_and_goes_with_rewinding(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write({"kind": "train", "step": 1})
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + '{"kind": "é'.encode()[:-1])
    for records in (log, Tail(log.path).read(), read_lines_as(log.path, TypeAdapter(dict[str, Any]))):
        assert [record["step"] for record in records] == [1]
    log.rewind(1)
    assert log.path.read_bytes() == whole
