"""Tables of the command line that belong to no report."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from wmtp.train.run import Plan


def console() -> Console:
    """Standard output; wide enough for tables where it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=120)


def plan_table(plan: "Plan") -> Table:
    """What a dry run found out."""
    table = Table("plan", "", box=None, pad_edge=False)
    for name, value in asdict(plan).items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    return table


def evaluation_table(result: Mapping[str, Any]) -> Table:
    """pass@k with standard errors, verdicts, and what drafting saved."""
    table = Table(f"{result['task']} ({result['protocol']})", "", box=None, pad_edge=False)
    for k, estimate in result["pass_at"].items():
        error = "" if estimate["stderr"] is None else f" ± {estimate['stderr']:.3f}"
        table.add_row(f"pass@{k}", f"{estimate['value']:.3f}{error}")
    table.add_row("problems", f"{result['problems']:,} × {result['samples_per_problem']}")
    table.add_row("verdicts", ", ".join(f"{n} {verdict}" for verdict, n in result["verdicts"].items()))
    decoding = result["decoding"]
    if decoding is not None:
        table.add_row("tokens per forward", f"{decoding['tokens_per_forward']:.2f}")
        table.add_row("acceptance by head", " ".join(f"{share:.2f}" for share in decoding["acceptance"]))
        ratio = decoding["seconds_greedy"] / decoding["seconds_speculative"]
        table.add_row("speculative against greedy", f"{ratio:.2f}× as fast ({decoding['dtype']})")
    return table
