"""The arguments of MBPP+'s functions, which its file holds as JSON: what was a tuple or a set is a list there."""

from collections.abc import Callable, Sequence
from typing import Any

Arguments = Sequence[Any]


def _tuples(arguments: Arguments) -> Arguments:
    return [tuple(each) for each in arguments]


def _lists_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(part) for part in each] for each in arguments]


def _tuples_of_tuples(arguments: Arguments) -> Arguments:
    return [tuple([tuple(part) for part in each]) for each in arguments]


def _first_a_list_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(part) for part in arguments[0]], arguments[1]]


def _first_a_tuple(arguments: Arguments) -> Arguments:
    return [tuple(arguments[0]), *arguments[1:]]


def _second_a_tuple(arguments: Arguments) -> Arguments:
    return [arguments[0], tuple(arguments[1])]


def _list_of_sets(arguments: Arguments) -> Arguments:
    return [[set(part) if isinstance(part, list) and part else {} for part in arguments[0]]]


def _float_and_complex(arguments: Arguments) -> Arguments:
    return [float(arguments[0]), complex(arguments[1])]


def _complex(arguments: Arguments) -> Arguments:
    return [complex(arguments[0])]


def _tuple_with_tuples(arguments: Arguments) -> Arguments:
    return [tuple([tuple(part) if isinstance(part, list) else part for part in arguments[0]])]


def _first_a_dict_of_tuples(arguments: Arguments) -> Arguments:
    return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]


def _all_tuples(value: Any) -> Any:
    return tuple([_all_tuples(part) for part in value]) if isinstance(value, list) else value


# fmt: off
_KINDS: dict[Callable[[Arguments], Arguments], tuple[int, ...]] = {
    _tuples: (
        2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809,
    ),
    _lists_of_tuples: (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    _tuples_of_tuples: (259, 401, 445),
    _first_a_list_of_tuples: (75, 413, 444, 753),
    _first_a_tuple: (250, 307, 405, 446, 617, 720, 763, 808),
    _second_a_tuple: (106, 750),
    _list_of_sets: (115,),
    _float_and_complex: (124,),
    _complex: (252,),
    _tuple_with_tuples: (278,),
    _first_a_dict_of_tuples: (722,),
    _all_tuples: (580, 615, 791),
}
# fmt: on
_CONVERSIONS = {number: convert for convert, numbers in _KINDS.items() for number in numbers}


def mbpp_arguments(number: int, inputs: Sequence[Arguments]) -> list[Arguments]:
    """A problem's inputs with the types that its function expects.

    Args:
        number: of the problem.
        inputs: as in the file, the arguments of each call.

    Raises:
        TypeError, ValueError, LookupError, AttributeError: they are of another shape than this problem's.
    """
    convert = _CONVERSIONS.get(number, list)
    return [convert(arguments) for arguments in inputs]
