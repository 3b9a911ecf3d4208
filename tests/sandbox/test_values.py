"""Values of the standard library's types and of numpy's cross by value."""

import array
import collections
import datetime
import decimal
import fractions
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pytest

from wmtp.sandbox import Limits, Program, Verdict, execute
from wmtp.sandbox.isolated.wire import WireError, decode, encode

LIMIT = 1 << 20
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30), "east")
VALUES = [
    fractions.Fraction(-3, 7),
    decimal.Decimal("-0.10"),
    decimal.Decimal("NaN"),
    decimal.Decimal("1E+999999"),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4, EAST, fold=1),
    datetime.datetime(1, 1, 1),
    datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),  # noqa: UP017
    datetime.datetime(2024, 2, 29, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime.time(1, 2, 3, 4, fold=1),
    datetime.timedelta(-1, 5, 7),
    collections.deque([1, [2]], 5),
    collections.deque(),
    collections.Counter("aab"),
    collections.OrderedDict([("b", 1), ("a", collections.Counter())]),
    collections.defaultdict(list, {1: [2]}),
    bytearray(b"\0x"),
    slice(1, None, 2),
    array.array("d", [0.5, -0.0]),
    uuid.UUID(int=5),
    {fractions.Fraction(1, 2): [decimal.Decimal(1)], "x": (bytearray(), {datetime.date(1, 1, 1)})},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_arrive_as_they_are(value: object) -> None:
    back = decode(encode(value, LIMIT))
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_a_default_that_cannot_cross_is_none() -> None:
    back: Any = decode(encode(collections.defaultdict(lambda: 3, {1: 2}), LIMIT))
    assert (type(back), back, back.default_factory) == (collections.defaultdict, {1: 2}, None)


ARRAYS = [
    np.arange(6, dtype=np.int16).reshape(2, 3).T,
    np.zeros((0, 3)),
    np.array(2.5),
    np.array(["a", "bcd"]),
    np.array([True, False]),
    np.array([1, 1j], dtype=np.complex64),
    np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
    np.array([b"x", b""]),
    np.array([[1, "a"], [None, [2]]], dtype=object),
    np.arange(3, dtype=">i4"),
]


@pytest.mark.parametrize("value", ARRAYS, ids=repr)
def test_arrays(value: np.ndarray[Any, Any]) -> None:
    back: Any = decode(encode(value, LIMIT))
    assert (type(back), back.dtype, back.shape) == (np.ndarray, value.dtype, value.shape)
    assert back.tolist() == value.tolist() or np.isnat(value).any()
    assert back.flags.writeable


@pytest.mark.parametrize(
    "value", [np.int64(-5), np.float32(0.1), np.bool_(True), np.str_("ä"), np.uint8(255)]
)
def test_scalars(value: np.generic) -> None:
    back = decode(encode([value], LIMIT))
    assert isinstance(back, list)
    assert type(back[0]) is type(value)
    assert back[0] == value


@pytest.mark.parametrize(
    "parts",
    [
        ("fractions", "Fraction", 1, 0),
        ("fractions", "Fraction", "1e999999999", 1),
        ("decimal", "Decimal", "x"),
        ("datetime", "datetime", 2024, 13, 1, 0, 0, 0, 0, None, 0),
        ("collections", "deque", 3, 3),
        ("collections", "defaultdict", 3, {}),
        ("array", "array", "d", ["x"]),
        ("numpy", "ndarray", "O8", [1], b"12345678"),
        ("numpy", "ndarray", "i8,O", [1], b"1234567812345678"),
        ("numpy", "ndarray", "i8", [3], b"12345678"),
        ("numpy", "ndarray", "i8", [1], b"1234567"),
        ("numpy", "memmap", "/etc/passwd"),
        ("os", "system", "true"),
        ("zoneinfo", "ZoneInfo", "../../etc/passwd"),
        ("collections",),
        (),
        ([],),
    ],
    ids=repr,
)
def test_parts_of_no_value_are_refused(parts: tuple[object, ...]) -> None:
    encoded = encode(parts, LIMIT)
    with pytest.raises(WireError):
        decode(b"o" + encoded[1:])


class Own(fractions.Fraction):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = fractions.Fraction.__hash__


class Named(collections.deque[int]):
    pass


def test_subclasses_cross_as_what_they_compare_as() -> None:
    assert type(decode(encode(Named([1]), LIMIT))) is collections.deque
    with pytest.raises(WireError, match="'Own', which does not cross"):
        encode(Own(1, 2), LIMIT)


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("from fractions import Fraction as F\ndef f(a, b): return F(a, b)", "assert f(1, 3) + f(2, 3) == 1"),
        ("from decimal import Decimal as D\ndef f(x): return D(x)", "assert str(f('1.10')) == '1.10'"),
        (
            "from collections import deque\ndef f(xs): return deque(xs)",
            "x = f([1])\nx.append(2)\nassert list(x) == [1, 2]",
        ),
        (
            "from collections import OrderedDict as O\ndef f(xs): return O(xs)",
            "from collections import OrderedDict\nassert f([(1, 2), (0, 1)]) != OrderedDict([(0, 1), (1, 2)])",
        ),
        ("from collections import defaultdict\ndef f(): return defaultdict(int)", "assert f()['x'] == 0"),
        ("def f(d): return d.year", "import datetime\nassert f(datetime.date(2024, 1, 1)) == 2024"),
        ("def f(x): return bytearray(x)", "assert f(b'x') == b'x'"),
    ],
)
def test_a_plain_process_says_the_same(code: str, test: str) -> None:
    execution = execute(Program("x", code, (test,)), Limits())
    assert (execution.verdict, execution.inside) == (Verdict.PASSED, False), execution.message
    exec(f"{code}\n{test}", {})


def test_numpy_crosses_both_ways() -> None:
    tests = (
        "import numpy as np",
        "assert (f(np.arange(3)) == np.array([0, 2, 4])).all()",
        "assert f(np.float64(1.5)) == 3 and isinstance(f(np.float64(1.5)), np.float64)",
        "assert (g(2) == [[1, 0], [0, 1]]).all()",
    )
    for head in ("", "import numpy as np\n"):
        code = head + "def f(x): return 2 * x\ndef g(n):\n    import numpy as np\n    return np.eye(n)"
        execution = execute(Program("x", code, tests, packages=("numpy",)), Limits())
        assert (execution.verdict, execution.inside) == (Verdict.PASSED, False), execution.message
