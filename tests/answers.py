"""Rows with several answers to each prompt, some of them wrong, and what a recipe says to learn from them."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def answers(prompts: int = 30, each: int = 4) -> list[Row]:
    """Different answers of uneven length; from one to all but one of them are right, and a word tells which."""
    chance = random.Random(0)
    rows = []
    for i in range(prompts):
        right = {(i + k) % each for k in range(1 + i % (each - 1))}
        words = chance.sample(range(each), each)
        rows += [
            {
                "prompt": f"add {i} to {i % 7}: ",
                "completion": f"{i + i % 7 + (0 if k in right else 1 + k)}"
                + " so" * words[k]
                + (" surely" if k in right else " perhaps"),
                "is_correct": k in right,
                "number": i * each + k,
            }
            for k in range(each)
        ]
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reading(folder: Path, rows: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Write rows to train on and others to validate on; what a recipe says to read them."""
    train = write_rows(folder / "answers.jsonl", answers() if rows is None else rows)
    others = [row | {"prompt": f"now {row['prompt']}"} for row in answers(4)]
    validation = write_rows(folder / "others.jsonl", others)
    return {"data.source": str(train), "data.validation": str(validation)}
