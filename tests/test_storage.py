import json
import subprocess
import sys
from pathlib import Path

import pytest

from wmtp.errors import WMTPError
from wmtp.metrics import MetricsLog
from wmtp.storage import (
    check_can_write,
    directories,
    mend,
    new_directory,
    point,
    publish,
    read_json,
    remove,
    sha256_text,
    unfinished,
    write_json,
    write_text,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (("folder", "Is a directory"), ("file/f.txt", "Not a directory|File exists")):
        with pytest.raises(WMTPError, match=f"{path}: cannot be written: ({reason})$"):
            write_text(tmp_path / path, "new")
        with pytest.raises(WMTPError, match=f"{path}: cannot be written: ({reason})$"):
            check_can_write(tmp_path / path)
    check_can_write(tmp_path / "file")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WMTPError, match="file: cannot be written: No space left on device"):
        write_text(tmp_path / "file", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_directory_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "d", Path.rename
    with new_directory(path) as aside:
        (aside / "a").write_text("1")

    def fail(self: Path, target: Path) -> Path:
        if target == path and (self / "b").exists():
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"), new_directory(path) as aside:
        (aside / "b").write_text("2")
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_of_several_that_write_a_directory_at_once_one_is_left(tmp_path: Path) -> None:
    path, code = (
        tmp_path / "d",
        "\n".join(
            [
                "import pathlib, sys",
                "from wmtp.storage import new_directory",
                "for _ in range(50):",
                "    with new_directory(pathlib.Path(sys.argv[1])) as aside:",
                "        (aside / 'a').write_text('1')",
            ]
        ),
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


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


def fill(path: Path, text: str) -> None:
    unfinished(path).mkdir()
    (unfinished(path) / "a").write_text(text)


def test_a_directory_is_published_removed_and_pointed_at(tmp_path: Path) -> None:
    assert directories(tmp_path / "nowhere") == []
    path, pointer = tmp_path / "d", tmp_path / "latest"
    for text in ("1", "2"):
        fill(path, text)
        publish(path)
        point(pointer, path)
        assert (pointer / "a").read_text() == text
    assert directories(tmp_path) == [path]
    point(pointer, None)
    remove(path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_published_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "d", Path.rename
    fill(path, "1")
    publish(path)
    fill(path, "2")

    def fail(self: Path, target: Path) -> Path:
        if self == unfinished(path):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        publish(path)
    assert (path / "a").read_text() == "1"
    assert directories(tmp_path) == [path]


def test_what_a_kill_left_is_mended(tmp_path: Path) -> None:
    for name in ("replaced", ".replaced.old", ".gone.old", ".half.partial", ".away.removed", ".neighbour"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    (tmp_path / ".latest.new").symlink_to("nowhere")
    for _ in range(2):
        mend(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".neighbour", "gone", "replaced"]
    assert (tmp_path / "gone" / "name").read_text() == ".gone.old"
    assert (tmp_path / "replaced" / "name").read_text() == "replaced"


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
