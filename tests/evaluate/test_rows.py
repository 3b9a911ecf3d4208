"""Rows that know where they stand."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from wmtp.errors import WMTPError
from wmtp.evaluate.rows import EvaluationRow, read_rows, unified


def test_lines_lists_and_compressed_lines_are_read_alike(tmp_path: Path) -> None:
    rows = [{"a": "x\r\ny"}, {"a": "é"}]
    lines = "".join(json.dumps(row) + "\n\n" for row in rows)
    (tmp_path / "r.jsonl").write_text(lines)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "r.json").write_text(json.dumps(rows))
    read = {name: list(read_rows(tmp_path / name)) for name in ("r.jsonl", "r.jsonl.gz", "r.json")}
    assert all([row.values for row in found] == rows for found in read.values())
    assert [row.place for row in read["r.jsonl"]] == [f"{tmp_path}/r.jsonl, line {n}" for n in (1, 3)]
    assert read["r.json"][1].place == f"{tmp_path}/r.json, row 2"
    assert read["r.jsonl"][0].text("a") == "x\ny"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.jsonl", b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        ("r.jsonl", b"[1]\n", "line 1: should be an object, not list"),
        ("r.jsonl", b'{"a": "\xff"}\n', "line 1: not JSON"),
        ("r.jsonl", b"[" * 100_000 + b"\n", "line 1: not JSON"),
        ("r.json", b'{"a": 1}', "should hold a list of objects"),
        ("r.json", b"[1]", "row 1: should be an object, not int"),
        ("r.jsonl.gz", b"{}", "cannot be read"),
        ("r.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9000)[:-20], "cannot be read"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WMTPError, match=expected) as raised:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("text", ("gone", "lost"), "f, line 7: no field 'gone'; it has t, n, l, bad"),
        ("text", ("n",), "f, line 7: 'n' should be text, not int"),
        ("texts", ("gone",), "f, line 7: 'gone' should be a list of texts"),
        ("texts", ("bad",), "f, line 7: 'bad' should be a list of texts"),
        ("identifier", ("gone",), "f, line 7: 'gone' should be there"),
        ("identifier", ("l",), "f, line 7: 'l' should be there"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(method: str, arguments: Any, expected: str) -> None:
    row = EvaluationRow("f, line 7", {"t": "a\rb", "n": 3, "l": ["x\r\n"], "bad": ["x", 1]})
    with pytest.raises(WMTPError, match=expected):
        getattr(row, method)(*arguments)


def test_fields() -> None:
    row = EvaluationRow("f", {"t": "a\rb", "none": None, "n": 3, "l": ["x\r\n"]})
    assert row.text("gone", "none", "t") == "a\nb"
    assert row.text("gone", default="d") == "d"
    assert row.texts("l") == ("x\n",)
    assert row.texts("gone", ()) == ()
    assert (row.identifier("gone", "n"), row.identifier("t")) == ("3", "a\rb")
    assert unified("a\r\nb\rc\nd") == "a\nb\nc\nd"
