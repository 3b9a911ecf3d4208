"""Programs: a sequence of steps with at most one conditional or loop, as Python source and as a function."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from wmtp.data.tinycode.operations import Constant, Operation, Slot, Step, Type, make_step, render
from wmtp.data.tinycode.vocabulary import INT_AND_Y, KEEP

BlockKind = Literal["if", "if-else", "repeat", "each", "up-to"]
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Block:
    """A conditional or loop: its header is the step at `start`, its body the one or two steps after that."""

    kind: BlockKind
    start: int

    @property
    def end(self) -> int:
        """The index after the body's last step."""
        return self.start + (3 if self.kind == "if-else" else 2)


@dataclass(frozen=True)
class Program:
    """Steps in the order of the text, and the block that some of them form.

    The families differ in layout: `arithmetic` is one expression, the others have a line for each step.
    """

    family: str
    arguments: tuple[str, ...]
    steps: tuple[Step, ...]
    block: Block | None = None

    @cached_property
    def before(self) -> tuple[Step, ...]:
        """The steps before the block; all steps when there is none."""
        return self.steps[: self.block.start] if self.block else self.steps

    @cached_property
    def body(self) -> tuple[Step, ...]:
        """The steps inside the block, without its header."""
        return self.steps[self.block.start + 1 : self.block.end] if self.block else ()

    @cached_property
    def after(self) -> tuple[Step, ...]:
        """The steps after the block."""
        return self.steps[self.block.end :] if self.block else ()

    @property
    def source(self) -> Type:
        """The type of x."""
        plain = self.block is None or self.block.start > 0 or self.block.kind in ("each", "up-to")
        return (self.steps if plain else self.body)[0].operation.source

    def with_step(self, index: int, step: Step) -> "Program":
        """This program with another step at an index."""
        return replace(self, steps=(*self.steps[:index], step, *self.steps[index + 1 :]))


def arguments_for(operations: Iterable[Operation]) -> tuple[str, ...]:
    """The parameters of a function made of these operations."""
    return ("x", "y") if any(operation in INT_AND_Y for operation in operations) else ("x",)


def run(program: Program, arguments: Arguments) -> Any:
    """The value that the program returns."""
    x = arguments[0]
    y = arguments[-1]
    for step in program.before:
        x = step.function(x, y)
    if program.block is None:
        return x
    header = program.steps[program.block.start].function(x, y)
    body = program.body[0].function
    match program.block.kind:
        case "if":
            x = body(x, y) if header else x
        case "if-else":
            x = body(x, y) if header else program.body[1].function(x, y)
        case "repeat":
            for _ in header:
                x = body(x, y)
        case "each" | "up-to":
            x = sum(body(v, y) for v in header)
    for step in program.after:
        x = step.function(x, y)
    return x


def source_code(program: Program) -> str:
    """The program as a Python function `f`."""
    lines = [f"def f({', '.join(program.arguments)}):"]
    if program.family == "arithmetic":
        lines.append(f"    return {_expression(program.steps)}")
    else:
        lines += [f"    {line}" for line in _statements(program)]
    return "\n".join(lines) + "\n"


def _expression(steps: Iterable[Step]) -> str:
    text = "x"
    atomic = True
    for step in steps:
        call = step.operation.expression.endswith(")")
        operand = text if atomic or call else f"({text})"
        text = render(step.operation, step.constants, operand)
        atomic = call
    return text


def _statements(program: Program) -> list[str]:
    lines = [_assignment(step, "x") for step in program.before]
    result = "x"
    if program.block is not None:
        header = program.steps[program.block.start]
        clause = render(header.operation, header.constants, "x")
        totals = program.block.kind in ("each", "up-to")
        lines += (
            _total(clause, program.body[0]) if totals else _block(program.block.kind, clause, program.body)
        )
        result = "t" if totals else "x"
    lines += [_assignment(step, result) for step in program.after]
    return [*lines, f"return {result}"]


def _assignment(step: Step, variable: str) -> str:
    return f"{variable} = {render(step.operation, step.constants, variable)}"


def _block(kind: BlockKind, clause: str, body: tuple[Step, ...]) -> list[str]:
    lines = [
        f"for _ in {clause}:" if kind == "repeat" else f"if {clause}:",
        f"    {_assignment(body[0], 'x')}",
    ]
    if kind == "if-else":
        lines += ["else:", f"    {_assignment(body[1], 'x')}"]
    return lines


def _total(clause: str, step: Step) -> list[str]:
    return ["t = 0", f"for v in {clause}:", f"    t += {render(step.operation, step.constants, 'v')}"]


def with_one_step_dropped(program: Program) -> list[Program]:
    """All programs that lack one step: a line, a whole block, an else, or what a loop does to its numbers."""
    block = program.block
    inside = range(block.start, block.end) if block else range(0)
    variants = [
        _without(program, index, index + 1) for index in range(len(program.steps)) if index not in inside
    ]
    if block is None:
        return variants
    if block.kind == "if-else":
        shorter = _without(program, block.end - 1, block.end)
        variants.append(replace(shorter, block=Block("if", block.start)))
    elif block.kind in ("each", "up-to"):
        variants.append(program.with_step(block.start + 1, make_step(KEEP, ())))
    else:
        variants.append(replace(_without(program, block.start, block.end), block=None))
    return variants


def with_block_simplified(program: Program) -> list[Program]:
    """The programs that do one branch whatever the condition, nothing in the first one, or a loop's step once."""
    block = program.block
    if block is None or block.kind in ("each", "up-to"):
        return []
    variants = [
        replace(program, steps=(*program.before, step, *program.after), block=None) for step in program.body
    ]
    if block.kind == "if-else":
        variants.append(program.with_step(block.start + 1, make_step(KEEP, ())))
    return variants


def with_constant_changed(
    program: Program, alternatives: Callable[[Slot, Constant], Iterable[Constant]]
) -> list[Program]:
    """The programs with one constant replaced by an alternative; constants of a step stay different."""
    return [
        program.with_step(
            index, make_step(step.operation, (*step.constants[:place], other, *step.constants[place + 1 :]))
        )
        for index, step in enumerate(program.steps)
        for place, slot in enumerate(step.operation.slots)
        for other in alternatives(slot, step.constants[place])
        if other not in step.constants
    ]


def _without(program: Program, start: int, end: int) -> Program:
    block = program.block
    if block is not None and end <= block.start:
        block = Block(block.kind, block.start - (end - start))
    return replace(program, steps=program.steps[:start] + program.steps[end:], block=block)
