import math

import pytest
import torch

from wmtp.weighting.weights import weight_statistics


def statistics(weights: list[float], valid: list[bool]) -> dict[str, float]:
    result = weight_statistics(torch.tensor(weights), torch.tensor(valid))
    assert all(v.dtype == torch.float32 and v.ndim == 0 for v in result.values())
    return {name: value.item() for name, value in result.items()}


def test_statistics_of_uneven_weights():
    p = [0.5 / 4, 1.5 / 4, 0.0, 2.0 / 4]
    entropy = -sum(x * math.log(x) for x in p if x) / math.log(4)
    assert statistics([0.5, 1.5, 0.0, 2.0, 9.0], [True, True, True, True, False]) == pytest.approx(
        {"mean": 1.0, "entropy": entropy, "effective": 16 / (4 * 6.5)}
    )


@pytest.mark.parametrize("count", [1, 5])
def test_statistics_of_equal_weights(count):
    result = statistics([1.0] * count, [True] * count)
    assert result == pytest.approx({"mean": 1, "entropy": 1, "effective": 1})


def test_effective_share_of_skipped_weights_is_what_is_kept():
    result = statistics([2.0, 0.0, 2.0, 0.0], [True] * 4)
    assert result["effective"] == pytest.approx(0.5)
    assert result["entropy"] == pytest.approx(0.5)


def test_statistics_of_nothing():
    assert set(statistics([0.0], [False]).values()) == {0.0}
