"""Chooses inputs that distinguish a program from similar ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wmtp.data.tinycode.operations import Constant, Slot, Type, one_off
from wmtp.data.tinycode.programs import (
    Arguments,
    Program,
    run,
    with_block_simplified,
    with_constant_changed,
    with_one_step_dropped,
)
from wmtp.data.tinycode.rng import Rng

POOLS = 2
FEWEST = 3
MOST = 5
LONGEST_VALUE = 60
WORDS = (
    "apple",
    "river",
    "code",
    "stone",
    "banana",
    "lemon",
    "tiger",
    "table",
    "Oslo",
    "Rome",
    "a1",
    "42",
    "b7c",
)


@dataclass(frozen=True)
class Case:
    """Arguments and the value that is expected for them."""

    arguments: Arguments
    expected: Any

    def __str__(self) -> str:
        return f"assert f({', '.join(map(repr, self.arguments))}) == {self.expected!r}"


def draw_cases(program: Program, pool_size: int, rng: Rng) -> list[Case] | None:
    """Three to five cases, or more where needed, that every program with a step or a condition less fails.

    Among `pool_size` random inputs those are taken first that also tell most changes of a constant by one.

    Returns: None if no such inputs were found, since some step has no effect.
    """
    required = with_one_step_dropped(program) + with_block_simplified(program)
    variants = required + with_constant_changed(program, _neighbours)
    for _ in range(POOLS):
        pool = _draw_pool(program, pool_size, rng)
        signatures = [sum(tells_apart(case, v) << bit for bit, v in enumerate(variants)) for case in pool]
        chosen = _cover(signatures, (1 << len(required)) - 1)
        if len({repr(pool[i].expected) for i in chosen}) > 1:
            return [pool[i] for i in chosen]
    return None


def tells_apart(case: Case, variant: Program) -> bool:
    """Whether a program fails the case: it returns something else, or its types no longer fit."""
    try:
        return bool(run(variant, case.arguments) != case.expected)
    except (TypeError, AttributeError):
        return True


def _cover(signatures: Sequence[int], required: int) -> list[int]:
    """Greedily chosen cases that tell all required variants apart, or none."""
    left = required
    for bits in signatures:
        left |= bits
    chosen: list[int] = []
    while len(chosen) < len(signatures):
        if len(chosen) >= FEWEST and not left & required and (len(chosen) >= MOST or not left):
            return chosen
        gains = [((bits & left & required).bit_count(), (bits & left).bit_count()) for bits in signatures]
        best = max((i for i in range(len(signatures)) if i not in chosen), key=gains.__getitem__)
        chosen.append(best)
        left &= ~signatures[best]
    return chosen if len(chosen) >= FEWEST and not left & required else []


def _draw_pool(program: Program, size: int, rng: Rng) -> list[Case]:
    constants = [constant for step in program.steps for constant in step.constants]
    numbers = [c + d for c in constants if isinstance(c, int) for d in (-1, 0, 1)]
    glue = [c for c in constants if isinstance(c, str)]
    pool: dict[str, Case] = {}
    for _ in range(size):
        arguments = tuple(_draw_value(program.source, numbers, glue, rng) for _ in program.arguments)
        expected = run(program, arguments)
        if len(repr(expected)) <= LONGEST_VALUE:
            pool[repr(arguments)] = Case(arguments, expected)
    return list(pool.values())


def _draw_value(type_: Type, near: Sequence[int], glue: Sequence[str], rng: Rng) -> Any:
    if type_ == "int":
        return _draw_int(near, rng)
    return _draw_list(near, rng) if type_ == "list" else _draw_string(near, glue, rng)


def _draw_int(near: Sequence[int], rng: Rng) -> int:
    return rng.choice(near) if near and rng.below(2) else rng.below(31) - 10


def _draw_list(near: Sequence[int], rng: Rng) -> list[int]:
    values: list[int] = []
    length = rng.choice(near) if near and not rng.below(3) else 1 + rng.below(8)
    for _ in range(length):
        kind = rng.below(12)
        if kind < 3 and values:
            values.append(rng.choice(values))
        elif kind < 6 and near:
            values.append(rng.choice(near))
        else:
            values.append(rng.below(25) - 9)
    return values


def _draw_string(near: Sequence[int], glue: Sequence[str], rng: Rng) -> str:
    words = [rng.choice(WORDS) for _ in range(1 + rng.below(3))]
    if rng.below(2):
        place = rng.below(len(words))
        words[place] = rng.choice((words[place].upper(), words[place].title()))
    text = " ".join(words)
    if near and not rng.below(3):
        text = text[: rng.choice(near) or 1]
    if glue and rng.below(2):
        place = rng.below(len(text) + 1)
        text = text[:place] + rng.choice(glue) + text[place:]
    return text


def _neighbours(slot: Slot, constant: Constant) -> Sequence[Constant]:
    return one_off(constant) or [value for value in slot.values if value != constant][:2]
