import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from synthetic_comparison import ATTACK, FAMILIES, token_samples

from wmtp.errors import WMTPError
from wmtp.experiment.results import Comparison, write_comparison, write_heatmap
from wmtp.report.html import write_comparison_report, write_inspect_html

Make = Callable[..., tuple[Path, Comparison]]
Written = tuple[Path, Comparison, str]
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes and table rows of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "small" and self._open[-2] in ("td", "th"):
            self.tables[-1][-1][-1] += " | "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.strip()

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def test_the_results_table_has_the_numbers_of_the_file(written: Written) -> None:
    directory, _, text = written
    rows = Page(text).tables[0]
    arms = json.loads((directory / "comparison.json").read_text())["arms"]
    assert [row[0] for row in rows[1:-1]] == [arm["name"] for arm in arms]
    for row, arm in zip(rows[1:-1], arms, strict=True):
        share, ce, gap = arm["pass_at_1"], arm["validation_ce"], arm["difference"]
        assert row[1] == "{:.1f}% | {:.1f} to {:.1f}%".format(
            *(100 * share[k] for k in ("value", "low", "high"))
        )
        if gap is None:
            assert row[2:4] == ["baseline", ""]
        else:
            written_gap = "{:+.1f} | {:+.1f} to {:+.1f}".format(
                *(100 * gap[k] for k in ("value", "low", "high"))
            )
            assert row[2] == written_gap.replace("-", "\u2212")
            assert row[3] == ("< 0.001" if gap["p"] < 0.001 else f"{gap['p']:.3f}")
        assert row[4] == "{:.3f} | {:.3f} to {:.3f}".format(*(ce[k] for k in ("value", "low", "high")))
        forward = arm["tokens_per_forward"]
        assert row[5:] == [
            "\u2014" if forward is None else f"{forward:.2f}",
            f"{arm['training_tokens_per_second']:,.0f}",
            f"{arm['training_seconds']:,.1f}",
            f"{arm['training_tokens']:,}",
        ]
    assert rows[-1][:5] == ["reference model", "38.5%", "not an arm", "", "0.583"]


def test_pass_rates_by_family_are_those_of_the_evaluations(written: Written) -> None:
    directory, comparison, text = written
    table = next(rows for rows in Page(text).tables if rows[1][0] == FAMILIES[0])
    assert [row[0] for row in table[1:]] == list(FAMILIES)
    for row in table[1:]:
        for name, cell in zip(table[0][2:], row[2:], strict=True):
            arm = next(arm for arm in comparison.arms if arm.name == name)
            passed = []
            for seed in arm.by_seed:
                evaluation = json.loads((directory / seed.run / "evaluation-tinycode.json").read_text())
                passed += [p["passed"] for p in evaluation["by_problem"] if p["family"] == row[0]]
            assert cell.startswith(f"{100 * sum(passed) / len(passed):.1f}% | ")
            assert int(row[1]) * len(comparison.seeds) == len(passed)


def test_verdicts_and_acceptance_are_those_of_the_file(written: Written) -> None:
    _, comparison, text = written
    tables = Page(text).tables
    verdicts = next(rows for rows in tables if rows[0][0] == "samples by verdict")
    for row, arm in zip(verdicts[1:], comparison.arms, strict=True):
        assert dict(zip(verdicts[0][1:], map(int, row[1:]), strict=True)) == arm.verdicts
    acceptance = next(rows for rows in tables if rows[0] == ["arm", "head 1", "head 2", "head 3"])
    assert acceptance[1:] == [
        [arm.name, *(f"{100 * share:.1f}%" for share in arm.acceptance)]
        for arm in comparison.arms
        if arm.acceptance
    ]


