"""What a tinycode program can do: one expression, several wordings, constants from small domains.

In an expression `{x}` is the operand and `{0}`, `{1}` are constants. A wording is an imperative phrase,
or for a condition a clause about "it". Wordings of operations on one type are never alike, so that a text
has one reading.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Type = Literal["int", "list", "str", "bool", "iterable"]
Constant = int | str


@dataclass(frozen=True, eq=False)
class Slot:
    """The values that a constant can take; a boundary is where an off-by-one happens."""

    values: tuple[Constant, ...]
    boundary: bool = False


def one_off(constant: Constant) -> tuple[int, ...]:
    """The positive integers beside an integer constant."""
    if isinstance(constant, str):
        return ()
    return (constant - 1, constant + 1) if constant > 1 else (constant + 1,)


@dataclass(frozen=True, eq=False)
class Operation:
    """A function of one value, from one type to another."""

    name: str
    source: Type
    target: Type
    expression: str
    slots: tuple[Slot, ...]
    wordings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """An operation with its constants; `function` computes it from x and y. Made by `make_step`."""

    operation: Operation
    constants: tuple[Constant, ...]
    function: Callable[[Any, Any], Any]


@cache
def make_step(operation: Operation, constants: tuple[Constant, ...]) -> Step:
    """The one step of this operation with these constants."""
    function = eval(f"lambda x, y: {render(operation, constants, 'x')}")
    return Step(operation, constants, function)


@cache
def render(operation: Operation, constants: tuple[Constant, ...], operand: str) -> str:
    """The operation as Python, applied to an operand."""
    return operation.expression.format(*map(repr, constants), x=operand)
