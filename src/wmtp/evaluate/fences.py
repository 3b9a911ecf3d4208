"""Fenced code blocks of Markdown, as models write them."""

import re
from dataclasses import dataclass, field

_FENCE = r"(?P<fence>`{3,}|~{3,})"
_AT_START = re.compile(rf"^(?P<before>[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?){_FENCE}(?P<info>[^`]*)$")
_IN_PROSE = re.compile(r"^(?P<before>[^`~]*)(?P<fence>`{3,})(?P<info>[\w+-]*)[ \t]*$")
_LANGUAGE = re.compile(r"[{.\s]*([\w+#-]*)")
_MARGIN = 3
"""A fence that is indented further, beyond its block's margin, is a line of the block (CommonMark 4.5)."""


@dataclass
class FencedBlock:
    """One code block.

    Attributes:
        language: the first word behind the fence, in small letters; "" without one.
        margin: columns that the fence is indented by; as many are taken from its lines.
        fence: what opened it.
        first_line: number of the line that opened it, from 0.
        lines: its code.
        is_closed: false where the text, or another block, came before its end.
    """

    language: str
    margin: int
    fence: str
    first_line: int
    lines: list[str] = field(default_factory=list)
    is_closed: bool = False

    @property
    def code(self) -> str:
        """Its lines, each ended by "\\n"."""
        return "".join(f"{line}\n" for line in self.lines)

    def closes(self, line: str) -> bool:
        """Whether a line is this block's end: nothing but a fence that is as long, near the margin."""
        text = line.strip()
        is_fence = len(text) >= len(self.fence) and set(text) == {self.fence[0]}
        return is_fence and self.reaches(line)

    def reaches(self, line: str) -> bool:
        """Whether a line is so little indented that it can be a fence of this block."""
        return len(line) - len(line.lstrip()) <= self.margin + _MARGIN

    def add(self, line: str) -> None:
        """A line of code, without the block's margin."""
        indent = len(line) - len(line.lstrip(" \t"))
        self.lines.append(line[min(self.margin, indent) :])

    def end_within_a_line(self) -> None:
        """Close a block that is not closed at the first line that ends with its fence, as sloppy answers do."""
        for number, line in enumerate(self.lines):
            if line.rstrip().endswith(self.fence):
                self.lines[number:] = [line.rstrip().rstrip(self.fence[0])]
                self.is_closed = True
                return


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The code blocks of a text in their order, with fences of backticks or tildes, indented or in lists.

    More than CommonMark understands: a fence at the end of a line of prose, one at the end of the last line of code,
    and blocks that are not closed before the next one begins.
    """
    blocks: list[FencedBlock] = []
    opened: FencedBlock | None = None
    for number, line in enumerate(text.split("\n")):
        if opened is None:
            opened = _opened_by(_AT_START.match(line) or _IN_PROSE.match(line), number)
            blocks += [opened] if opened else []
        elif opened.closes(line):
            opened.is_closed, opened = True, None
        else:
            match = _AT_START.match(line)
            again = _opened_by(match, number)
            if again is not None and again.language and opened.reaches(line):
                opened = again
                blocks.append(again)
            else:
                opened.add(line)
    for block in blocks:
        if not block.is_closed:
            block.end_within_a_line()
    return blocks


def _opened_by(match: re.Match[str] | None, number: int) -> FencedBlock | None:
    if match is None:
        return None
    language = _LANGUAGE.match(match["info"])
    before = match["before"]
    margin = len(before) if _AT_START.match(match[0]) else 0
    return FencedBlock(language[1].lower() if language else "", margin, match["fence"], number)
