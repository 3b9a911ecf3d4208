import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from page_parser import Page
from synthetic_comparison import FAMILIES

from wmtp.experiment.results import Comparison, write_comparison
from wmtp.report.html import write_comparison_report

Make = Callable[..., tuple[Path, Comparison]]


def remove_heatmap(directory: Path) -> None:
    (directory / "heatmap.json").unlink()


def remove_samples(directory: Path) -> None:
    for path in directory.glob("arms/*/*/samples"):
        shutil.rmtree(path)


def remove_metrics(directory: Path) -> None:
    for path in directory.glob("arms/*/*/metrics.jsonl"):
        path.unlink()


def remove_groups(directory: Path) -> None:
    for path in directory.glob("arms/*/*/evaluation-tinycode.json"):
        path.write_text(re.sub(r', "operations": \d+, "family": "\w+"', "", path.read_text()))


@pytest.mark.parametrize(
    ("remove", "gone", "said"),
    [
        (remove_heatmap, 'id="weights"', "Token weights: there is no heatmap.json"),
        (
            remove_samples,
            "Some arms pass",
            "Programs of rho1: there is no arms/rho1/seed-0/samples/tinycode.jsonl",
        ),
        (
            remove_metrics,
            'id="curves"',
            "Learning curves of uniform: there is no arms/uniform/seed-0/metrics.jsonl",
        ),
        (
            remove_groups,
            "by family, %",
            "pass@1 by family: the evaluations do not say what kind each problem is",
        ),
    ],
)
def test_what_is_not_there_is_left_out_and_named(
    make_comparison: Make, remove: Callable[[Path], None], gone: str, said: str
) -> None:
    directory, _ = make_comparison(seeds=2)
    remove(directory)
    text = write_comparison_report(directory).read_text()
    assert gone not in text
    assert said in Page(text).text


def test_an_arm_without_every_evaluation_is_left_out_of_the_groups(make_comparison: Make) -> None:
    directory, _ = make_comparison(seeds=2)
    (directory / "arms/rho1/seed-1/evaluation-tinycode.json").unlink()
    page = Page(write_comparison_report(directory).read_text())
    assert "by kind of problem of rho1: there is no arms/rho1/seed-1/evaluation-tinycode.json" in page.text
    by_family = next(rows for rows in page.tables if rows[1][0] == FAMILIES[0])
    assert by_family[0] == ["group", "problems", "uniform", "next-token", "shuffled"]


def test_arms_with_one_head_have_no_acceptance(make_comparison: Make) -> None:
    directory, comparison = make_comparison(seeds=1)
    arms = [replace(arm, acceptance=None, tokens_per_forward=None) for arm in comparison.arms]
    write_comparison(replace(comparison, arms=arms, reference=None), directory)
    text = write_comparison_report(directory).read_text()
    assert "accepted drafts, %" not in text
    assert "Acceptance of drafts: not measured for uniform, next-token, rho1, shuffled" in Page(text).text
    assert "reference model" not in text


def test_one_seed_has_no_band_and_says_so(make_comparison: Make) -> None:
    directory, _ = make_comparison(seeds=1)
    text = Page(write_comparison_report(directory).read_text()).text
    assert "One seed, so there is no band." in text
    assert "open dots" not in text
