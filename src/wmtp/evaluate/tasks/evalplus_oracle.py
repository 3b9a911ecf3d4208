"""EvalPlus's comparison of a function's results with those of the reference solution.

This file is also the text that precedes the tests of EvalPlus's problems, and runs where they run: it imports the
standard library only. Where `np.allclose` is asked there, the same arithmetic is done here on Python's numbers;
lists of different shapes are different, while numpy would stretch the smaller one.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

RELATIVE = 1e-07
FLOAT_TOLERANCE = 1e-06
"""Between floats, where the problem names no tolerance."""

AS_SETS = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}
"""Functions of MBPP+ whose results count as sets."""
ONLY_WHETHER_NONE = {"check_str", "text_match_three", "text_starta_endb"}
"""Functions of MBPP+ of whose results only matters whether they are None; bools say it themselves."""


def check_results(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Sequence[Sequence[Any]],
    rules: tuple[str, str, float],
) -> None:
    """Compare a function's results with the reference's, input by input.

    Args:
        function: of the candidate.
        reference: the right one; it works on copies.
        inputs: the arguments of each call.
        rules: benchmark ("humaneval" or "mbpp"), the function's name, absolute tolerance.

    Raises:
        AssertionError: one of the results is not right.
    """
    benchmark, name, tolerance = rules
    for number, given in enumerate(inputs, start=1):
        wanted = reference(*copy.deepcopy(given))
        if benchmark == "mbpp" and name in ONLY_WHETHER_NONE:
            wanted = wanted is not None
        found = function(*given)
        if tolerance == 0 and is_float(wanted) and (benchmark, name) != ("humaneval", "find_zero"):
            tolerance = FLOAT_TOLERANCE  # for this result and those behind it
        try:
            is_right = _agrees(found, wanted, given, (benchmark, name, tolerance))
        except Exception:  # what cannot be compared is not equal
            is_right = False
        if not is_right:
            raise AssertionError(f"input {number} of {len(inputs)}: the result should be {_shown(wanted)}")


def is_float(value: object) -> bool:
    """Whether it is a float, or a list or tuple of nothing else."""
    if isinstance(value, list | tuple) and value:
        return all(isinstance(each, float) for each in value)
    return isinstance(value, float)


def _agrees(found: Any, wanted: Any, given: Sequence[Any], rules: tuple[str, str, float]) -> bool:
    benchmark, name, tolerance = rules
    if (benchmark, name) == ("humaneval", "find_zero"):
        return bool(abs(sum(c * math.pow(found, power) for power, c in enumerate(given[0]))) <= tolerance)
    is_equal = bool(found == wanted or _with_one_nan(found) == _with_one_nan(wanted))
    if benchmark == "mbpp":
        if name in AS_SETS:
            is_equal = set(found) == set(wanted)
        elif name in ONLY_WHETHER_NONE:
            is_equal = (found if isinstance(found, bool) else found is not None) == wanted
        else:
            is_equal = is_equal or _is_another_answer(name, found, given, tolerance)
    if is_equal or tolerance == 0:
        return is_equal
    return type(found) is type(wanted) and is_close(found, wanted, tolerance)


def _with_one_nan(value: Any) -> Any:
    """The value with the same object for every NaN: containers of it are equal then, as those of the input's NaN are.

    Where function and reference run in one process, a NaN that both took from the input is one object.
    """
    if isinstance(value, float):
        return math.nan if math.isnan(value) else value
    if isinstance(value, dict):
        return {_with_one_nan(key): _with_one_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([_with_one_nan(each) for each in value])
    return value


def _is_another_answer(name: str, found: Any, given: Sequence[Any], tolerance: float) -> bool:
    """Whether it is right by another reading of an ambiguous problem of MBPP+."""
    if name == "are_equivalent":
        return True
    if name == "sum_div":
        return bool(found == 0)
    if name == "surface_Area":  # the height is the pyramid's own, not that of its sides
        base, height = given
        slant = math.sqrt((base / 2) ** 2 + height**2)
        return bool(abs(found - round(base**2 + 2 * base * slant)) <= tolerance)
    if name == "digit_distance_nums":  # digit by digit
        one, other = (str(number) for number in given)
        width = max(len(one), len(other))
        pairs = zip(one.zfill(width), other.zfill(width), strict=True)
        return bool(found == sum(abs(int(a) - int(b)) for a, b in pairs))
    return False


def is_close(found: Any, wanted: Any, tolerance: float) -> bool:
    """Whether numbers, or nested lists of them, are as near to each other as `np.allclose` asks.

    What is neither is near to nothing.
    """
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(is_close(a, b, tolerance) for a, b in pairs)
    if not (_is_number(found) and _is_number(wanted)):
        return False
    is_finite = abs(wanted) < math.inf
    return bool(found == wanted or (is_finite and abs(found - wanted) <= tolerance + RELATIVE * abs(wanted)))


def _is_number(value: object) -> bool:
    """Whether numpy takes it for one: not beyond 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return isinstance(value, float | complex)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer beyond sys.set_int_max_str_digits
        return f"a certain {type(value).__name__}"
    return text if len(text) <= 160 else text[:160] + "…"
