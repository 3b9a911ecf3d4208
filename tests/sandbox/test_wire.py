"""What crosses the boundary is what was sent, or nothing."""

import collections
import enum
import itertools
import math
import types
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox.isolated.wire import MAX_DEPTH, WireError, decode, encode

LIMIT = 1 << 20

ranges = st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
hashable = st.recursive(
    st.none()
    | ranges
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.sampled_from([bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple, type(None)]),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
plain = st.recursive(
    hashable | st.sets(hashable, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4),
    max_leaves=12,
)


def canonical(value: object) -> object:
    """Types and values, told apart where `==` does not (True and 1, 0.0 and -0.0, nan); sets have no order."""
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(canonical(element)) for element in value)
    if isinstance(value, dict):
        return dict, [(canonical(key), canonical(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | Iterator | KeysView | ValuesView | ItemsView):
        return type(value), [canonical(element) for element in value]
    return repr(value)


packed = st.one_of(
    *(
        st.lists(element, min_size=12, max_size=40)
        for element in (
            st.integers(),
            st.integers(-130, 130),
            st.floats(),
            st.text(),
            st.booleans() | st.integers(),
        )
    )
)


@given(packed, st.booleans())
def test_long_lists_round_trip(value: list[object], as_tuple: bool) -> None:
    sent = tuple(value) if as_tuple else value
    assert canonical(decode(encode(sent, LIMIT))) == canonical(sent)
    assert canonical(decode(encode({"x": [sent]}, LIMIT))) == canonical({"x": [sent]})


@pytest.mark.parametrize("edge", [7, 15, 31, 63])
def test_the_widths_of_packed_numbers(edge: int) -> None:
    for extreme in (2**edge - 1, 2**edge, -(2**edge), -(2**edge) - 1):
        value = [*range(20), extreme]
        assert decode(encode(value, LIMIT)) == value


@given(plain)
def test_round_trip(value: object) -> None:
    assert canonical(decode(encode(value, LIMIT))) == canonical(value)


@given(st.dictionaries(hashable, plain, max_size=4))
def test_views_of_a_dict_stay_such_views(value: dict[object, object]) -> None:
    for view in (value.keys(), value.values(), value.items()):
        back = decode(encode([view], LIMIT))
        assert isinstance(back, list)
        assert canonical(back[0]) == canonical(view)


@given(st.lists(plain, max_size=4))
def test_iterators_arrive_as_iterators_of_the_same_values(values: list[object]) -> None:
    for iterator in (iter(values), (value for value in values), itertools.chain(values)):
        back = decode(encode(iterator, LIMIT))
        assert type(back) is type(iter([]))
        assert canonical(list(back)) == canonical(values)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, -0.0, 2**4096, -(2**63), -1, 255, 256, "\ud800", "\0"]
)
def test_edge_values(value: object) -> None:
    assert repr(decode(encode(value, LIMIT))) == repr(value)


def test_nan() -> None:
    back = decode(encode(math.nan, LIMIT))
    assert type(back) is float
    assert math.isnan(back)


@given(st.binary(max_size=60))
def test_rubbish_is_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except WireError:
        return
    assert canonical(decode(encode(value, LIMIT))) == canonical(decode(data))  # encoding uses up iterators


@given(plain, st.data())
def test_truncation_and_tails_are_refused(value: object, data: st.DataObject) -> None:
    encoded = encode(value, LIMIT)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(WireError):
        decode(encoded[:cut])
    with pytest.raises(WireError):
        decode(encoded + b"N")


