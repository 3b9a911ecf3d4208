"""Writes the sentences above the table from the numbers alone."""

from wmtp.experiment.results import ArmResult, Comparison, Difference
from wmtp.report.format import listed, p_value, percent, percent_range, points, points_range

FEW_SEEDS = 5


def headline(comparison: Comparison) -> str:
    """Say who passed most and whether that differs from the baseline.

    "Differs" means that the 95% interval of the paired difference does not contain 0; otherwise the sentence
    says that no difference is shown. Arms are named by their result, never by what they are.
    """
    baseline = comparison.baseline_arm
    if not comparison.other_arms:
        return (
            f"{baseline.name} solved {percent(baseline.pass_at_1.value)} of {comparison.problems} problems "
            f"(95% interval {percent_range(baseline.pass_at_1)}); there is no other arm to compare it with."
        )
    highest = max(arm.pass_at_1.value for arm in comparison.other_arms)
    leaders = [arm for arm in comparison.other_arms if arm.pass_at_1.value == highest]
    if len(leaders) > 1:
        return _tie(leaders, comparison)
    return _leader(leaders[0], comparison)


def notes(comparison: Comparison) -> list[str]:
    """Qualify the headline: every arm against the baseline, and what the intervals cover."""
    count = len(comparison.other_arms)
    sentences = [_every_arm(comparison)] if count > 1 else []
    sentences.append(_seeds(len(comparison.seeds)))
    if count > 1:
        sentences.append(f"Intervals and p values are not corrected for making {count} comparisons.")
    return sentences


def separated(difference: Difference) -> bool:
    """Whether the interval of a difference excludes 0."""
    return difference.low > 0 or difference.high < 0


def _leader(arm: ArmResult, comparison: Comparison) -> str:
    baseline, difference = comparison.baseline_arm, arm.difference
    assert difference is not None
    shares = (
        f"{arm.name} solved {percent(arm.pass_at_1.value)} of {comparison.problems} problems, "
        f"the baseline {baseline.name} {percent(baseline.pass_at_1.value)}"
    )
    gap = (
        f"difference {points(difference.value)} points, 95% interval {points_range(difference)}, "
        f"p {_p(difference.p)}"
    )
    if not separated(difference):
        return f"No difference shown between the baseline and the highest other arm: {shares} ({gap})."
    if difference.value > 0:
        return f"{shares}: {gap}."
    return f"No arm solved more than the baseline. The nearest: {shares} ({gap})."


def _tie(leaders: list[ArmResult], comparison: Comparison) -> str:
    baseline = comparison.baseline_arm
    gaps = [f"{arm.name} {points_range(arm.difference)}" for arm in leaders if arm.difference is not None]
    shown = [arm for arm in leaders if arm.difference is not None and separated(arm.difference)]
    start = "" if shown else "No difference shown between the baseline and the highest other arms: "
    return (
        f"{start}{listed([arm.name for arm in leaders])} each solved "
        f"{percent(leaders[0].pass_at_1.value)} of {comparison.problems} problems, the baseline "
        f"{baseline.name} {percent(baseline.pass_at_1.value)} "
        f"(95% intervals of the differences, in points: {'; '.join(gaps)})."
    )


def _every_arm(comparison: Comparison) -> str:
    groups: dict[str, list[str]] = {"above it": [], "below it": [], "not separated from it": []}
    for arm in comparison.other_arms:
        assert arm.difference is not None
        if not separated(arm.difference):
            groups["not separated from it"].append(arm.name)
        else:
            groups["above it" if arm.difference.value > 0 else "below it"].append(arm.name)
    parts = [f"{place} {listed(names)}" for place, names in groups.items() if names]
    return f"Against the baseline {comparison.baseline}: {'; '.join(parts)}."


def _seeds(count: int) -> str:
    if count == 1:
        return (
            "n = 1 training seed: the intervals cover the choice of problems, "
            "not the variation between seeds; another seed may change the order."
        )
    covered = f"n = {count} training seeds: the intervals cover the choice of problems and of seeds"
    if count < FEW_SEEDS:
        return f"{covered}, the latter only roughly with so few."
    return f"{covered}."


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"
