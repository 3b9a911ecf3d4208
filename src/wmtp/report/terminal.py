"""Results for a terminal, as rich renderables."""

from collections.abc import Callable

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wmtp.errors import WMTPError
from wmtp.experiment.results import ArmResult, Comparison, Difference, Interval, TokenSample
from wmtp.records import MetricsRecord
from wmtp.registry import did_you_mean
from wmtp.report.format import ABSENT, number, p_value, percent, points, visible
from wmtp.report.headline import headline, notes
from wmtp.report.heatmap import SATURATION, cells, strength
from wmtp.run import Run

NEUTRAL, ABOVE, BELOW = (235, 235, 235), (86, 160, 222), (238, 146, 66)


def comparison_table(comparison: Comparison) -> Table:
    """One row per arm, with the 95% interval on its second line; the headline and its notes follow."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=Text("\n".join(visible(line) for line in (headline(comparison), *notes(comparison)))),
        caption_justify="left",
        caption_style="",
    )
    table.add_column("arm", overflow="fold")
    for heading in (
        "pass@1",
        "diff.,\npoints",
        "p",
        "val. CE\nhead 0",
        "tok/\nfwd",
        "train\ntok/s",
        "train\ns",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    for arm in comparison.arms:
        table.add_row(*_arm_cells(arm))
    if comparison.reference is not None:
        reference = comparison.reference
        solved = ABSENT if reference.pass_at_1 is None else percent(reference.pass_at_1)
        ce, seconds = number(reference.validation_ce, 3), number(reference.seconds, 1)
        table.add_row("reference", solved, "not an arm", "", ce, "", "", seconds, style="dim")
    return table


def run_summary(run: Run) -> Table:
    """Where a run stands: steps, tokens, time, cross-entropy by head, its critic, evaluations.

    Raises:
        WMTPError: the metrics are absent or empty, or one of the files cannot be read.
    """
    metrics = run.metrics
    if not metrics.train:
        raise WMTPError(f"{run.directory / 'metrics.jsonl'}: no training step was logged yet")
    last = metrics.train[-1]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("step", number(last.step, 0))
    table.add_row("tokens", number(last.tokens, 0))
    table.add_row("training seconds", number(last.seconds, 1))
    table.add_row("training CE by head", _ce(last))
    if metrics.validation:
        validation = metrics.validation[-1]
        table.add_row("validation CE by head", f"{_ce(validation)} (step {number(validation.step, 0)})")
    critic = run.critic
    if critic is not None:
        held_out = f"on {number(critic.held_out, 0)} held-out documents"
        table.add_row("critic", f"{visible(critic.objective)}, AUC {number(critic.auc, 3)} {held_out}")
        steps = f"{number(critic.best_step, 0)} of {number(critic.steps, 0)}"
        table.add_row("critic's best step", f"{steps}, {number(critic.seconds, 1)} training seconds")
    for evaluation in run.evaluations:
        shares = ", ".join(
            f"pass@{k} {percent(found.value)}{' (best temperature)' if found.best_of else ''}"
            for k, found in evaluation.pass_at.items()
        )
        table.add_row(visible(evaluation.task), f"{shares} of {evaluation.problems} problems")
        for line in evaluation.left_out:
            table.add_row("", f"left out: {visible(line)}")
    return table


def render_token_weights(sample: TokenSample, arm: str) -> Text:
    """The sample's text, each token on the colour of its weight, planted errors underlined.

    Raises:
        WMTPError: the sample has no weights of that arm.
    """
    if arm not in sample.weights:
        raise WMTPError(f"no weights of arm {arm!r} here; {did_you_mean(arm, list(sample.weights))}")
    text = Text()
    for cell in cells(sample, arm):
        style = Style(dim=True) if cell.strength is None else _style(cell.strength)
        shown = cell.text.replace("\n", "↵\n") if not cell.text.strip() else cell.text
        text.append(shown, style + Style(underline=cell.planted, bold=cell.planted))
    return text


def weight_legend() -> Text:
    """Legend for the colours of `render_token_weights`."""
    text = Text("weight ")
    for weight, label in (
        (0.0, "0"),
        (0.5, "0.5"),
        (1.0, "1"),
        (2.0, "2"),
        (SATURATION, f"≥ {SATURATION:g}"),
    ):
        text.append(f" {label} ", _style(strength(weight)))
    text.append("  ")
    text.append("planted error", Style(underline=True, bold=True))
    return text


def _arm_cells(arm: ArmResult) -> list[Text]:
    difference, p = Text("baseline", style="dim"), Text()
    if arm.difference is not None:
        found = arm.difference
        difference = _two_lines(points(found.value), _bounds(found, points))
        p = Text(p_value(found.p))
    share, ce = arm.pass_at_1, arm.validation_ce
    return [
        Text(visible(arm.name), style="bold"),
        _two_lines(percent(share.value), _bounds(share, percent)),
        difference,
        p,
        _two_lines(number(ce.value, 3), "" if ce.high is None else f"±{number(ce.high - ce.value, 3)}"),
        Text(number(arm.tokens_per_forward, 2)),
        Text(number(arm.training_tokens_per_second, 0)),
        Text(number(arm.training_seconds, 1)),
    ]


def _bounds(found: Interval | Difference, written: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{written(found.low).removesuffix('%')}..{written(found.high).removesuffix('%')}"


def _two_lines(value: str, bounds: str) -> Text:
    return Text.assemble(value, "\n", (bounds, "dim")) if bounds else Text(value)


def _ce(record: MetricsRecord) -> str:
    return "  ".join(number(value, 3) for value in record.ce)


def _style(amount: float) -> Style:
    if abs(amount) < 0.05:
        return Style()
    hue = ABOVE if amount > 0 else BELOW
    red, green, blue = (
        round(n + (h - n) * (0.25 + 0.75 * abs(amount))) for n, h in zip(NEUTRAL, hue, strict=True)
    )
    return Style(color="black", bgcolor=f"rgb({red},{green},{blue})")
