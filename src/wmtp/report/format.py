"""Formats numbers and foreign text, for pages and terminals alike."""

import unicodedata

from wmtp.experiment.results import Difference, Interval

MINUS = "\u2212"
ABSENT = "\u2014"


def percent(share: float) -> str:
    """0.605 -> `60.5%`."""
    return f"{100 * share:.1f}%"


def percent_range(interval: Interval) -> str:
    """`53.5 to 67.0%`, or a dash where there is no interval."""
    if interval.low is None or interval.high is None:
        return ABSENT
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}%"


def points(difference: float) -> str:
    """A signed difference of shares in percentage points: 0.425 -> `+42.5`."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def points_range(difference: Difference) -> str:
    """`+35.0 to +50.0`."""
    return f"{points(difference.low)} to {points(difference.high)}"


def p_value(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None, digits: int) -> str:
    """Fixed digits with separated thousands, or a dash."""
    return ABSENT if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def number_range(interval: Interval, digits: int) -> str:
    """`2.101 to 2.134`, or a dash where there is no interval."""
    if interval.low is None or interval.high is None:
        return ABSENT
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def visible(text: str) -> str:
    """Foreign text with invisible control characters spelt out; line feeds and tabs stay.

    It can neither move a terminal's cursor nor reorder what is read (bidirectional overrides).
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE else _escape(c) for c in text
    )


def shortened(text: str, limit: int) -> str:
    """The first `limit` characters, and how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]}\n… {len(text) - limit:,} more characters"


_INVISIBLE = {"Cc", "Cf", "Cs"}


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
