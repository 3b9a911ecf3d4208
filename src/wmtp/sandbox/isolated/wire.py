"""Encodes plain values as bytes, and back: nothing else crosses between judge and candidate.

`pickle` runs code and `marshal` may crash on hostile bytes; this decoder builds the listed types and nothing else.
A value is one tag byte, for most types a length or count (4 bytes, big-endian), then the payload or the elements; a
dict is two lists, a set the size of its table and two lists, a range its start, stop and step. Long lists and tuples
of whole numbers, floats or texts alone are packed.
A value of a subclass that compares by its base's `__eq__` (a named tuple, an `IntEnum`) is sent as its base's; one
with an `__eq__` of its own cannot be encoded.
"""

from __future__ import annotations

import itertools
import struct

from . import sets, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

MAX_DEPTH = 150
"""Deepest nesting of containers; a value that contains itself exceeds it."""

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">cI")
_INT = struct.Struct(">q")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")
_PACKED_FROM = 16
_PIECE = 4096
_WIDTHS = ((b"b", 7), (b"h", 15), (b"i", 31), (b"q", 63))

ITERATOR: type = type(iter([]))
"""What every iterator arrives as; it is read to its end before it is sent."""

_KEYS: type = type({}.keys())
_VALUES: type = type({}.values())
_ITEMS: type = type({}.items())
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


def encode(value: object, limit: int) -> bytes:
    """Encode a plain value.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range, a dict's views,
            iterators, the types that `values` knows, nested at will, and the types up to frozenset themselves.
        limit: largest size of the result, bytes.

    Raises:
        ForeignError: another type.
        WireError: nesting beyond `MAX_DEPTH`, or more than `limit` bytes.
    """
    return bytes(_Writer(limit).written(value))


def decode(data: bytes) -> object:
    """Decode bytes that may have been written by anybody.

    Raises:
        WireError: the bytes are not exactly one encoded value.
    """
    try:
        value, end = _read(data, 0, 0)
    except WireError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:  # cut off, no such tag, an unhashable element
        raise WireError(f"damaged: {type(error).__name__}: {error}") from None
    if end != len(data):
        raise WireError(f"{len(data) - end} bytes after the value")
    return value


