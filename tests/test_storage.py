import json
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.storage import new_directory, read_json, sha256_text, write_json, write_text
from wmtp.tracking import MetricsLog


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with new_directory(path) as aside:
        (aside / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), new_directory(path) as aside:
        (aside / "not there" / "a").write_text("2")
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]
    with new_directory(path) as aside:
        (aside / "b").write_text("3")
    assert [p.name for p in path.iterdir()] == ["b"]


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": "λ"})
    assert read_json(tmp_path / "x.json") == {"a": "λ"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(WMTPError, match=r"x\.json: damaged"):
        read_json(tmp_path / "x.json")
    with pytest.raises(WMTPError, match=r"y\.json: no such file"):
        read_json(tmp_path / "y.json")


def test_where_one_text_ends_matters() -> None:
    assert sha256_text("ab", "c") != sha256_text("a", "bc")


def test_metrics_are_rewound_and_half_lines_forgotten(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    assert list(log) == []
    for step in range(5):
        log.write({"kind": "train", "step": step})
    with log.path.open("a") as file:
        file.write('{"kind": "tr')
    assert [record["step"] for record in log] == [0, 1, 2, 3, 4]
    log.rewind(2)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [0, 1, 2]
