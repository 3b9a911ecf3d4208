"""Tables that only the command line shows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from wmtp.experiment.diagnose import Diagnosis
    from wmtp.train.run import Plan


def console() -> Console:
    """Console on standard output, 120 columns wide where that is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=120)


def plan_table(plan: "Plan") -> Table:
    """The plan that a dry run found."""
    table = Table("plan", "", box=None, pad_edge=False)
    for name, value in asdict(plan).items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    return table


def diagnosis_table(diagnoses: "Sequence[Diagnosis]") -> Table:
    """Table by scorer: how well low weights mark planted errors, and rank correlations with the other scorers."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    names = [d.scorer for d in diagnoses]
    caption = ["AUC by head: 1 is perfect, 0.5 is chance; first: head 0, first token of each error only"]
    caption += ["ρ n: rank correlation with the weights of scorer n"] if len(names) > 1 else []
    table = Table(box=None, pad_edge=False, caption="\n".join(caption), caption_justify="left")
    table.add_column("scorer", overflow="fold")
    aucs = [f"AUC {h}" for h in range(len(diagnoses[0].auc))] + ["first"]
    correlations = [f"ρ {n}" for n in range(1, len(names) + 1)] if len(names) > 1 else []
    for column in (*aucs, "w planted", "w others", *correlations):
        table.add_column(column, justify="right", no_wrap=True)
    for n, d in enumerate(diagnoses, start=1):
        others = ["" if name == d.scorer else shown(d.correlation[name]) for name in names if correlations]
        cells = (*map(shown, d.auc), shown(d.first[0]), shown(d.planted), shown(d.others), *others)
        table.add_row(f"{n} {d.scorer}", *cells)
    return table


def evaluation_table(result: Mapping[str, Any]) -> Table:
    """Table of pass@k with standard errors, n@k, exact match, verdicts, and tokens per forward."""
    table = Table(f"{result['task']} ({result['protocol']})", "", box=None, pad_edge=False)
    for k, estimate in result["pass_at"].items():
        table.add_row(f"pass@{k}", _estimate(estimate))
    for k, estimate in result.get("base_pass_at", {}).items():
        table.add_row(f"pass@{k}, base tests only", _estimate(estimate))
    for name, estimate in result.get("n_at_k", {}).items():
        table.add_row(name, _estimate(estimate))
    if "exact_match" in result:
        table.add_row("exact match", _estimate(result["exact_match"]))
    each = result["samples_per_problem"]
    samples = f"{each[0]} to {each[1]}" if isinstance(each, list) else f"{each:,}"
    temperatures = result.get("temperature") or []
    table.add_row("problems × samples", f"{result['problems']:,} × {samples}" + _times(len(temperatures)))
    table.add_row("verdicts", ", ".join(f"{n:,} {verdict}" for verdict, n in result["verdicts"].items()))
    for line in result["left_out"]:
        table.add_row("left out", line)
    if unchecked := result["solutions"]["unchecked"]:
        table.add_row(
            "unchecked", f"{unchecked:,} of {result['problems']:,} problems have no solution to check"
        )
    if result["stops"].get("length"):
        table.add_row("cut by length", _cut_by_length(result))
    if result["syntax_errors"]:
        table.add_row("syntax errors", _syntax_errors(result))
    if result["judged_inside"]:
        table.add_row(
            "judged inside the sandbox", f"{_listed(result['judged_inside'])}: these verdicts can be forged"
        )
    if several := result.get("several_answers"):
        table.add_row("several right answers", f"{_listed(several)}: only the one in the tests passes")
    decoding = result["decoding"]
    if decoding is not None:
        table.add_row(
            "tokens per forward", f"{decoding['tokens_per_forward']:.2f} (greedy, {decoding['dtype']})"
        )
        table.add_row("acceptance by head", " ".join(f"{share:.2f}" for share in decoding["acceptance"]))
    table.add_row("sandbox", str(result["sandbox"]["level"]))
    return table


def _cut_by_length(result: Mapping[str, Any]) -> str:
    count = f"{result['stops']['length']:,} of {sum(result['stops'].values()):,}"
    return f"{count} cut at max_new_tokens {result['settings']['max_new_tokens']:,}"


def _syntax_errors(result: Mapping[str, Any]) -> str:
    count = f"{result['syntax_errors']:,} of {sum(result['verdicts'].values()):,} samples"
    remedies = result["remedies"]
    return f"{count}, most of them; try {', '.join(remedies)}" if remedies else count


def _estimate(estimate: Mapping[str, Any]) -> str:
    error = "" if estimate["stderr"] is None else f" ± {estimate['stderr']:.3f}"
    shown = f"{estimate['value']:.3f}{error}"
    if "best_of" not in estimate:
        return shown
    temperatures = ", ".join(f"{t:g}" for t in estimate["best_of"])
    return f"{shown} at temperature {estimate['temperature']:g}, the best of {temperatures} (an oracle)"


def _times(temperatures: int) -> str:
    return f" × {temperatures} temperatures" if temperatures > 1 else ""


def _listed(ids: Sequence[str]) -> str:
    """How many problems, and the first few of them."""
    shown = ", ".join(ids[:5])
    return f"{len(ids)} problems ({shown}{', …' if len(ids) > 5 else ''})"
