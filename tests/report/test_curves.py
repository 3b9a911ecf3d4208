import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.records import Metrics, MetricsRecord
from wmtp.report.curves import head_series, series, thinned, validation_band


def record(step: int, ce: list[float | None], speed: float = 1.0, kind: str = "validation") -> MetricsRecord:
    return MetricsRecord(kind=kind, step=step, tokens=step * 100, seconds=step * speed, ce=ce, lr=step / 10)


def run(rows: list[tuple[int, float | None]], speed: float = 1.0) -> Metrics:
    return Metrics(train=[], validation=[record(step, [ce, 9.0], speed) for step, ce in rows])


def test_band_is_mean_and_range_of_head_0_over_seeds() -> None:
    runs = [
        run([(10, 3.0), (20, 2.0)], 1.0),
        run([(10, 5.0), (20, 1.0)], 2.0),
        run([(10, 4.0), (20, 0.0)], 6.0),
    ]
    band = validation_band(runs, "tokens")
    assert band is not None
    np.testing.assert_allclose(band.x, [1000, 2000])
    np.testing.assert_allclose(band.mean, [4.0, 1.0])
    np.testing.assert_allclose(band.low, [3.0, 0.0])
    np.testing.assert_allclose(band.high, [5.0, 2.0])
    seconds = validation_band(runs, "seconds")
    assert seconds is not None
    np.testing.assert_allclose(seconds.x, [30, 60])


def test_band_uses_the_steps_that_every_seed_measured() -> None:
    band = validation_band([run([(10, 3.0), (20, 2.0), (30, 1.0)]), run([(20, 4.0), (30, None)])], "tokens")
    assert band is not None
    assert band.x.tolist() == [2000.0]
    assert band.mean.tolist() == [3.0]


@pytest.mark.parametrize("runs", [[], [run([])], [run([(10, 3.0)]), run([(20, 3.0)])]])
def test_no_common_step_gives_no_band(runs: list[Metrics]) -> None:
    assert validation_band(runs, "tokens") is None


def test_series_leaves_gaps_out() -> None:
    rows = [record(1, [1.0]), record(2, [None]), record(3, [3.0])]
    x, y = series(rows, lambda r: r.ce[0])
    assert (x.tolist(), y.tolist()) == ([100.0, 300.0], [1.0, 3.0])
    assert series(rows, lambda r: r.loss)[0].size == 0


def test_every_head_has_its_own_series() -> None:
    curves = head_series([record(1, [1.0, 2.0]), record(2, [1.5, None]), record(3, [0.5])])
    assert [y.tolist() for _, y in curves] == [[1.0, 1.5, 0.5], [2.0]]


def test_thinning_averages_neighbours() -> None:
    x, y = thinned(np.arange(5.0), np.array([0.0, 2.0, 4.0, 6.0, 9.0]), limit=3)
    assert (x.tolist(), y.tolist()) == ([0.5, 2.5, 4.0], [1.0, 5.0, 9.0])


@given(st.integers(0, 2000), st.integers(1, 50))
def test_thinning_keeps_the_limit_and_the_mean(length: int, limit: int) -> None:
    x = np.arange(float(length))
    thin, _ = thinned(x, x, limit)
    assert len(thin) <= limit
    assert length > limit or thin.tolist() == x.tolist()
    assert length % max(len(thin), 1) or not length or thin.mean() == pytest.approx(x.mean())
