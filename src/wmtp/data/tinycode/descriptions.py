"""Describes programs in words: one of several frames around one of several wordings of each step."""

from dataclasses import dataclass

from wmtp.data.tinycode.operations import Step, Type
from wmtp.data.tinycode.programs import Program
from wmtp.data.tinycode.rng import Rng

NOUNS: dict[Type, tuple[str, ...]] = {
    "int": ("an integer", "a number", "a whole number"),
    "list": ("a list of integers", "a list of numbers", "a list of whole numbers"),
    "str": ("a string", "a string of text", "some text as a string"),
}
NAMED_NOUNS = ("an integer x", "a number x", "a whole number x")
TWO_NOUNS = ("two integers x and y", "two numbers x and y", "two whole numbers x and y")


@dataclass(frozen=True)
class Frame:
    """Words around and between the steps of a sequence."""

    pattern: str
    join: str


FRAMES = (
    Frame("Given {noun}, {steps} and return the result.", ", then "),
    Frame("Write a function that, given {noun}, will {steps}.", ", then "),
    Frame("Starting with {noun}, {steps} and return what you get.", "; next, "),
    Frame("A function receives {noun} and should {steps}.", ", after that "),
    Frame("Write code for this: given {noun}, {steps}.", ", and then "),
)
OPENINGS = (
    "Given {noun}, do the following.",
    "Write a function that takes {noun}.",
    "A function receives {noun}.",
    "Write code that works on {noun}.",
)
CHOICES = (
    "if {condition}, {p}",
    "when {condition}, {p}",
    "{p}, but only if {condition}",
)
ALTERNATIVES = (
    "if {condition}, {p}; otherwise {q}",
    "when {condition}, {p}, else {q}",
    "{p} if {condition}, otherwise {q}",
)
AFTER_CHOICE = ("In any case, {steps}.", "Either way, {steps}.", "In both cases, {steps}.")
AFTER_REPEAT = ("After the last time, {steps}.", "When this is over, {steps}.", "Once that is done, {steps}.")
AFTER_TOTAL = ("Take that total and {steps}.", "With the total, {steps}.", "After the loop, {steps}.")


def describe(program: Program, rng: Rng) -> str:
    """A text that determines the program."""
    if program.block is not None:
        return _describe_block(program, rng)
    phrases = [_phrase(step, rng) for step in program.steps]
    if len(program.arguments) == 2:
        noun = rng.choice(TWO_NOUNS)
        phrases.insert(0, "take x")
    else:
        noun = rng.choice(NOUNS[program.source])
    frame = rng.choice(FRAMES)
    return frame.pattern.format(noun=noun, steps=frame.join.join(phrases))


def _describe_block(program: Program, rng: Rng) -> str:
    assert program.block is not None
    kind = program.block.kind
    header = program.steps[program.block.start]
    noun = rng.choice(NAMED_NOUNS if kind == "up-to" else NOUNS[program.source])
    sentences = [rng.choice(OPENINGS).format(noun=noun)]
    if program.before:
        sentences.append(f"First {_sequence(program.before, rng)}.")
    p, *q = (_phrase(step, rng) for step in program.body)
    if kind in ("if", "if-else"):
        clause = rng.choice(CHOICES if kind == "if" else ALTERNATIVES)
        clause = clause.format(condition=_phrase(header, rng), p=p, q="".join(q))
    else:
        clause = rng.choice(header.operation.wordings).format(*header.constants, p=p)
    sentences.append(f"{'Then ' if program.before else ''}{clause}.")
    if program.after:
        closing = {"if": AFTER_CHOICE, "if-else": AFTER_CHOICE, "repeat": AFTER_REPEAT}.get(kind, AFTER_TOTAL)
        sentences.append(rng.choice(closing).format(steps=_sequence(program.after, rng)))
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _sequence(steps: tuple[Step, ...], rng: Rng) -> str:
    return ", then ".join(_phrase(step, rng) for step in steps)


def _phrase(step: Step, rng: Rng) -> str:
    return rng.choice(step.operation.wordings).format(*map(repr, step.constants))
