import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from page_parser import Page
from synthetic_comparison import ATTACK, FAMILIES, token_samples

from wmtp.errors import WMTPError
from wmtp.experiment.results import Comparison, write_comparison, write_heatmap
from wmtp.report.html import write_comparison_report, write_inspect_html

Make = Callable[..., tuple[Path, Comparison]]
Written = tuple[Path, Comparison, str]


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
