"""Corrupts solutions the way real corpora are wrong, and marks where."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from wmtp.data.tinycode.cases import Case, tells_apart
from wmtp.data.tinycode.compositions import draw_step
from wmtp.data.tinycode.operations import Constant, Operation, Slot, make_step, one_off
from wmtp.data.tinycode.programs import Program, source_code, with_constant_changed, with_one_step_dropped
from wmtp.data.tinycode.rng import Rng
from wmtp.data.tinycode.vocabulary import GROUPS, INT, INT_AND_Y

Span = list[int]
TRIES = 6
TOKEN = re.compile(r"'[^']*'|\w+|\*\*|//|\+=|[=!<>]=|\S")
COMMENTS = (
    "{verb} this later",
    "{verb} by {name}",
    "see note {number}",
    "ticket {number}",
    "{name} will {verb} this",
    "version {number}",
    "ask {name} about {number}",
)
COMMENT_WORDS = {
    "verb": ("check", "clean up", "review", "rewrite", "test", "simplify"),
    "name": ("kim", "alex", "maria", "lee", "noor", "ivan"),
    "number": tuple(range(10, 100)),
}


@dataclass(frozen=True)
class Corruption:
    """A corrupted solution; spans are [start, end) characters of `code`."""

    kind: str
    code: str
    spans: list[Span]


def corrupt(program: Program, cases: Sequence[Case], kinds: Sequence[str], rng: Rng) -> Corruption:
    """Corrupt a program in one place, by the first kind that applies.

    A bug that the cases do not notice is drawn again, and after some tries the next kind follows. Comments
    always apply; they leave the solution right.
    """
    clean = source_code(program)
    for kind in kinds:
        if kind == "comment":
            code, spans = _with_comments(clean, rng)
            return Corruption(kind, code, spans)
        variants = BUGS[kind](program, rng)
        rng.shuffle(variants)
        for variant in variants[:TRIES]:
            if any(tells_apart(case, variant) for case in cases):
                code = source_code(variant)
                return Corruption(kind, code, _token_spans(clean, code))
    raise AssertionError("comments apply to every program")


def _wrong_constants(program: Program, _: Rng) -> list[Program]:
    def others(slot: Slot, constant: Constant) -> list[Constant]:
        near = one_off(constant) if slot.boundary else ()
        return [value for value in slot.values if value not in near]

    return with_constant_changed(program, others)


def _off_by_one(program: Program, _: Rng) -> list[Program]:
    return with_constant_changed(program, lambda slot, constant: one_off(constant) if slot.boundary else ())


def _wrong_operations(program: Program, rng: Rng) -> list[Program]:
    places = [i for i, step in enumerate(program.steps) if _peers(step.operation, program.arguments)]
    variants = []
    for _ in range(TRIES if places else 0):
        index = rng.choice(places)
        step = program.steps[index]
        operation = rng.choice(_peers(step.operation, program.arguments))
        same = operation.slots == step.operation.slots
        wrong = make_step(operation, step.constants) if same else draw_step(operation, rng)
        variants.append(program.with_step(index, wrong))
    return variants


@cache
def _peers(operation: Operation, arguments: tuple[str, ...]) -> list[Operation]:
    """Operations of the same types: those that take the same constants, or all when there is none."""
    integer = INT + INT_AND_Y if "y" in arguments else INT
    for group in (integer, *GROUPS):
        if operation in group:
            others = [other for other in group if other is not operation]
            return [other for other in others if other.slots == operation.slots] or others
    return []


def _dropped_steps(program: Program, _: Rng) -> list[Program]:
    return with_one_step_dropped(program)


BUGS: dict[str, Callable[[Program, Rng], list[Program]]] = {
    "wrong-constant": _wrong_constants,
    "wrong-operation": _wrong_operations,
    "dropped-step": _dropped_steps,
    "off-by-one": _off_by_one,
}
KINDS = (*BUGS, "comment")


def _token_spans(clean: str, code: str) -> list[Span]:
    """The tokens that differ, strings without their quotes; with more or fewer, from the first to the last of them.

    Where tokens are only missing, it is the one that follows them, or the last where none does.
    """
    old, new = TOKEN.findall(clean), list(TOKEN.finditer(code))
    if len(old) == len(new):
        return [_within_quotes(b) for a, b in zip(old, new, strict=True) if a != b.group()]
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i].group()), shorter - 1)
    room = shorter - start
    tail = next((i for i in range(room) if old[-1 - i] != new[-1 - i].group()), room)
    stop = max(len(new) - tail, start + 1)
    return [[new[start].start(), new[stop - 1].end()]]


def _within_quotes(token: re.Match[str]) -> Span:
    is_string = token.group().startswith("'") and len(token.group()) > 2
    return [token.start() + is_string, token.end() - is_string]


def _with_comments(clean: str, rng: Rng) -> tuple[str, list[Span]]:
    """One or two comment lines at random places in the function's body; spans begin at the number sign."""
    lines = clean.splitlines(keepends=True)
    chosen = {1 + rng.below(len(lines) - 1) for _ in range(1 + rng.below(2))}
    code = ""
    spans = []
    for number, line in enumerate(lines):
        if number in chosen:
            indentation = line[: len(line) - len(line.lstrip())]
            words = {key: rng.choice(options) for key, options in COMMENT_WORDS.items()}
            comment = f"# {rng.choice(COMMENTS).format(**words)}"
            start = len(code) + len(indentation)
            spans.append([start, start + len(comment)])
            code += f"{indentation}{comment}\n"
        code += line
    return code, spans
