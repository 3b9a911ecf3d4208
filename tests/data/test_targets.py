import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.targets import (
    has_next,
    has_previous,
    is_last,
    lookahead,
    make_targets,
    shift_left,
    shift_right,
)


@st.composite
def packed_rows(draw: st.DrawFn) -> tuple[list[list[tuple[int, int, bool]]], int]:
    """Rows of (token, document, supervised) with padding at the end, and a number of heads."""
    length = draw(st.integers(2, 12))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row: list[tuple[int, int, bool]] = []
        document = 0
        while len(row) < length and draw(st.booleans()):
            document += 1
            size = draw(st.integers(1, length - len(row)))
            row += [(draw(st.integers(0, 99)), document, draw(st.booleans())) for _ in range(size)]
        rows.append(row + [(0, 0, False)] * (length - len(row)))
    return rows, draw(st.integers(1, length))


@given(packed_rows())
def test_targets_and_validity_are_those_of_the_definition(
    case: tuple[list[list[tuple[int, int, bool]]], int],
) -> None:
    rows, heads = case
    ids, documents, supervised = (torch.tensor([[t[i] for t in row] for row in rows]) for i in range(3))
    targets, valid = make_targets(ids, documents, supervised.bool(), heads)
    for b, row in enumerate(rows):
        for s in range(len(row)):
            for h in range(heads):
                there = s + h + 1
                expected = (
                    there < len(row) and row[s][1] > 0 and row[there][1] == row[s][1] and bool(row[there][2])
                )
                assert bool(valid[b, s, h]) == expected
                if there < len(row):
                    assert int(targets[b, s, h]) == row[there][0]


def test_lookahead_and_shift() -> None:
    x = torch.tensor([[1, 2, 3]])
    assert lookahead(x, 2).tolist() == [[[1, 2], [2, 3], [3, 0]]]
    assert shift_left(x).tolist() == [[2, 3, 0]]
    assert shift_right(x).tolist() == [[0, 1, 2]]
    assert shift_right(x.float(), -1).tolist() == [[-1, 1, 2]]
    assert shift_right(x[..., None].expand(1, 3, 2)).tolist() == [[[0, 0], [1, 1], [2, 2]]]


@given(packed_rows())
def test_neighbours_are_of_the_same_document(case: tuple[list[list[tuple[int, int, bool]]], int]) -> None:
    rows, _ = case
    documents = torch.tensor([[token[1] for token in row] for row in rows])
    following, preceding, last = has_next(documents), has_previous(documents), is_last(documents)
    for b, row in enumerate(rows):
        numbers = [0, *(token[1] for token in row), 0]
        for s, (before, own, after) in enumerate(zip(numbers, numbers[1:], numbers[2:], strict=False)):
            assert bool(following[b, s]) == (own > 0 and after == own)
            assert bool(preceding[b, s]) == (own > 0 and before == own)
            assert bool(last[b, s]) == (own > 0 and after != own)
