import gzip
import json
import sysconfig

import pyarrow
import pyarrow.parquet
import pytest

from wmtp.data.python_source import python_file_rows, python_source_rows
from wmtp.data.rows import Row, keep_where
from wmtp.data.sources import find_files, read_rows
from wmtp.errors import WMTPError

ROWS = [
    {"id": 1, "text": "añ b", "ok": True},
    {"id": 2, "text": "", "ok": False},
    {"id": 3, "text": "c", "ok": True},
]


def read_file_rows(path):
    (files,) = find_files(path).values()
    return read_rows(files, path)


def write(folder, name, rows=ROWS):
    path = folder / name
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if name.endswith(".jsonl"):
        path.write_text(lines, encoding="utf-8")
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
class TestEveryFormat:
    def test_gives_the_rows_in_order(self, tmp_path, name):
        assert read_file_rows(write(tmp_path, name)) == ROWS

    def test_refuses_a_damaged_file(self, tmp_path, name):
        path = tmp_path / name
        write(tmp_path, name)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(WMTPError, match=name):
            read_file_rows(str(path))

    def test_refuses_an_empty_data_set(self, tmp_path, name):
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(
                pyarrow.table({"id": pyarrow.array([], pyarrow.int64())}), tmp_path / name
            )
        else:
            write(tmp_path, name, rows=[])
        with pytest.raises(WMTPError, match=f"{name}: holds no rows"):
            read_file_rows(str(tmp_path / name))


def test_json_may_hold_the_rows_as_data(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    assert read_file_rows(str(tmp_path / "a.json")) == ROWS


def test_json_lines_may_have_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xe2\x80\xa8"}')
    assert read_file_rows(str(tmp_path / "a.jsonl")) == [{"a": 1}, {"a": "\u2028"}]


class TestSeveralFiles:
    def test_a_folder_gives_its_data_files_in_sorted_order(self, tmp_path):
        write(tmp_path, "b.jsonl", ROWS[1:])
        write(tmp_path, "a.parquet", ROWS[:1])
        (tmp_path / "README.md").write_text("about the data")
        assert read_file_rows(str(tmp_path)) == ROWS

    def test_a_glob_gives_what_it_matches_in_sorted_order(self, tmp_path):
        write(tmp_path, "part-2.jsonl", ROWS[1:])
        write(tmp_path, "part-1.jsonl", ROWS[:1])
        write(tmp_path, "other.jsonl")
        assert read_file_rows(str(tmp_path / "part-*.jsonl")) == ROWS

    def test_a_folder_without_data_files_is_refused(self, tmp_path):
        (tmp_path / "README.md").write_text("about the data")
        with pytest.raises(WMTPError, match=r"holds no \.jsonl"):
            read_file_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "a.jsonl, line 3: should be an object, not list"),
        ("a.jsonl", b'{"a": "\xff"}', "a.jsonl, line 1: not JSON"),
        ("a.json", '[{"a": 1}, 2]', "a.json, row 2: should be an object, not int"),
        ("a.json", '{"rows": []}', "a.json: should hold a list of objects"),
        ("a.json", '{"data": 3}', "a.json: should hold a list of objects"),
        ("a.json", "[", "a.json: not JSON"),
        ("a.parquet", "PAR1", "a.parquet: cannot be read"),
        ("a.jsonl.gz", '{"a": 1}', "a.jsonl.gz: cannot be read"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl: is UTF-16; save it as UTF-8"),
        (
            "a.jsonl",
            '{"a": 1, "b": {"c": 1, "c": 2}}',
            "a.jsonl, line 1: the key 'c' occurs twice in an object",
        ),
        ("a.jsonl.zst", "x", r"a.jsonl.zst: should be one of \.jsonl"),
        ("a.csv", "a\n1\n", r"a.csv: should be one of \.jsonl, \.jsonl\.gz, \.json, \.parquet"),
    ],
)
def test_bad_content_is_refused_with_its_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WMTPError, match=message) as caught:
        read_file_rows(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"), [("a.jsonl", "line 3"), ("a.json", "row 3"), ("a.parquet", "row 3")]
)
def test_rows_know_their_place(tmp_path, name, place):
    path = write(tmp_path, name)
    assert read_file_rows(path)[2].place == f"{path}, {place}"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WMTPError, match=r"nowhere\.jsonl: no such file"):
        read_file_rows(str(tmp_path / "nowhere.jsonl"))


def test_keep_where_filters_rows_and_names_their_place():
    rows = [Row(row, f"a.jsonl, line {number}") for number, row in enumerate(ROWS, start=4)]
    assert keep_where(rows, {"ok": False}, "here") == ROWS[1:2]
    assert keep_where(rows, {}, "here") == ROWS
    del rows[1]["ok"]
    with pytest.raises(
        WMTPError, match=r"a\.jsonl, line 5: no field 'ok', which data.where asks for; it has id, text"
    ):
        keep_where(rows, {"ok": False}, "here")
    with pytest.raises(WMTPError, match=r"here: data\.where .* leaves none"):
        keep_where(rows, {"id": 9}, "here")


class TestPythonFiles:
    @pytest.fixture
    def library(self, tmp_path):
        files = {
            "b.py": b"x = 1\n",
            "a/c.py": b"y = 2\n",
            "a/copy.py": b"x = 1\n",
            "empty.py": b" \n",
            "latin.py": "# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"),
            "broken.py": b"s = '\xff'\n",
            "cookie.py": b"# coding: no-such-codec\n",
            "a/tests/t.py": b"assert True\n",
            "test/u.py": b"assert 1\n",
            "site-packages/p.py": b"z = 3\n",
            "notes.txt": b"no Python",
        }
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return tmp_path

    def test_takes_each_content_once_decoded_as_declared(self, library):
        rows = python_file_rows(library, include_tests=False)
        assert [row["path"] for row in rows] == ["a/c.py", "a/copy.py", "latin.py"]
        assert rows[2]["text"].endswith("name = 'é'\n")

    def test_takes_tests_when_asked(self, library):
        paths = [row["path"] for row in python_file_rows(library, include_tests=True)]
        assert paths == ["a/c.py", "a/copy.py", "a/tests/t.py", "latin.py", "test/u.py"]

    def test_counts_what_does_not_decode(self, library, caplog):
        python_file_rows(library, include_tests=False)
        assert "left out 2 files" in caplog.text


class TestPythonSource:
    def test_is_the_standard_library_split_by_file(self):
        train, validation = python_source_rows(validation=0.1)
        paths = {row["path"] for row in train}, {row["path"] for row in validation}
        assert "json/decoder.py" in paths[0] | paths[1]
        assert not paths[0] & paths[1]
        assert not {row["text"] for row in train} & {row["text"] for row in validation}
        assert not any("site-packages" in path or "tests/" in path for path in paths[0] | paths[1])
        assert 0.05 < len(validation) / (len(train) + len(validation)) < 0.15
        for rows in (train, validation):
            assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)

    def test_depends_on_the_seed_only(self):
        first = python_source_rows(seed=1)
        assert first == python_source_rows(seed=1)
        assert first[1] != python_source_rows(seed=2)[1]

    def test_no_share_keeps_everything(self):
        train, validation = python_source_rows(validation=0.0)
        assert validation == []
        assert len(train) > 300

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_refuses_a_share_out_of_range(self, share):
        with pytest.raises(WMTPError, match=r"data\.validation"):
            python_source_rows(validation=share)

    def test_refuses_a_library_without_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
        with pytest.raises(WMTPError, match="leaves a split empty"):
            python_source_rows()
