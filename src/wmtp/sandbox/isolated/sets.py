"""Sends sets so that they keep their iteration order in another process.

The order of a set is that of its hash table. So it depends on the size of the table, which remembers how large the
set has been, and on which places were taken when an element came. Both processes have one hash seed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    Parts = tuple[int, list[int], list[Any]]

_SMALLEST = 8
_ENTRY = 16
_EMPTY = {set: set.__sizeof__(set()), frozenset: frozenset.__sizeof__(frozenset())}
_LARGEST_MADE = 1 << 16
_WORTH_ARRANGING = 2000

_LINEAR, _SHIFT, _ROUNDS = 9, 5, 5
"""How CPython probes for a slot: some neighbours, then a jump (`set_add_entry`); we give up after so many jumps."""


def take_apart(value: Any, kind: type) -> Parts:
    """The parts from which `build` makes a set of the same order, if possible.

    Args:
        value: of `kind`, or of a subclass of it.
        kind: set or frozenset.

    Returns:
        Size of the table, slots to occupy meanwhile, elements.
    """
    elements, size = list(value), _table_size(value, kind)
    plain: Parts = (size, [], elements)
    if len(elements) > _WORTH_ARRANGING or _is_in_order(build(kind, *plain), elements):
        return plain
    arranged = (size, *_arrange(elements, size))
    return arranged if _is_in_order(build(kind, *arranged), elements) else plain


def build(kind: type, size: int, taken: list[int], elements: list[Any]) -> Any:
    """A set of these elements, in a table of this size if possible.

    Raises:
        TypeError: an element cannot be hashed.
    """
    if not elements or not _SMALLEST <= size <= _LARGEST_MADE:
        return kind(elements)
    fillers = [_Filler(place) for place in taken]
    made: set[Any] = {*fillers[:1]} or {elements[0]}
    if size > _SMALLEST:
        _enlarge(made, size)
    made.update(fillers)
    made.update(elements)
    made.difference_update(fillers)
    if kind is set:
        return made
    copy = frozenset(made)  # of the size that a copy has
    return copy if _table_size(copy, kind) == size else frozenset(elements)


def _table_size(value: Any, kind: Any) -> int:
    return (kind.__sizeof__(value) - _EMPTY[kind]) // _ENTRY or _SMALLEST


def _is_in_order(made: Any, elements: list[Any]) -> bool:
    return all(there is element for there, element in zip(made, elements, strict=True))


def _arrange(elements: list[Any], size: int) -> tuple[list[int], list[Any]]:
    """Slots to occupy meanwhile, and an order of elements in which each ends up in its slot."""
    ways = [list(dict.fromkeys(_places(hash(element), size - 1))) for element in elements]
    own = _likely_places(ways)
    holder = {place: position for position, place in enumerate(own)}
    taken: list[int] = []
    order: dict[int, None] = {}

    def put(position: int, above: frozenset[int]) -> None:
        """First what is in its way."""
        if position in order or position in above:
            return
        for place in ways[position]:
            if place == own[position]:
                break
            if place in holder:
                put(holder[place], above | {position})
            else:
                taken.append(place)
        order[position] = None

    for position in range(len(own)):
        put(position, frozenset())
    return sorted(set(taken)), [elements[position] for position in order] if own else elements


def _places(code: int, mask: int) -> Iterator[int]:
    """Slots that an element of this hash tries, in order; it takes the first free one."""
    rest, place = code & (2**64 - 1), code & mask
    for _ in range(_ROUNDS):
        yield from range(place, place + 1 + (_LINEAR if place + _LINEAR <= mask else 0))
        rest >>= _SHIFT
        place = (place * 5 + 1 + rest) & mask


def _likely_places(ways: list[list[int]]) -> list[int]:
    """One slot for each probe sequence, in ascending order, with the least probing in all; none if impossible."""
    rows: list[list[tuple[int, int, int]]] = [[(-1, 0, 0)]]  # place, steps so far, position in the row before
    for way in ways:
        row, before, least, seen = [], rows[-1], (1 << 60, 0), 0
        for place, steps in sorted((place, steps) for steps, place in enumerate(way)):
            while seen < len(before) and before[seen][0] < place:
                least = min(least, (before[seen][1], seen))
                seen += 1
            row.append((place, least[0] + steps, least[1]))
        rows.append(row)
    steps, position = min((entry[1], index) for index, entry in enumerate(rows[-1]))
    if steps >= 1 << 60:
        return []
    found = []
    for row in rows[:0:-1]:
        place, _, position = row[position]
        found.append(place)
    return found[::-1]


class _Filler:
    """Takes a place."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __hash__(self) -> int:
        return self._place


class _Refusal(Exception):
    pass


class _Stop(_Filler):
    """A key that stops an update of a set which holds one of the same hash."""

    def __eq__(self, other: object) -> NoReturn:
        raise _Refusal

    __hash__ = _Filler.__hash__


def _enlarge(single: set[Any], size: int) -> None:
    """Give a set of one element a larger table: an update makes room for all elements before it adds the first."""
    code = hash(next(iter(single)))
    other = abs(code) % (1 << 60) + 1  # the hashes from here on are not this one
    try:  # noqa: SIM105 (importing contextlib costs 5 ms)
        single.update({_Stop(code): None} | dict.fromkeys(range(other, other + max(3, size // 4 - 2))))
    except _Refusal:
        pass
