"""Compositions: which operations in which order, without the constants; each is in one split only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wmtp.data.tinycode.operations import Constant, Operation, Step, Type, make_step
from wmtp.data.tinycode.programs import Block, BlockKind, Program, arguments_for
from wmtp.data.tinycode.rng import Rng
from wmtp.data.tinycode.vocabulary import CONDITIONS, EACH, FROM_TYPE, INT, INT_AND_Y, REPEAT, UP_TO

START_TYPE: dict[str, Type] = {"list": "list", "arithmetic": "int", "string": "str"}
TYPES: tuple[Type, ...] = ("int", "list", "str")
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Composition:
    """A program without its constants; `operations` has the block's header at `block.start`."""

    family: str
    operations: tuple[Operation, ...]
    block: Block | None = None

    @property
    def names(self) -> list[str]:
        """The operations' names, without the block's header."""
        header = self.block.start if self.block else None
        return [operation.name for i, operation in enumerate(self.operations) if i != header]

    @property
    def branch(self) -> str | None:
        """The block's kind, its header, and how many operations come before it."""
        if self.block is None:
            return None
        return f"{self.block.kind} {self.operations[self.block.start].name} after {self.block.start}"

    @property
    def split(self) -> Split:
        """The split that this composition belongs to: nine tenths train, a hash decides.

        A single operation is always in train, for there is nothing to put together.
        """
        names = self.names
        key = f"{self.family}|{' '.join(names)}|{self.branch}"
        bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
        if len(names) == 1 or bucket >= 2:
            return "train"
        return "validation" if bucket == 0 else "test"

    def instantiate(self, rng: Rng) -> Program:
        """A program with constants drawn at random."""
        steps = tuple(draw_step(operation, rng) for operation in self.operations)
        return Program(self.family, arguments_for(self.operations), steps, self.block)


def draw_step(operation: Operation, rng: Rng) -> Step:
    """A step of this operation with constants drawn at random, all different."""
    constants: list[Constant] = []
    for slot in operation.slots:
        constants.append(rng.choice([value for value in slot.values if value not in constants]))
    return make_step(operation, tuple(constants))


def draw_composition(family: str, count: int, rng: Rng) -> Composition:
    """A random composition of `count` operations whose types fit together; no operation twice in a row."""
    if family == "control":
        return _draw_control(count, rng)
    source = START_TYPE[family]
    available = FROM_TYPE | {"int": INT + INT_AND_Y} if family == "arithmetic" else FROM_TYPE
    return Composition(family, tuple(_draw_chain(source, count, available, rng)))


def _draw_chain(
    source: Type, count: int, available: dict[Type, tuple[Operation, ...]], rng: Rng
) -> list[Operation]:
    chain: list[Operation] = []
    for _ in range(count):
        options = available[source]
        operation = rng.choice(options)
        while chain and operation is chain[-1]:
            operation = rng.choice(options)
        chain.append(operation)
        source = operation.target
    return chain


def _draw_control(count: int, rng: Rng) -> Composition:
    source: Type = rng.choice(TYPES)
    before = _draw_chain(source, rng.below(count), FROM_TYPE, rng)
    current = before[-1].target if before else source
    kind = rng.choice(_block_kinds(current, count - len(before), bool(before)))
    header: Operation = {"repeat": REPEAT, "each": EACH, "up-to": UP_TO}.get(kind) or rng.choice(
        CONDITIONS[current]
    )
    options = INT if kind in ("each", "up-to") else _same_type(current)
    body = [rng.choice(options)]
    if kind == "if-else":
        body.append(rng.choice([operation for operation in options if operation is not body[0]]))
    result = body[0].target
    after = _draw_chain(result, count - len(before) - len(body), FROM_TYPE, rng)
    return Composition("control", (*before, header, *body, *after), Block(kind, len(before)))


def _block_kinds(current: Type, remaining: int, has_before: bool) -> Sequence[BlockKind]:
    kinds: list[BlockKind] = ["if", "repeat"]
    if remaining >= 2:
        kinds.append("if-else")
    if current == "list":
        kinds.append("each")
    if current == "int" and not has_before:
        kinds.append("up-to")
    return kinds


def _same_type(current: Type) -> tuple[Operation, ...]:
    return tuple(operation for operation in FROM_TYPE[current] if operation.target == current)
