"""Tables of the command line that belong to no report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from wmtp.experiment.diagnose import Diagnosis
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


def diagnosis_table(diagnoses: "Sequence[Diagnosis]") -> Table:
    """By scorer: how well low weight points to planted errors, and how far the weights agree with others'."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    names = [d.scorer for d in diagnoses]
    explained = ["AUC by head: 1 is perfect, 0.5 is chance"]
    explained += ["ρ n: rank correlation with the weights of scorer n"] if len(names) > 1 else []
    table = Table(box=None, pad_edge=False, caption="\n".join(explained), caption_justify="left")
    table.add_column("scorer", overflow="fold")
    aucs = [f"AUC {h}" for h in range(len(diagnoses[0].auc))]
    correlations = [f"ρ {n}" for n in range(1, len(names) + 1)] if len(names) > 1 else []
    for column in (*aucs, "w planted", "w others", *correlations):
        table.add_column(column, justify="right", no_wrap=True)
    for n, d in enumerate(diagnoses, start=1):
        others = ["" if name == d.scorer else shown(d.correlation[name]) for name in names if correlations]
        cells = (*map(shown, d.auc), shown(d.planted), shown(d.others), *others)
        table.add_row(f"{n} {d.scorer}", *cells)
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
