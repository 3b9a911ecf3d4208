from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType
from rich.table import Table
from synthetic_comparison import token_samples, write_critic, write_run

from wmtp.config import Config, Recipe
from wmtp.errors import WMTPError
from wmtp.experiment.results import Comparison
from wmtp.report.headline import headline
from wmtp.report.terminal import comparison_table, render_token_weights, run_summary, weight_legend
from wmtp.run import Run

Written = tuple[Path, Comparison, str]


def printed(what: RenderableType, width: int = 120) -> str:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_the_table_has_every_arms_numbers(written: Written) -> None:
    _, comparison, _ = written
    lines = printed(comparison_table(comparison)).splitlines()
    for arm in comparison.arms:
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{arm.name} "))
        assert f"{100 * arm.pass_at_1.value:.1f}%" in lines[at]
        assert f"{arm.validation_ce.value:.3f}" in lines[at]
        assert f"{100 * arm.pass_at_1.low:.1f}..{100 * arm.pass_at_1.high:.1f}" in lines[at + 1]
        assert f"±{arm.validation_ce.high - arm.validation_ce.value:.3f}" in lines[at + 1]
        if arm.difference:
            assert f"{100 * arm.difference.value:+.1f}".replace("-", "\u2212") in lines[at]
        else:
            assert "baseline" in lines[at]
    assert headline(comparison) in " ".join(" ".join(line.strip() for line in lines).split())


def test_the_table_fits_eighty_columns_uncut(written: Written) -> None:
    _, comparison, _ = written
    narrow = printed(comparison_table(comparison), width=80)
    assert "…" not in narrow
    assert all(len(line) <= 80 for line in narrow.splitlines())
    for arm in comparison.arms:
        assert f"{100 * arm.pass_at_1.low:.1f}..{100 * arm.pass_at_1.high:.1f}" in narrow


def test_one_seed_has_no_bounds_of_the_cross_entropy(written: Written) -> None:
    _, comparison, _ = written
    arms = [replace(a, validation_ce=replace(a.validation_ce, low=None, high=None)) for a in comparison.arms]
    assert "±" not in printed(comparison_table(replace(comparison, arms=arms)))


def summary(directory: Path) -> Table:
    return run_summary(Run(directory, Recipe(), Config()))


def test_run_summary(written: Written) -> None:
    directory, comparison, _ = written
    shown = printed(summary(directory / "arms/rho1/seed-0"))
    assert "60" in shown
    assert "122,880" in shown
    assert f"pass@1 {100 * comparison.arms[2].by_seed[0].pass_at_1:.1f}% of 80 problems" in shown


def test_run_summary_of_a_run_with_a_critic(tmp_path: Path) -> None:
    write_run(tmp_path / "run", np.random.default_rng(0), "rho1", 0, steps=20)
    assert "critic" not in printed(summary(tmp_path / "run"))
    write_critic(tmp_path / "run")
    rows = [" ".join(line.split()) for line in printed(summary(tmp_path / "run")).splitlines()]
    assert "critic gae, AUC 0.940 on 120 held-out documents" in rows
    assert "critic's best step 20 of 30, 12.3 training seconds" in rows


def test_a_run_without_a_step_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(WMTPError, match="no training step"):
        summary(tmp_path)


def backgrounds(arm: str) -> dict[str, tuple[int, int, int] | None]:
    text = render_token_weights(token_samples(1)[0], arm)
    found = {}
    for span in text.spans:
        color = span.style.bgcolor
        found[text.plain[span.start : span.end]] = tuple(color.triplet) if color else None
    return found


def test_tokens_are_coloured_by_weight() -> None:
    sample = token_samples(1)[0]
    found = backgrounds("rho1")
    below, above = found["3"], found[" for"]
    assert sample.weights["rho1"][sample.tokens.index(" for")] > 1
    assert below[0] > below[2]  # orange
    assert above[2] > above[0]  # blue
    assert set(backgrounds("uniform").values()) == {None}


def test_planted_errors_are_underlined_and_the_prompt_is_dim() -> None:
    text = render_token_weights(token_samples(1)[0], "rho1")
    by_token = {text.plain[span.start : span.end]: span.style for span in text.spans}
    assert by_token["3"].underline
    assert not by_token[" for"].underline
    assert by_token["Double"].dim
    assert text.plain.startswith("Double every number and sort.↵\ndef solve(xs):↵\n    ys = [x * 3 for")


def test_tokens_cannot_steer_the_terminal() -> None:
    sample = token_samples(1)[0]
    hostile = replace(sample, tokens=["\x1b[2J", *sample.tokens[1:]])
    assert "\x1b" not in render_token_weights(hostile, "rho1").plain


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(WMTPError, match="'rho' here; did you mean 'rho1'"):
        render_token_weights(token_samples(1)[0], "rho")


def test_the_legend_names_the_saturation() -> None:
    assert "≥ 3" in weight_legend().plain