class Subclassed(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Forgetful(str):
    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class Cursor:
    """An iterator that equals everything."""

    def __iter__(self) -> "Cursor":
        return self

    def __next__(self) -> int:
        raise StopIteration

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Subclassed(3),
        Forgetful("3"),
        Cursor(),
        iter([object()]),
        {3: object()}.values(),
        collections.deque([object()]),
        bytearray,
        collections.Counter,
        types.SimpleNamespace(a=3),
        type,
        Subclassed,
        len,
        [[object()]],
        {3: object()},
        {object(): 3},
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(WireError, match="does not cross between processes"):
        encode(value, LIMIT)


class Number(enum.IntEnum):
    THREE = 3


class Word(enum.StrEnum):
    AN = "an"


class Point(NamedTuple):
    x: int
    y: object


class Length(float):
    def __repr__(self) -> str:
        return "long"


class Row(list[object]):
    def total(self) -> int:
        return len(self)


class Table(dict[object, object]):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Number.THREE, 3),
        (Word.AN, "an"),
        (Point(1, Number.THREE), (1, 3)),
        (Length(0.5), 0.5),
        (Row([Point(1, 2)]), [(1, 2)]),
        (Table({Word.AN: Row()}), {"an": []}),
    ],
)
def test_a_subclass_that_compares_as_its_base_arrives_as_the_base(value: object, expected: object) -> None:
    back = decode(encode(value, LIMIT))
    assert canonical(back) == canonical(expected)
    assert value == expected == back


def test_size_is_bounded() -> None:
    assert len(encode("x" * 95, 100)) == 100
    for value in (
        "x" * 96,
        b"x" * 96,
        list(range(95)),
        ["x"] * 20,
        [0.5] * 13,
        1 << 800,
        {"x" * 50: "x" * 50},
    ):
        with pytest.raises(WireError, match="larger than 100 bytes"):
            encode(value, 100)
    with pytest.raises(WireError, match="larger than 100 bytes"):
        encode(itertools.count(), 100)


def test_depth_is_bounded_both_ways() -> None:
    value: list[object] = []
    for _ in range(MAX_DEPTH):
        value = [value]
    encoded = encode(value, LIMIT)
    assert decode(encoded) == value
    with pytest.raises(WireError, match="nested"):
        encode([value], LIMIT)
    with pytest.raises(WireError, match="nested"):
        decode(encoded[:5] + encoded)
    value.append(value)
    with pytest.raises(WireError, match="containing itself"):
        encode(value, LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"S\x00\x00\x00\x08l\x00\x00\x00\x00l\x00\x00\x00\x01l\x00\x00\x00\x00",  # a set of a list
        b"S\x00\x00\x00\x08l\x00\x00\x00\x01Nl\x00\x00\x00\x01N",  # a place that is no number
        b"S\x00\x00\x00\x08l\x00\x00\x00\x00N",  # a set of no list
        b"dl\x00\x00\x00\x01Nl\x00\x00\x00\x00",  # a key without a value
        b"dl\x00\x00\x00\x00t\x00\x00\x00\x00",  # values that are no list
        b"j\x00\x00\x00\x01",  # a short whole number
        b"P\x00\x00\x00\x03xb\x00",  # no such packed sequence
        b"P\x00\x00\x00\x03lx\x00",  # no such packing
        b"P\x00\x00\x00\x03lh\x00",  # half a number
        b"P\x00\x00\x00\x0bls\x00\x00\x00\x01\x00\x00\x00\x02x",  # texts shorter than they say
        b"P\x00\x00\x00\x06ls\xff\xff\xff\xff",  # more texts than bytes
        b"I\x00\x00\x00\x01N",  # an iterator over no list
        b"l\xff\xff\xff\xff",  # more elements than bytes
        b"s\x00\x00\x00\x01\xff",  # not UTF-8
        b"f\x00\x00\x00\x01\x00",  # a short float
        b"r\x00\x00\x00\x01N",  # a range of None
        b"r\x00\x00\x00\x03" + 3 * b"i\x00\x00\x00\x01\x00",  # a range of step 0
        b"k\x00\x00\x00\x01l\x00\x00\x00\x00",  # a key that is a list
        b"p\x00\x00\x00\x01t\x00\x00\x00\x00",  # an item without key and value
        b"X\x00\x00\x00\x00",  # no such tag
        b"y\x00\x00\x00\x06object",  # no such type
        b"",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


class Always(type):
    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        return hash(int)


class Impostor(metaclass=Always):
    pass


def test_a_class_that_equals_a_type_is_not_sent_as_it() -> None:
    assert {int: 1}[Impostor] == 1
    with pytest.raises(WireError, match="does not cross between processes"):
        encode(Impostor, LIMIT)