def test_the_page_needs_nothing_from_outside_and_runs_nothing(written: Written) -> None:
    _, _, text = written
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", text, re.IGNORECASE)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert page.values("src") == []
    assert all(value.startswith("#") for value in page.values("href"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert len(text.encode()) < 1_500_000


def test_ids_are_unique_and_every_reference_finds_one(written: Written) -> None:
    _, _, text = written
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in page.values("href")} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert wanted <= set(ids)


def test_pictures_have_a_text_and_tables_have_headers(written: Written) -> None:
    _, _, text = written
    for opening in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in opening or re.search(r'role="img" aria-label="[^"]{20,}"', opening)
    for tag, name, value in Page(text).attributes:
        if tag == "th":
            assert (name, value) in {("scope", "col"), ("scope", "row"), ("class", "n")}


def test_generated_programs_are_text(written: Written) -> None:
    _, _, text = written
    page = Page(text)
    assert "<script" not in text
    assert ATTACK in page.text
    assert page.text.count(r"\x1b[31m") > 0
    assert "\x1b" not in text


def test_names_and_conditions_are_text_too(make_comparison: Make) -> None:
    directory, comparison = make_comparison(seeds=1)
    hostile = "</title><script>x</script>"
    arms = [replace(comparison.arms[0], name=hostile, description={hostile: hostile}), *comparison.arms[1:]]
    write_comparison(
        replace(
            comparison,
            name=hostile,
            task="tinycode",
            baseline=hostile,
            arms=arms,
            conditions={hostile: hostile},
        ),
        directory,
    )
    samples = [
        replace(sample, title=hostile, tokens=[hostile, *sample.tokens[1:]], weights={hostile: w})
        for sample in token_samples(1)
        for w in [sample.weights["rho1"]]
    ]
    write_heatmap(samples, directory)
    (directory / "recipe.yaml").write_text(f"name: {hostile}\n")
    text = write_comparison_report(directory).read_text()
    assert "<script" not in text
    assert Page(text).tags["title"] == 1


def test_weights_are_coloured_in_the_right_direction(written: Written) -> None:
    _, _, text = written
    found = re.findall(
        r'<span class="t (up|down)( planted)?" style="--a:([\d.]+)" title="weight ([\d.]+)(, planted error)?">',
        text,
    )
    expected = [
        (weight, planted)
        for sample in token_samples()
        for row in sample.weights.values()
        for weight, planted in zip(row, sample.planted, strict=True)
        if weight is not None
    ]
    assert len(found) == len(expected)
    for (side, mark, amount, shown, said), (weight, planted) in zip(found, expected, strict=True):
        assert shown == f"{weight:.2f}"
        assert side == ("up" if weight > 1 else "down")
        assert float(amount) == pytest.approx(
            min(1, (weight - 1) / 2) if weight > 1 else 1 - weight, abs=0.006
        )
        assert bool(mark) == bool(said) == planted


def test_the_heat_map_keeps_the_text(written: Written) -> None:
    _, _, text = written
    assert Page(text).text.count("def solve(xs):↵\n    ys = [x * 3 for x in xs]↵\n") == 2 * 3


def test_no_difference_is_said_in_the_headline(make_comparison: Make) -> None:
    directory, comparison = make_comparison(seeds=1)
    arms = [arm for arm in comparison.arms if arm.name in ("uniform", "shuffled")]
    write_comparison(replace(comparison, arms=arms), directory)
    text = write_comparison_report(directory).read_text()
    assert '<p class="headline">No difference shown' in text
    assert "not the variation between seeds" in text


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
            "pass@1 by family: the evaluations do not say which problem is which",
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


def test_the_command_repeats_seeds_and_arms(written: Written) -> None:
    expected = "wmtp compare recipe.yaml 'compare.seeds=[0,1]' --arms uniform,next-token,rho1,shuffled"
    assert expected in Page(written[2]).text


def test_long_runs_stay_small(make_comparison: Make) -> None:
    directory, _ = make_comparison(seeds=1, steps=8000)
    assert write_comparison_report(directory).stat().st_size < 1_000_000


def test_a_directory_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"comparison\.json: no such file"):
        write_comparison_report(tmp_path)


def test_the_inspect_page_stands_alone(tmp_path: Path) -> None:
    text = write_inspect_html(token_samples(1), tmp_path / "weights.html").read_text()
    page = Page(text)
    assert "wrong constant (2 became 3)" in page.text
    assert page.values("src") == page.values("href") == []
    assert text.count('class="block"') == 3


def screenshot(page: Path, out: Path, *flags: str) -> np.ndarray:
    subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--hide-scrollbars", "--virtual-time-budget=3000", *flags, f"--screenshot={out}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return np.asarray(matplotlib.image.imread(out))[..., :3]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_the_page_renders_light_dark_and_narrow(written: Written, tmp_path: Path) -> None:
    page = written[0] / "report.html"
    light = screenshot(page, tmp_path / "light.png", "--window-size=1200,3000")
    dark = screenshot(page, tmp_path / "dark.png", "--window-size=1200,3000", "--force-dark-mode")
    np.testing.assert_allclose(light[0, 0], [1, 1, 1])
    np.testing.assert_allclose(dark[0, 0], np.array([0x14, 0x17, 0x1B]) / 255, atol=0.01)
    for picture in (light, dark):
        for series in (slice(0, 1000), slice(1000, 2000), slice(2000, 3000)):
            colours = np.unique((picture[series] * 255).astype(np.uint8).reshape(-1, 3), axis=0)
            assert len(colours) > 50
    narrow = screenshot(page, tmp_path / "narrow.png", "--window-size=500,3000")
    # Nothing is wider than the window: the margin on the right stays empty.
    assert narrow.shape[1] == 500
    np.testing.assert_allclose(narrow[:, -8:], 1)