class _Writer:
    """The bytes written so far, and their limit."""

    def __init__(self, limit: int) -> None:
        self.out = bytearray()
        self.limit = limit

    def written(self, value: object) -> bytearray:
        self.write(value, 0)
        return self.out

    def write(self, value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise WireError(f"nested more than {MAX_DEPTH} deep, or containing itself")
        kind = type(value)
        write = _WRITERS.get(kind)
        if write is None:
            self._write_foreign(value, kind, depth)
        else:
            write(self, value, depth)
        if len(self.out) > self.limit:
            self.check()

    def check(self, more: int = 0) -> None:
        if len(self.out) + more > self.limit:
            raise WireError(f"larger than {self.limit} bytes")

    def atom(self, tag: bytes, payload: bytes) -> None:
        self.out += _HEAD.pack(tag, len(payload))
        self.out += payload

    def parts(self, tag: bytes, parts: Iterable[object], depth: int) -> None:
        """Write a container; elements are counted as they come, since some are made only now."""
        head = len(self.out)
        self.out += tag + b"\0\0\0\0"
        count, write, deeper = 0, self.write, depth + 1
        for part in parts:
            write(part, deeper)
            count += 1
        _LENGTH.pack_into(self.out, head + 1, count)

    def sequence(self, tag: bytes, value: Any, depth: int) -> None:
        """Write a list or tuple, packed if it is long and of one type."""
        if len(value) < _PACKED_FROM or not self._pack(tag, value):
            self.parts(tag, value, depth)

    def _pack(self, tag: bytes, value: Any) -> bool:
        kinds = set(map(type, value))
        self.check(len(value) if len(kinds) == 1 else 0)
        if kinds == {int}:
            bits = max(max(value).bit_length(), (~min(value)).bit_length())
            code = next((code for code, width in _WIDTHS if bits <= width), b"")
            if code:
                self.atom(b"P", tag + code + struct.pack(f">{len(value)}{code.decode()}", *value))
            return bool(code)
        if kinds == {float}:
            self.atom(b"P", tag + b"d" + struct.pack(f">{len(value)}d", *value))
            return True
        if kinds == {str}:
            text = "".join(value)
            self.check(len(text))
            lengths = struct.pack(f">{len(value)}I", *map(len, value))
            self.atom(
                b"P", tag + b"s" + _LENGTH.pack(len(value)) + lengths + text.encode("utf-8", "surrogatepass")
            )
            return True
        return False

    def iterator(self, value: Any, depth: int) -> None:
        pieces = iter(lambda: list(itertools.islice(value, _PIECE)), [])
        head = len(self.out)
        self.out += b"I\0\0\0\0"
        count = 0
        for piece in pieces:
            self.sequence(b"l", piece, depth)
            self.check()
            count += 1
        _LENGTH.pack_into(self.out, head + 1, count)

    def as_set(self, tag: bytes, value: Any, kind: type, depth: int) -> None:
        size, taken, elements = sets.take_apart(value, kind)
        self.out += _HEAD.pack(tag, size)
        self.sequence(b"l", taken, depth)
        self.sequence(b"l", elements, depth)

    def as_dict(self, value: Any, depth: int) -> None:
        self.out += b"d"
        self.sequence(b"l", list(dict.keys(value)), depth)
        self.sequence(b"l", list(dict.values(value)), depth)

    def as_type(self, value: Any) -> None:
        if value not in _NAME_OF_TYPE:
            raise ForeignError(value, type(value))
        self.atom(b"y", _NAME_OF_TYPE[value])

    def text(self, value: Any) -> None:
        if len(value) > self.limit:  # before copying it
            self.check(len(value))
        payload = str.encode(value, "utf-8", "surrogatepass")
        self.out += _HEAD.pack(b"s", len(payload)) + payload

    def binary(self, value: Any) -> None:
        self.check(len(value))
        self.atom(b"b", value)

    def _write_foreign(self, value: Any, kind: Any, depth: int) -> None:
        """Write a value as the nearest base class that has the same `__eq__`."""
        for base in kind.__mro__[:-1]:
            if base.__eq__ is kind.__eq__ and (key := values.standard_type(base)) is not None:
                self.parts(b"o", values.parts_of(value, key), depth)
                return
            if base in _BASES and base.__eq__ is kind.__eq__:
                _WRITERS[base](self, value, depth)
                return
        if not hasattr(kind, "__next__") or kind.__eq__ is not object.__eq__:
            raise ForeignError(value, kind)
        self.iterator(value, depth)


def _write_int(writer: _Writer, value: Any, _: int) -> None:
    try:
        writer.out += b"j" + _INT.pack(value)
    except struct.error:
        _write_long(writer, value)


def _write_long(writer: _Writer, value: int) -> None:
    writer.atom(b"i", int.to_bytes(value, (int.bit_length(value) + 8) // 8, "big", signed=True))


_WRITERS: dict[type, Callable[[_Writer, Any, int], None]] = {
    type(None): lambda writer, _, __: writer.out.extend(b"N"),
    bool: lambda writer, value, _: writer.out.extend(b"T" if value else b"F"),
    int: _write_int,
    float: lambda writer, value, _: writer.out.extend(b"f" + _FLOAT.pack(value)),
    complex: lambda writer, value, _: writer.out.extend(b"c" + _COMPLEX.pack(value.real, value.imag)),
    str: lambda writer, value, _: writer.text(value),
    bytes: lambda writer, value, _: writer.binary(value),
    type: lambda writer, value, _: writer.as_type(value),
    list: lambda writer, value, depth: writer.sequence(b"l", value, depth),
    tuple: lambda writer, value, depth: writer.sequence(b"t", value, depth),
    dict: lambda writer, value, depth: writer.as_dict(value, depth),
    set: lambda writer, value, depth: writer.as_set(b"S", value, set, depth),
    frozenset: lambda writer, value, depth: writer.as_set(b"z", value, frozenset, depth),
    range: lambda writer, value, depth: writer.parts(b"r", (value.start, value.stop, value.step), depth),
    _KEYS: lambda writer, value, depth: writer.parts(b"k", value, depth),
    _VALUES: lambda writer, value, depth: writer.parts(b"v", value, depth),
    _ITEMS: lambda writer, value, depth: writer.parts(b"p", value, depth),
    ITERATOR: lambda writer, value, depth: writer.iterator(value, depth),
}
_BASES = frozenset({int, float, complex, str, bytes, list, tuple, set, frozenset, dict})

_BUILDERS: dict[str, Callable[[list[Any]], object]] = {
    "l": list,
    "t": tuple,
    "r": lambda parts: range(*parts),
    "k": lambda parts: dict.fromkeys(parts).keys(),
    "v": lambda parts: dict(enumerate(parts)).values(),
    "p": lambda parts: dict(parts).items(),
    "o": lambda parts: values.build(tuple(parts)),
}


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    value, end = _READERS[data[at]](data, at + 1, depth)
    return value, end


def _size(data: bytes, at: int) -> tuple[int, int]:
    """A count or length at a position, and the position after it."""
    (size,) = _LENGTH.unpack_from(data, at)
    if size > len(data) - at:  # an element takes a byte or more, so this bounds counts too
        raise WireError("cut off")
    return size, at + _LENGTH.size


def _parts_reader(build: Callable[[list[Any]], object]) -> Any:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        if depth > MAX_DEPTH:
            raise WireError(f"nested more than {MAX_DEPTH} deep")
        size, at = _size(data, at)
        elements = []
        deeper = depth + 1
        for _ in range(size):
            element, at = _READERS[data[at]](data, at + 1, deeper)
            elements.append(element)
        return build(elements), at

    return read


def _payload_reader(build: Callable[[bytes], object]) -> Any:
    def read(data: bytes, at: int, _: int) -> tuple[object, int]:
        size, at = _size(data, at)
        if size > len(data) - at:
            raise WireError("cut off")
        return build(data[at : at + size]), at + size

    return read


def _set_reader(kind: type) -> Any:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        (size,) = _LENGTH.unpack_from(data, at)
        taken, middle = _read_list(data, at + _LENGTH.size, depth)
        elements, end = _read_list(data, middle, depth)
        return sets.build(kind, size, taken, elements), end

    return read


def _read_dict(data: bytes, at: int, depth: int) -> tuple[object, int]:
    keys, middle = _read_list(data, at, depth)
    items, end = _read_list(data, middle, depth)
    return dict(zip(keys, items, strict=True)), end


def _read_iterator(data: bytes, at: int, depth: int) -> tuple[object, int]:
    size, at = _size(data, at)
    elements: list[object] = []
    for _ in range(size):
        piece, at = _read_list(data, at, depth)
        elements += piece
    return iter(elements), at


def _read_list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """A part of another value that must be a list."""
    value, end = _read(data, at, depth) if data[at : at + 1] in (b"l", b"P") else (None, at)
    if type(value) is not list:
        raise WireError("no list where one must be")
    return value, end


def _unpack(payload: bytes) -> object:
    """A packed list or tuple."""
    build = {b"l": list, b"t": tuple}[payload[:1]]
    code, body = payload[1:2], payload[2:]
    if code == b"s":
        (count,) = _LENGTH.unpack_from(body)
        start = _LENGTH.size * (1 + count)
        ends = list(itertools.accumulate(struct.unpack(f">{count}I", body[_LENGTH.size : start])))
        text = body[start:].decode("utf-8", "surrogatepass")
        if not ends or ends[-1] != len(text):
            raise WireError("texts of another length")
        return build([text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    size = {b"b": 1, b"h": 2, b"i": 4, b"q": 8, b"d": 8}[code]
    return build(struct.unpack(f">{len(body) // size}{code.decode()}", body))


_READERS: dict[int, Any] = {
    ord(tag): reader
    for tag, reader in {
        "N": lambda _, at, __: (None, at),
        "T": lambda _, at, __: (True, at),
        "F": lambda _, at, __: (False, at),
        "j": lambda data, at, _: (_INT.unpack_from(data, at)[0], at + _INT.size),
        "f": lambda data, at, _: (_FLOAT.unpack_from(data, at)[0], at + _FLOAT.size),
        "c": lambda data, at, _: (complex(*_COMPLEX.unpack_from(data, at)), at + _COMPLEX.size),
        "i": _payload_reader(lambda payload: int.from_bytes(payload, "big", signed=True)),
        "s": _payload_reader(lambda payload: payload.decode("utf-8", "surrogatepass")),
        "b": _payload_reader(bytes),
        "y": _payload_reader(lambda payload: _TYPE_OF_NAME[payload]),
        "P": _payload_reader(_unpack),
        "S": _set_reader(set),
        "z": _set_reader(frozenset),
        "d": _read_dict,
        "I": _read_iterator,
        **{tag: _parts_reader(build) for tag, build in _BUILDERS.items()},
    }.items()
}
"""Decoders by tag. Damaged bytes may raise anything; `decode` turns it into a `WireError`."""
