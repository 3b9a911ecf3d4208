"""Tables of measurements other than pass@k, for the terminal and a run's page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from wmtp.errors import WMTPError
from wmtp.layout import HEADS_FILE, LM_EVAL_FILE, SPEED_FILE
from wmtp.report.format import ABSENT, number
from wmtp.storage import read_json

Result = Mapping[str, Any]


@dataclass(frozen=True)
class MeasureTable:
    """A table of text.

    Attributes:
        title: what was measured.
        columns: their headings.
        rows: cells, as many as there are columns.
        notes: lines that explain it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def heads_table(result: Result) -> MeasureTable:
    """Accuracy, cross-entropy and perplexity by head, from `evaluation-heads.json`."""
    rows = [
        [
            str(head["head"]),
            number(head["targets"], 0),
            *(number(head[key], 4) for key in ("top_1", "top_5", "ce")),
            number(head["perplexity"], 3),
        ]
        for head in result["heads"]
    ]
    return MeasureTable(
        "Heads on validation data",
        ["head", "targets", "top-1", "top-5", "CE, nats/token", "perplexity"],
        rows,
        [f"{number(result['documents'], 0)} documents, {result['checkpoint']}, {result['dtype']}"],
    )


def speed_table(result: Result) -> MeasureTable:
    """What drafting saves by batch size and heads used, from `evaluation-speed.json`."""
    return MeasureTable(
        "Self-speculative against greedy decoding",
        ["batch", "heads", "tokens/forward", "times as fast", "accepted", "right", "same", "near-ties"],
        [_speed_row(own, result["prompts"]) for own in result["measured"]],
        [
            f"{result['prompts']} prompts of {result['task']}, {result['checkpoint']}, {result['dtype']}, "
            f"{result['device']}, {result['threads']} threads",
            "times as fast: wall clock, median (lowest to highest) of interleaved repetitions",
            "accepted: share of drafts that follow accepted ones only; right: share of all drafts; by head, from 1",
            "same: prompts with the tokens of greedy decoding; near-ties: of the others, those that diverge where "
            "the dtype cannot tell two tokens apart",
        ],
    )


def _speed_row(own: Result, prompts: int) -> list[str]:
    ratios = [a / b for a, b in zip(own["greedy_seconds"], own["seconds"], strict=True)]
    return [
        str(own["batch_size"]),
        str(own["heads"]),
        number(own["tokens_per_forward"], 2),
        f"{own['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        *(
            " ".join(number(head[key], 2) for head in own["acceptance"])
            for key in ("conditional", "marginal")
        ),
        f"{own['same_as_greedy']} of {prompts}",
        f"{own['near_ties']} of {prompts - own['same_as_greedy']}",
    ]


def lm_eval_table(result: Result) -> MeasureTable:
    """Metrics of the tasks of lm-evaluation-harness, from `evaluation-lm-eval.json`."""
    rows = [
        [
            name,
            *(ABSENT if task[key] is None else str(task[key]) for key in ("version", "shots", "samples")),
            found["metric"] if found["filter"] == "none" else f"{found['metric']} ({found['filter']})",
            number(found["value"], 4),
            number(found["stderr"], 4),
        ]
        for name, task in result["tasks"].items()
        for found in task["metrics"]
    ]
    limit = "" if result["limit"] is None else f", at most {result['limit']} documents per task"
    return MeasureTable(
        "lm-evaluation-harness",
        ["task", "version", "shots", "documents", "metric", "value", "± stderr"],
        rows,
        [f"lm-eval {result['lm_eval']}, {result['checkpoint']}, {result['dtype']}{limit}"],
    )


MEASUREMENTS: Mapping[str, Callable[[Result], MeasureTable]] = {
    HEADS_FILE: heads_table,
    SPEED_FILE: speed_table,
    LM_EVAL_FILE: lm_eval_table,
}
"""Files of a run without pass@k, and the functions that show them."""


def read_measures(run: Path) -> list[MeasureTable]:
    """Tables of a run's measurements.

    Raises:
        WMTPError: a file is not what was written.
    """
    tables = []
    for name, table in MEASUREMENTS.items():
        if not (run / name).is_file():
            continue
        try:
            tables.append(table(read_json(run / name)))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise WMTPError(f"{run / name}: damaged; measure again with wmtp evaluate") from None
    return tables


def for_terminal(found: MeasureTable) -> Group:
    """The table with its title above and its notes below."""
    table = Table(box=None, pad_edge=False, title=found.title, title_justify="left")
    for place, column in enumerate(found.columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*map(Text, row))
    return Group(table, *(Text(note, style="dim") for note in found.notes))
