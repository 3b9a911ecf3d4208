"""Plain built-in values as bytes, and back: the only thing that crosses between judge and candidate.

`pickle` runs code and `marshal` may crash on hostile bytes; this decoder builds the listed types and nothing else.
A value is one tag byte, for most types a length or count (4 bytes, big-endian), then the payload or the elements; a
dict is keys and values in turn.
Types are compared by identity: a subclass, with whatever `__eq__` it brings, cannot be encoded.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 150
"""Deepest nesting of containers; a value that contains itself exceeds it."""

_LENGTH = struct.Struct(">I")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")

_SINGLETONS = {b"N": None, b"T": True, b"F": False}
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"z"}
_SEQUENCE_OF_TAG = {tag: kind for kind, tag in _SEQUENCES.items()}
_TYPES = (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple, type(None))
_NAME_OF_TYPE: dict[type, bytes] = {kind: kind.__name__.encode() for kind in _TYPES}
_TYPE_OF_NAME = {name: kind for kind, name in _NAME_OF_TYPE.items()}


class WireError(ValueError):
    """A value that cannot be encoded, or bytes that are not an encoded value."""


def encode(value: object, limit: int, as_dict: tuple[type, ...] = ()) -> bytes:
    """Encode a plain value.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, nested at will, and
            these types themselves.
        limit: largest size of the result, bytes.
        as_dict: subclasses of dict that are sent as the dict they hold.

    Raises:
        WireError: another type, nesting beyond `MAX_DEPTH`, or more than `limit` bytes.
    """
    out = bytearray()
    _write(out, value, limit, {dict, *as_dict}, 0)
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


def _write(out: bytearray, value: Any, limit: int, mappings: set[type], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"nested more than {MAX_DEPTH} deep, or containing itself")
    kind = type(value)
    if kind in (str, bytes, list, tuple, set, frozenset) and len(value) > limit:  # before copying it
        raise WireError(f"larger than {limit} bytes")
    if value is None or value is True or value is False:
        out += b"N" if value is None else b"T" if value is True else b"F"
    elif kind in _SEQUENCES or kind in mappings:
        inner = list(value) if kind in _SEQUENCES else [part for item in dict.items(value) for part in item]
        out += _SEQUENCES.get(kind, b"d") + _LENGTH.pack(len(inner))
        for element in inner:
            _write(out, element, limit, mappings, depth + 1)
    else:
        tag, payload = _atom(value, kind)
        out += tag + _LENGTH.pack(len(payload)) + payload
    if len(out) > limit:
        raise WireError(f"larger than {limit} bytes")


def _atom(value: Any, kind: type) -> tuple[bytes, bytes]:
    if kind is int:
        return b"i", value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)
    if kind is float:
        return b"f", _FLOAT.pack(value)
    if kind is complex:
        return b"c", _COMPLEX.pack(value.real, value.imag)
    if kind is str:
        return b"s", value.encode("utf-8", "surrogatepass")
    if kind is bytes:
        return b"b", value
    if kind is type and value in _NAME_OF_TYPE:
        return b"y", _NAME_OF_TYPE[value]
    raise WireError(f"of type {kind.__name__!r}, which is not a plain built-in type")


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
    if tag in _SEQUENCE_OF_TAG or tag == b"d":
        return _read_container(data, tag, size, start, depth)
    return _read_atom(tag, data[start : start + size]), start + size


def _read_container(data: bytes, tag: bytes, size: int, at: int, depth: int) -> tuple[object, int]:
    elements = []
    for _ in range(size):
        element, at = _read(data, at, depth + 1)
        elements.append(element)
    try:
        if tag == b"d":
            return dict(zip(elements[::2], elements[1::2], strict=True)), at
        return _SEQUENCE_OF_TAG[tag](elements), at
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
