import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.experiment.results import TokenSample
from wmtp.report.heatmap import cells, heatmap, place_means, strength


def sample(weights: dict[str, list[float | None]], prompt_tokens: int = 1) -> TokenSample:
    return TokenSample(
        title="t\x1b",
        prompt_tokens=prompt_tokens,
        tokens=["p", "a", "b\x1b", "c"],
        supervised=[False, True, True, True],
        planted=[False, False, True, False],
        weights=weights,
    )


@pytest.mark.parametrize(
    ("weight", "expected"), [(0.0, -1.0), (0.5, -0.5), (1.0, 0.0), (2.0, 0.5), (3.0, 1.0), (50.0, 1.0)]
)
def test_strength_is_neutral_at_one_and_saturates(weight: float, expected: float) -> None:
    assert strength(weight) == pytest.approx(expected)


@given(st.floats(0, 10), st.floats(0, 10))
def test_strength_never_falls_with_the_weight(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert -1 <= strength(low) <= strength(high) <= 1


def test_cells_keep_place_weight_and_mark() -> None:
    row = cells(sample({"a": [None, 0.5, 2.0, 1.0]}), "a")
    assert [cell.strength for cell in row] == [None, -0.5, 0.5, 0.0]
    assert [cell.planted for cell in row] == [False, False, True, False]
    assert row[2].text == r"b\x1b"


def test_means_by_place() -> None:
    samples = [sample({"a": [None, 0.5, 2.0, 1.5]}), sample({"a": [None, 1.0, 1.0, None]}), sample({})]
    found = place_means(samples, "a")
    assert (found.planted, found.planted_tokens) == (1.5, 2)
    assert (found.other, found.other_tokens) == (1.0, 3)
    assert place_means(samples, "b").planted is None


def test_the_prompt_is_drawn_once_unless_it_was_weighted() -> None:
    drawn = heatmap([sample({"a": [None, 1.0, 1.0, 1.0], "b": [None, 1.0, 1.0, 1.0]})]).drawn[0]
    assert [cell.text for cell in drawn.prompt] == ["p"]
    assert [len(block.cells) for block in drawn.blocks] == [3, 3]
    weighted = heatmap([sample({"a": [None, 1.0, 1.0, 1.0], "b": [2.0, 1.0, 1.0, 1.0]})]).drawn[0]
    assert weighted.prompt == []
    assert [len(block.cells) for block in weighted.blocks] == [4, 4]


def test_the_limit_is_on_what_is_drawn_not_on_what_is_counted() -> None:
    found = heatmap([sample({"a": [None, 1.0, 0.0, 1.0]})] * 3, limit=2)
    assert (len(found.drawn), found.total, found.means["a"].planted_tokens) == (2, 3, 3)
    assert found.drawn[0].title == r"t\x1b"
