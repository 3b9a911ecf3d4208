"""Measurements beside pass@k: what is shown of them, and that they are not taken for evaluations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_parser import Page
from rich.console import Console
from synthetic_comparison import write_run

from wmtp.config import Config, Recipe
from wmtp.errors import WMTPError
from wmtp.experiment.model_registry import evaluated_run
from wmtp.report.html import write_run_report
from wmtp.report.measures import MeasureTable, for_terminal, read_measures
from wmtp.report.terminal import run_summary
from wmtp.run import Run
from wmtp.tracking.names import evaluation_metrics

HEADS = {
    "checkpoint": "step-00000040",
    "documents": 1234,
    "data": "0" * 64,
    "dtype": "float32",
    "heads": [
        {"head": 0, "targets": 5678, "top_1": 0.75, "top_5": 0.9375, "ce": 1.25, "perplexity": 3.490343},
        {"head": 1, "targets": 0, "top_1": None, "top_5": None, "ce": None, "perplexity": None},
    ],
}
SPEED = {
    "checkpoint": "step-00000040",
    "task": "tinycode",
    "protocol": "tinycode-greedy",
    "prompts": 20,
    "max_new_tokens": 64,
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "measured": [
        {
            "batch_size": 8,
            "heads": 3,
            "tokens": 400,
            "tokens_per_forward": 2.5,
            "acceptance": [
                {"head": 1, "marginal": 0.875, "drafts": 160, "conditional": 0.875, "checked": 160},
                {"head": 2, "marginal": 0.5, "drafts": 150, "conditional": None, "checked": 0},
            ],
            "same_as_greedy": 18,
            "near_ties": 1,
            "seconds": [1.0, 2.0, 4.0],
            "greedy_seconds": [2.0, 2.0, 6.0],
            "ratio": 1.5,
        }
    ],
}
LM_EVAL = {
    "checkpoint": "step-00000040",
    "lm_eval": "0.4.13",
    "dtype": "float32",
    "limit": 50,
    "tasks": {
        "<toy>": {
            "version": 2.0,
            "shots": 5,
            "samples": 50,
            "hash": "0" * 64,
            "metrics": [
                {
                    "metric": "exact_match",
                    "filter": "strict",
                    "value": 0.25,
                    "stderr": None,
                    "higher_is_better": True,
                }
            ],
        }
    },
}
MEASURED: dict[str, Any] = {
    "evaluation-heads.json": HEADS,
    "evaluation-speed.json": SPEED,
    "evaluation-lm-eval.json": LM_EVAL,
}
CELLS = [
    [
        ["0", "5,678", "0.7500", "0.9375", "1.2500", "3.490"],
        ["1", "0", "—", "—", "—", "—"],
    ],
    [["8", "3", "2.50", "1.50 (1.00 to 2.00)", "0.88 —", "0.88 0.50", "18 of 20", "1 of 2"]],
    [["<toy>", "2.0", "5", "50", "exact_match (strict)", "0.2500", "—"]],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run-7", np.random.default_rng(0), "rho1", 0, steps=40)
    for name, result in MEASURED.items():
        (tmp_path / "run-7" / name).write_text(json.dumps(result))
    return tmp_path / "run-7"


def test_the_tables_hold_what_was_measured(run: Path) -> None:
    tables = read_measures(run)
    assert [table.rows for table in tables] == CELLS
    assert "1,234 documents" in tables[0].notes[0]
    assert "at most 50 documents per task" in tables[2].notes[0]


def test_a_runs_page_shows_them(run: Path) -> None:
    page = Page(write_run_report(Run(run, Recipe(), Config())).read_text())
    shown = [table[1:] for table in page.tables]
    assert all(cells in shown for cells in CELLS)
    assert "20 prompts of tinycode" in page.text


def test_a_run_without_them_has_no_tables(run: Path) -> None:
    for name in MEASURED:
        (run / name).unlink()
    assert read_measures(run) == []


def test_a_terminal_shows_every_cell_and_note() -> None:
    table = MeasureTable("title", ["one", "two"], [["a", "b c"]], ["why", "and how"])
    console = Console(width=60)
    with console.capture() as captured:
        console.print(for_terminal(table))
    for word in ("title", "one", "two", "a", "b c", "why", "and how"):
        assert word in captured.get()


def test_they_are_no_evaluations(run: Path) -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(run_summary(Run(run, Recipe(), Config())))
    assert captured.get().count("pass@1") == 1
    assert evaluated_run(run).task == "tinycode"
    for result in MEASURED.values():
        assert evaluation_metrics(result) == {}


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / "evaluation-speed.json").write_text('{"prompts": 3}')
    with pytest.raises(WMTPError, match=r"evaluation-speed\.json: damaged; measure again"):
        read_measures(run)
