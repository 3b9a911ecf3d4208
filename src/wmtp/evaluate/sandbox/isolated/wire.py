"""Plain built-in values as bytes, and back: the only thing that crosses between judge and candidate.

`pickle` runs code and `marshal` may crash on hostile bytes; this decoder builds the listed types and nothing else.
A value is one tag byte, for most types a length or count (4 bytes, big-endian), then the payload or the elements; a
dict is keys and values in turn, a range its start, stop and step.
A value of a subclass that compares by its base's `__eq__` (a named tuple, an `IntEnum`) is sent as its base's; one
with an `__eq__` of its own cannot be encoded.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MAX_DEPTH = 150
"""Deepest nesting of containers; a value that contains itself exceeds it."""

_LENGTH = struct.Struct(">I")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")

_SINGLETONS = {b"N": None, b"T": True, b"F": False}


def _dict(parts: list[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


ITERATOR: type = type(iter([]))
"""What all iterators are on the other side, read to their end before they are sent."""

_KEYS: type = type({}.keys())
_VALUES: type = type({}.values())
_ITEMS: type = type({}.items())

_CONTAINERS: dict[type, tuple[bytes, Callable[[Any], Iterable[object]], Callable[[list[Any]], object]]] = {
    list: (b"l", iter, list),
    tuple: (b"t", iter, tuple),
    set: (b"S", iter, set),
    frozenset: (b"z", iter, frozenset),
    dict: (b"d", lambda value: (part for item in dict.items(value) for part in item), _dict),
    range: (b"r", lambda value: (value.start, value.stop, value.step), lambda parts: range(*parts)),
    _KEYS: (b"k", iter, lambda parts: dict.fromkeys(parts).keys()),
    _VALUES: (b"v", iter, lambda parts: dict(enumerate(parts)).values()),
    _ITEMS: (b"p", iter, lambda parts: dict(parts).items()),
    ITERATOR: (b"I", iter, iter),
}
"""Tag, what is sent, and how the value is made of it."""

_BUILDERS = {tag: build for tag, _, build in _CONTAINERS.values()}
_ATOMS = (int, float, complex, str, bytes)
_BASES = (*_ATOMS, list, tuple, set, frozenset, dict)
_PLAIN = frozenset({*_ATOMS, *_CONTAINERS, type})
_TYPES = (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple, type(None))
_NAME_OF_TYPE: dict[type, bytes] = {kind: kind.__name__.encode() for kind in _TYPES}
_TYPE_OF_NAME = {name: kind for kind, name in _NAME_OF_TYPE.items()}


class WireError(ValueError):
    """A value that cannot be encoded, or bytes that are not an encoded value."""


class ForeignError(WireError):
    """A value of a type that does not cross."""

    def __init__(self, value: object, kind: type) -> None:
        super().__init__(f"of type {kind.__name__!r}, which does not cross between processes")
        self.value = value


def encode(value: object, limit: int, as_dict: tuple[type, ...] = ()) -> bytes:
    """Encode a plain value.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range, a dict's views,
            iterators, nested at will, and the types up to frozenset themselves.
        limit: largest size of the result, bytes.
        as_dict: subclasses of dict with an `__eq__` of their own that are sent as the dict they hold.

    Raises:
        WireError: another type, nesting beyond `MAX_DEPTH`, or more than `limit` bytes.
    """
    out = bytearray()
    _write(out, value, limit, as_dict, 0)
    return bytes(out)


def decode(data: bytes) -> object:
    """Decode bytes that may have been written by anybody.

    Raises:
        WireError: the bytes are not exactly one encoded value.
    """
    value, end = _read(data, 0, 0)
    if end != len(data):
        raise WireError(f"{len(data) - end} bytes after the value")
    return value


def _write(out: bytearray, value: Any, limit: int, as_dict: tuple[type, ...], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"nested more than {MAX_DEPTH} deep, or containing itself")
    if value is None or value is True or value is False:
        out += b"N" if value is None else b"T" if value is True else b"F"
        return
    kind = type(value)
    if kind not in _PLAIN:
        plain = _plain_kind(kind, as_dict)
        if plain is None:
            raise ForeignError(value, kind)
        kind = plain
    if kind in _CONTAINERS:
        tag, parts, _ = _CONTAINERS[kind]
        head = len(out)
        out += tag + _LENGTH.pack(0)
        count = 0
        for part in parts(value):
            _write(out, part, limit, as_dict, depth + 1)
            count += 1
        _LENGTH.pack_into(out, head + 1, count)
    else:
        if kind in (str, bytes) and len(value) > limit:  # before copying it
            raise WireError(f"larger than {limit} bytes")
        tag, payload = _atom(value, kind)
        out += tag + _LENGTH.pack(len(payload)) + payload
    if len(out) > limit:
        raise WireError(f"larger than {limit} bytes")


def _plain_kind(kind: Any, as_dict: tuple[type, ...]) -> type | None:
    """The plain type as which the values of another one are sent; None if there is none."""
    if kind in as_dict:
        return dict
    for base in _BASES:
        if issubclass(kind, base) and kind.__eq__ is base.__eq__:
            return base
    if hasattr(kind, "__next__") and kind.__eq__ is object.__eq__:
        return ITERATOR
    return None


def _atom(value: Any, kind: type) -> tuple[bytes, bytes]:
    if kind is int:
        return b"i", int.to_bytes(value, (int.bit_length(value) + 8) // 8, "big", signed=True)
    if kind is float:
        return b"f", _FLOAT.pack(value)
    if kind is complex:
        return b"c", _COMPLEX.pack(value.real, value.imag)
    if kind is str:
        return b"s", str.encode(value, "utf-8", "surrogatepass")
    if kind is bytes:
        return b"b", value
    if value in _NAME_OF_TYPE:
        return b"y", _NAME_OF_TYPE[value]
    raise ForeignError(value, kind)


def _read(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth > MAX_DEPTH:
        raise WireError(f"nested more than {MAX_DEPTH} deep")
    tag = data[at : at + 1]
    if tag in _SINGLETONS:
        return _SINGLETONS[tag], at + 1
    header = data[at + 1 : at + 5]
    if len(header) != 4:
        raise WireError("cut off")
    size, start = int.from_bytes(header, "big"), at + 5
    if size > len(data) - start:  # an element takes a byte or more, so this bounds counts too
        raise WireError("cut off")
    if tag in _BUILDERS:
        return _read_container(data, tag, size, start, depth)
    return _read_atom(tag, data[start : start + size]), start + size


def _read_container(data: bytes, tag: bytes, size: int, at: int, depth: int) -> tuple[object, int]:
    elements = []
    for _ in range(size):
        element, at = _read(data, at, depth + 1)
        elements.append(element)
    try:
        return _BUILDERS[tag](elements), at
    except (TypeError, ValueError) as error:  # an unhashable element, a key without a value
        raise WireError(str(error)) from None


def _read_atom(tag: bytes, payload: bytes) -> object:
    try:
        if tag == b"i":
            return int.from_bytes(payload, "big", signed=True)
        if tag == b"f":
            return _FLOAT.unpack(payload)[0]
        if tag == b"c":
            return complex(*_COMPLEX.unpack(payload))
        if tag == b"s":
            return payload.decode("utf-8", "surrogatepass")
        if tag == b"b":
            return payload
        if tag == b"y":
            return _TYPE_OF_NAME[payload]
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise WireError(f"damaged: {error}") from None
    raise WireError(f"unknown tag {tag!r}")
