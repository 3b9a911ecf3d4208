"""Takes values of standard-library and numpy types apart into plain ones, and rebuilds them.

What is built depends on the parts alone: nothing of the other process's classes or code crosses.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Recipe = tuple[Callable[[Any], tuple[Any, ...]], Callable[..., Any]]


def _of(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module) or __import__(module), name)


def _moment(value: Any) -> tuple[Any, ...]:
    return value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold


def _build_moment(kind: str, *parts: Any) -> Any:
    return _of("datetime", kind)(*parts[:-1], fold=parts[-1])


_STANDARD: dict[tuple[str, str], Recipe] = {
    ("builtins", "bytearray"): (lambda v: (bytes(v),), bytearray),
    ("builtins", "slice"): (lambda v: (v.start, v.stop, v.step), slice),
    ("fractions", "Fraction"): (
        lambda v: (v.numerator, v.denominator),
        lambda *parts: _of("fractions", "Fraction")(*map(int, parts)),
    ),
    ("decimal", "Decimal"): (lambda v: (str(v),), lambda text: _of("decimal", "Decimal")(text)),
    ("datetime", "date"): (
        lambda v: (v.year, v.month, v.day),
        lambda *parts: _of("datetime", "date")(*parts),
    ),
    ("datetime", "time"): (_moment, lambda *parts: _build_moment("time", *parts)),
    ("datetime", "datetime"): (
        lambda v: (v.year, v.month, v.day, *_moment(v)),
        lambda *parts: _build_moment("datetime", *parts),
    ),
    ("datetime", "timedelta"): (
        lambda v: (v.days, v.seconds, v.microseconds),
        lambda *parts: _of("datetime", "timedelta")(*parts),
    ),
    ("datetime", "timezone"): (
        lambda v: v.__getinitargs__(),
        lambda *parts: _of("datetime", "timezone")(*parts),
    ),
    ("collections", "deque"): (
        lambda v: (list(v), v.maxlen),
        lambda *parts: _of("collections", "deque")(*parts),
    ),
    ("collections", "Counter"): (lambda v: (dict(v),), lambda parts: _of("collections", "Counter")(parts)),
    ("collections", "OrderedDict"): (
        lambda v: (dict(v),),
        lambda parts: _of("collections", "OrderedDict")(parts),
    ),
    ("collections", "defaultdict"): (
        lambda v: (v.default_factory if v.default_factory in _FACTORIES else None, dict(v)),
        lambda *parts: _of("collections", "defaultdict")(*parts),
    ),
    ("array", "array"): (
        lambda v: (v.typecode, v.tolist()),
        lambda *parts: _of("array", "array")(*parts),
    ),
    ("uuid", "UUID"): (lambda v: (v.int,), lambda number: _of("uuid", "UUID")(int=number)),
    ("zoneinfo", "ZoneInfo"): (lambda v: (v.key,), lambda key: _of("zoneinfo", "ZoneInfo")(key)),
    ("numpy", "ndarray"): (lambda v: _parts_of_array(v), lambda *parts: _build_array(*parts)),
    ("numpy", "generic"): (lambda v: _parts_of_array(v), lambda *parts: _build_array(*parts)[()]),
}
"""By module and name: functions that give a value's parts, and rebuild it from them."""

_FACTORIES: tuple[type, ...] = (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_NUMPY_KINDS = "biufcSUmM"
_OBJECTS = "O"


def standard_type(kind: type) -> tuple[str, str] | None:
    """Module and name of a type whose values cross in parts; None for any other."""
    key = (kind.__module__, kind.__qualname__)
    if key in _STANDARD and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind:
        return key
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind.__module__ == "numpy" and issubclass(kind, numpy.generic):
        return "numpy", "generic"
    return None


def parts_of(value: Any, key: tuple[str, str]) -> tuple[Any, ...]:
    """The parts of a value, after its type's module and name."""
    return *key, *_STANDARD[key][0](value)


def build(parts: tuple[Any, ...]) -> object:
    """Rebuild a value from its parts, which may be anything.

    Raises:
        ValueError: they are not those of a value.
    """
    try:
        return _STANDARD[parts[:2]][1](*parts[2:])
    except (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _parts_of_array(value: Any) -> tuple[Any, ...]:
    if value.dtype.kind in _NUMPY_KINDS:
        return value.dtype.str, value.shape, value.tobytes()
    return _OBJECTS, value.shape, value.ravel().tolist()


def _build_array(dtype: str, shape: tuple[int, ...], content: bytes | list[Any]) -> Any:
    numpy: Any = sys.modules.get("numpy") or __import__("numpy")
    if dtype == _OBJECTS:
        array = numpy.empty(len(content), object)
        for position, element in enumerate(content):
            array[position] = element
        return array.reshape(shape)
    described = numpy.dtype(str(dtype))
    if described.kind not in _NUMPY_KINDS:
        raise ValueError(f"an array of {dtype}")
    if not content:
        return numpy.zeros(shape, described)
    return numpy.frombuffer(content, described).reshape(shape).copy()
