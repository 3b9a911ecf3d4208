"""Compares outputs by one of two published rules."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from decimal import Decimal

_TOLERANCE = 1e-5
_SHOWN = 60
_SEPARATORS = str.maketrans("\n\t\r\v", "    ")
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_OF_NUMBERS = frozenset("+-.0123456789aefinty")
"""Characters of decimal numbers, `inf`, `infinity` and `nan`; Python reads more, `1_0` and foreign digits."""


def difference(written: str, expected: str, comparison: str = "tokens") -> str:
    """The first difference between two outputs; empty if there is none.

    Args:
        comparison: `tokens` or `lines`, see `StdinProgram`.
    """
    if comparison == "lines":
        parts, same, unit = _lines, lines_agree, "line"
    else:
        parts, same, unit = _tokens, agree, "token"
    ours, theirs = parts(written), parts(expected)
    for position, (part, right) in enumerate(zip(ours, theirs, strict=False), 1):
        if not same(part, right):
            return f"{unit} {position} is {_show(part)}, not {_show(right)}"
    return "" if len(ours) == len(theirs) else f"{len(ours)} {unit}s instead of {len(theirs)}"


def agree(token: str, right: str, /) -> bool:
    """Whether a token is the expected one: the same but for the case of ASCII letters, or nearly the same number.

    Integers are the same number or not; of others, the absolute difference is below 1e-5.
    """
    token, right = token.translate(_LOWER), right.translate(_LOWER)
    if token == right:
        return True
    whole, whole_right = _integer(token), _integer(right)
    if whole and whole_right:
        return whole == whole_right
    number, number_right = _number(token), _number(right)
    return number is not None and number_right is not None and abs(number - number_right) < _TOLERANCE


def lines_agree(line: str, right: str, /) -> bool:
    """Whether a line is the expected one: the same, or the same numbers exactly."""
    return line == right or ((numbers := _decimals(line)) is not None and numbers == _decimals(right))


def _tokens(text: str) -> list[str]:
    return [token for token in text.translate(_SEPARATORS).split(" ") if token]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _integer(token: str) -> str:
    """The canonical digits of an integer; empty for anything else. `int` would take quadratic time on a long one."""
    digits = token[1:] if token[:1] in ("+", "-") else token
    if not (digits.isascii() and digits.isdigit()):
        return ""
    digits = digits.lstrip("0") or "0"
    return f"-{digits}" if token[0] == "-" and digits != "0" else digits


def _number(token: str) -> float | None:
    if not _OF_NUMBERS.issuperset(token):
        return None
    try:
        return float(token)
    except ValueError:
        return None


def _decimals(line: str) -> list[Decimal] | None:
    from decimal import Decimal  # 2 ms, and seldom needed

    try:
        numbers = [Decimal(token) for token in line.split()]
    except ArithmeticError:
        return None
    return None if any(number.is_nan() for number in numbers) else numbers


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
