import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from refusals import refusal
from wmtp.config import DataConfig, FieldsConfig
from wmtp.data.file_splits import Splits, file_rows

QUESTIONS = FieldsConfig(prompt="q", completion="a")


def write(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(*names: str) -> list[dict[str, str]]:
    return [{"text": name} for name in names]


def read(source: str, **changes: Any) -> Splits:
    return file_rows(DataConfig(source=source, **changes))


def found(splits: Splits) -> list[list[str]]:
    return [[row["text"] for row in own] for own in (splits.train, splits.validation, splits.test)]


def test_files_named_by_split_are_splits() -> None:
    write("d/train.jsonl", texts("a", "b"))
    write("d/valid.jsonl", texts("c"))
    write("d/test.jsonl", texts("d"))
    splits = read("d")
    assert found(splits) == [["a", "b"], ["c"], ["d"]]
    assert splits.notes == [
        "d: 1 rows of files named test stay apart",
        "d: 1 validation rows come from files of that name, not by data.validation 0.02",
    ]
    assert found(read("d/*.jsonl")) == found(splits)
    assert found(read("d/t*.jsonl", validation="d/valid.jsonl")) == found(splits)


def test_shards_in_folders_as_hubs_lay_them_out() -> None:
    for shard, rows in enumerate((texts("a", "b"), texts("c"))):
        write(f"d/data/train-0000{shard}-of-00002.parquet", rows)
    write("d/data/validation-00000-of-00001.parquet", texts("v"))
    write("d/data/test-00000-of-00001.parquet", texts("t"))
    write("d/dataset_infos.json", [{"about": "it"}])
    write("d/.cache/train.jsonl", texts("hidden"))
    Path("d/README.md").write_text("about")
    assert found(read("d")) == [["a", "b", "c"], ["v"], ["t"]]
    folders = [("e/train/1.jsonl", "a"), ("e/dev/1.jsonl", "v"), ("e/test/1.jsonl", "t")]
    for name, text in folders:
        write(name, texts(text))
    assert found(read("e")) == [["a"], ["v"], ["t"]]


def test_a_share_of_training_is_held_out_where_no_file_is_validation() -> None:
    write("d/train.jsonl", texts(*"abcdefghij"))
    write("d/test.jsonl", texts("t", "a "))
    train, validation, test = found(read("d", validation=0.2))
    assert (len(train), len(validation), test) == (7, 2, ["t", "a "])
    assert sorted(train + validation) == list("bcdefghij")


def test_files_without_split_names_are_all_learnt_from() -> None:
    write("d/b.jsonl", texts("b"))
    write("d/a/a.jsonl", texts("a"))
    write("v.jsonl", texts("v"))
    assert found(read("d", validation="v.jsonl")) == [["a", "b"], ["v"], []]


def test_files_that_are_named_one_by_one_are_taken_at_the_users_word() -> None:
    write("d/test-1.jsonl", texts("a"))
    write("d/test-2.jsonl", texts("b"))
    write("v.jsonl", texts("v"))
    for source, rows in (("d/test-1.jsonl", ["a"]), ("d/test-*.jsonl", ["a", "b"])):
        assert found(read(source, validation="v.jsonl")) == [rows, ["v"], []]


def test_validation_named_inside_the_source_is_not_learnt_from() -> None:
    write("d/a.jsonl", texts("a", "c"))
    write("d/b.jsonl", texts("b", "c", "d"))
    splits = read("d", validation="d/b.jsonl")
    assert found(splits) == [["a"], ["b", "c", "d"], []]
    assert splits.notes == ["training: left out 1 of 2 rows, which are in the validation or test split too"]
    write("e/train.jsonl", texts("a"))
    write("e/test.jsonl", texts("t"))
    write("e/dev.jsonl", texts("v"))
    assert found(read("e", validation="e/test.jsonl")) == [["a"], ["t"], []]
    assert found(read("e/train.jsonl", validation="e")) == [["a"], ["v"], []]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["test.jsonl"], {}, "data.source d: holds no training file, only d/test.jsonl"),
        (
            ["train.jsonl", "more.jsonl"],
            {},
            "d/more.jsonl: belongs to no split, and other files do; name it like train-1, validation-1 or test-1, "
            "or move it away",
        ),
        (
            ["a.jsonl", "b.csv"],
            {},
            "d/b.csv: cannot be read; make it one of .jsonl, .jsonl.gz, .json, .parquet, or move it away",
        ),
        (
            ["a.jsonl", "b.jsonl.zst"],
            {},
            "d/b.jsonl.zst: cannot be read; make it one of .jsonl, .jsonl.gz, .json, .parquet, or move it away",
        ),
        (
            ["train.jsonl"],
            {"validation": "d"},
            "data.validation d: holds no validation file, only d/train.jsonl",
        ),
        (
            ["a.jsonl"],
            {},
            "data.source d: all 1 rows have the same text, so none can be held out; name a file as ",
        ),
        (
            ["train.jsonl", "test.jsonl"],
            {},
            "d/train.jsonl, line 1: every training row is in the validation or test",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(files: list[str], options: Any, message: str) -> None:
    for file in files:
        write(f"d/{file}", texts("same"))
    assert refusal(read, "d", **options).startswith(message)


def test_rows_that_are_all_blank_are_no_equal_rows() -> None:
    write("a.jsonl", texts("", " ", "\n"))
    assert refusal(read, "a.jsonl") == "data.source a.jsonl: all 3 rows are blank; nothing to learn"


def test_equal_texts_stand_on_one_side() -> None:
    write("rows.jsonl", texts(*(f"text  {i % 10}\n" + " " * (i // 50) for i in range(100))))
    splits = read("rows.jsonl", validation=0.1)
    train, validation = ({row["text"].strip() for row in own} for own in (splits.train, splits.validation))
    assert (len(splits.train), len(splits.validation), len(train), len(validation)) == (90, 10, 9, 1)
    assert not train & validation
    assert splits.notes == []


def test_a_share_that_cannot_be_met_is_told() -> None:
    write("rows.jsonl", [{"q": str(i % 5), "a": str(i)} for i in range(100)])
    splits = read("rows.jsonl", validation=0.02, fields=QUESTIONS)
    assert len(splits.validation) == 20
    assert splits.notes == [
        "data.validation 0.02: holds out 20 of 100 rows (20.0%), because rows with the same q stay together"
    ]


def test_rows_without_a_prompt_are_held_out_by_their_completion() -> None:
    write("rows.jsonl", [{"q": "", "a": str(i % 20)} for i in range(100)])
    splits = read("rows.jsonl", validation=0.1, fields=QUESTIONS)
    assert (len(splits.train), len(splits.validation)) == (90, 10)
    assert not {row["a"] for row in splits.train} & {row["a"] for row in splits.validation}


def test_other_answers_to_validated_prompts_are_learnt_where_a_file_says_so() -> None:
    write("t.jsonl", [{"q": "1", "a": "x"}, {"q": "1", "a": "y"}, {"q": "2", "a": "x"}])
    write("v.jsonl", [{"q": "1", "a": " x"}])
    splits = read("t.jsonl", validation="v.jsonl", fields=QUESTIONS)
    assert [(row["q"], row["a"]) for row in splits.train] == [("1", "y"), ("2", "x")]
