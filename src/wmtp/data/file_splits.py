"""Splits rows of files so that no two splits share content."""

from dataclasses import dataclass, field
from pathlib import Path

from wmtp.config import DataConfig, FieldsConfig
from wmtp.data.documents import content, documents_from, question
from wmtp.data.rows import Row
from wmtp.data.sources import Files, find_files, read_rows
from wmtp.data.splits import group_numbers, held_out
from wmtp.errors import WMTPError


@dataclass
class Splits:
    """Rows by split, and notes for the user about how they came about."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    notes: list[str] = field(default_factory=list)


def file_rows(data: DataConfig) -> Splits:
    """The splits of `data.source`: as files name them, as `data.validation` names one, or a share held out.

    Rows of equal content are in one split only: those of the test split are left out of the others, and those of the
    validation split out of training. Rows with equal prompts are held out together.

    Raises:
        WMTPError: no such file or one that cannot be read, no training rows, or nothing that can be held out.
    """
    files = find_files(data.source)
    validation = _validation_files(data)
    files = {split: [file for file in own if file not in validation] for split, own in files.items()}
    if not any(files.get(split) for split in ("train", None)):
        raise WMTPError(f"data.source {data.source}: holds no training file, only {_names(files)}")
    train = read_rows([*files.get("train", []), *files.get(None, [])], data.source)
    test = read_rows(files["test"], data.source) if files.get("test") else []
    notes = [f"{data.source}: {len(test):,} rows of files named test stay apart"] if test else []
    if not validation and not files.get("validation"):
        return _hold_out(_without_copies(Splits(train, [], test, notes), data.fields), data)
    held = read_rows(sorted(validation) or files["validation"], str(data.validation))
    splits = Splits(train, held, test, notes)
    if not validation:
        splits.notes.append(
            f"{data.source}: {len(held):,} validation rows come from files of that name, not by data.validation "
            f"{data.validation}"
        )
    elif files.get("validation"):
        unused = len(files["validation"])
        splits.notes.append(f"{data.source}: data.validation goes before {unused} files named validation")
    return _without_copies(splits, data.fields)


def _validation_files(data: DataConfig) -> set[Path]:
    """The files that `data.validation` names, if any; of a folder with splits, those of validation."""
    if not isinstance(data.validation, str):
        return set()
    found = find_files(data.validation)
    chosen = found.get(None) or found.get("validation")
    if not chosen:
        raise WMTPError(f"data.validation {data.validation}: holds no validation file, only {_names(found)}")
    return set(chosen)


def _names(files: Files) -> str:
    return ", ".join(str(file) for own in files.values() for file in own) or "those of data.validation"


def _hold_out(splits: Splits, data: DataConfig) -> Splits:
    """Hold out training rows: all answers to some of the prompts, or all copies of some plain texts."""
    share, rows, same = data.validation, splits.train, data.fields.text or data.fields.prompt
    assert isinstance(share, float)
    groups = group_numbers([question(row, data.fields) for row in rows])
    if groups.max() == 0:
        documents = documents_from(rows, data.fields)  # which says so where the field is not there
        if all(document.is_blank for document in documents):
            raise WMTPError(f"data.source {data.source}: all {len(rows)} rows are blank; nothing to learn")
        raise WMTPError(
            f"data.source {data.source}: all {len(rows)} rows have the same {same}, so none can be held out; "
            f"name a file as data.validation"
        )
    is_held_out = held_out(groups, share).tolist()
    notes = list(splits.notes)
    held = sum(is_held_out)
    if abs(held - share * len(rows)) >= 1:
        notes.append(
            f"data.validation {share}: holds out {held:,} of {len(rows):,} rows ({held / len(rows):.1%}), "
            f"because rows with the same {same} stay together"
        )
    learnt = [row for row, out in zip(rows, is_held_out, strict=True) if not out]
    return Splits(
        learnt, [row for row, out in zip(rows, is_held_out, strict=True) if out], splits.test, notes
    )


def _without_copies(splits: Splits, fields: FieldsConfig) -> Splits:
    """Keep each content in one split only: test has precedence over validation, and validation over training."""
    notes = list(splits.notes)

    def without(rows: list[Row], known: set[tuple[str, ...]], name: str, others: str) -> list[Row]:
        kept = [row for row in rows if content(row, fields) not in known]
        if rows and not kept:
            raise WMTPError(f"{rows[0].place}: every {name} row is in {others} too")
        if len(kept) < len(rows):
            notes.append(
                f"{name}: left out {len(rows) - len(kept):,} of {len(rows):,} rows, which are in {others} too"
            )
        return kept

    known = {content(row, fields) for row in splits.test}
    validation = without(splits.validation, known, "validation", "the test split")
    known |= {content(row, fields) for row in validation}
    train = without(splits.train, known, "training", "the validation or test split")
    return Splits(train, validation, splits.test, notes)
