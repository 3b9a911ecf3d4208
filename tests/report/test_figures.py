import itertools
import re

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.records import Metrics, MetricsRecord
from wmtp.report import figures
from wmtp.report.curves import validation_band
from wmtp.report.svg import STYLE, compact, new_figure, swatch_symbols, to_svg


@given(st.floats(1e-3, 1e3), st.floats(1.05, 1e4))
def test_log_ticks_lie_inside_and_are_enough(low: float, ratio: float) -> None:
    ticks = figures.log_ticks(low, low * ratio)
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 12


def test_log_ticks_are_round() -> None:
    assert figures.log_ticks(0.45, 3.4) == [0.5, 1, 2]
    assert figures.log_ticks(0.5, 400) == [1, 10, 100]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_spread_places_are_apart_and_keep_their_order(places: list[float]) -> None:
    moved = figures.spread(places, 0.1)
    assert all(new >= old for new, old in zip(moved, places, strict=True))
    ordered = sorted(moved)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert sorted(range(len(places)), key=lambda i: (places[i], i)) == sorted(
        range(len(places)), key=lambda i: moved[i]
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.25, "0.25"), (800, "800"), (200_000, "200k"), (1.5e6, "1.5M"), (2e9, "2B")],
)
def test_compact(value: float, written: str) -> None:
    assert compact(value) == written


def test_an_svg_belongs_to_its_page() -> None:
    with matplotlib.rc_context(STYLE):
        figure = new_figure()
        figure.subplots().plot([1, 2], [1, 2], color=figures.color(0))
    svg = to_svg(figure, "plot", 'says <"this">')
    assert svg.startswith("<svg viewBox=")
    assert svg.endswith("</svg>")
    assert 'aria-label="says &lt;&quot;this&quot;&gt;"' in svg
    assert "var(--series-0)" in svg
    assert all(name.startswith("plot-") for name in re.findall(r'\bid="([^"]*)', svg))
    assert set(re.findall(r"url\(#([^)]*)", svg)) <= set(re.findall(r'\bid="([^"]*)', svg))
    for foreign in ("http", "xmlns", "xlink", "<style", "font-family", "DOCTYPE", "#100", "#200"):
        assert foreign not in svg


def test_drawing_leaves_the_global_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    swatch_symbols(2)
    assert dict(matplotlib.rcParams) == before


def test_the_same_numbers_give_the_same_bytes() -> None:
    records = [MetricsRecord("train", s, s * 10, s * 0.1, [3.0 / s, 4.0 / s]) for s in range(1, 6)]
    limits = figures.shared_limits([records])
    assert figures.heads_figure("a", records, "h", limits) == figures.heads_figure("a", records, "h", limits)


def test_shared_limits_hold_every_curve() -> None:
    one = [MetricsRecord("train", s, s, s, [3.0 / s, 4.0]) for s in range(1, 4)]
    other = [MetricsRecord("train", s, s, s, [0.5, None]) for s in range(1, 4)]
    low, high = figures.shared_limits([one, other])
    assert low < 0.5
    assert high > 4.0
    assert figures.shared_limits([]) == (0.1, 1.0)


def test_the_alternative_text_tells_the_last_value() -> None:
    run = Metrics([], [MetricsRecord("validation", s, s * 10, s, [2.0 / s]) for s in (1, 2, 4)])
    band = validation_band([run], "tokens")
    assert band is not None
    assert "x ends at 0.500" in figures.validation_figure({"x": band}, {"x": 0}, "tokens")


def test_a_number_that_was_never_logged_has_no_figure() -> None:
    metrics = Metrics([MetricsRecord("train", 1, 1, 1, [1.0])], [])
    assert figures.run_figure(metrics, "lr", "lr", lambda r: r.lr) is None
