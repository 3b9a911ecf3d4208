"""Extracts the program to execute from an answer, by a protocol's rule."""

import re
from collections.abc import Sequence
from textwrap import dedent, indent

from wmtp.config import Extraction
from wmtp.evaluate.fences import FencedBlock, fenced_blocks
from wmtp.evaluate.rows import unified
from wmtp.evaluate.samples import Key, SampleFile
from wmtp.evaluate.syntax import is_body, is_word, only_defines, parse, whole_statements
from wmtp.evaluate.tasks import Problem

PYTHON = ("python", "python3", "py", "py3")
_THINKS = re.compile(r"\s*<think(ing)?>")
_THOUGHT = re.compile(r"</think(ing)?>")
_THOUGHT_AT_EDGE = re.compile(r"^[ \t]*</think(?:ing)?>|</think(?:ing)?>[ \t]*$", re.MULTILINE)
_INDENT = re.compile(r"^(?: {4}|\t)", re.MULTILINE)


def extracted(
    file: SampleFile, problems: Sequence[Problem], order: Sequence[Key], rule: Extraction
) -> dict[Key, str]:
    """By key, the executed part of these samples' completions."""
    by_id = {problem.task_id: problem for problem in problems}
    return {key: extract(file.completions[key], by_id[key.task_id], rule) for key in order}


def extract(text: str, problem: Problem, rule: Extraction) -> str:
    """The part of a completion that is executed, as it stands behind the problem's `prefix`.

    `none` takes all of it. `fenced` takes code out of an answer: without the reasoning in front (`<think>`), the last
    Python block that defines what the tests call, behind the earlier blocks that only import or define; where no
    block does, a function's body, else the last block. Blocks of another language count only where there is no
    other. Without a block it is the run of whole statements that defines it, else a body, else the longest run.
    """
    if rule == "none":
        return text
    answer = _without_reasoning(unified(text))
    blocks = fenced_blocks(answer)
    before = _before_closing_fence(answer, blocks, problem)
    if before is not None:
        return _behind(before, problem, is_whole=True)
    blocks = [block for block in blocks if block.code.strip()]
    return _of_blocks(blocks, problem) if blocks else _of_prose(answer, problem)


def _without_reasoning(text: str) -> str:
    """The text after the reasoning; empty if the reasoning does not end."""
    if _THINKS.match(text):
        end = _THOUGHT.search(text)
        return text[end.end() :] if end else ""
    end = _THOUGHT_AT_EDGE.search(text)  # the prompt opened it
    return text[end.end() :] if end else text


def _before_closing_fence(answer: str, blocks: Sequence[FencedBlock], problem: Problem) -> str | None:
    """The code before the only fence, where the prompt opened the block that this one closes; else None."""
    if len(blocks) != 1 or blocks[0].language or blocks[0].is_closed:
        return None
    before = "".join(f"{line}\n" for line in answer.split("\n")[: blocks[0].first_line])
    module = parse(before)
    is_code = module is not None and not all(map(is_word, module.body))
    return before if is_code or (problem.prefix and before.strip() and _is_body(before)) else None


def _of_blocks(blocks: Sequence[FencedBlock], problem: Problem) -> str:
    python = [block for block in blocks if block.language in PYTHON]
    candidates = python or [block for block in blocks if not block.language] or blocks
    codes = [dedent(block.code) for block in candidates]
    if any(_defines(code, problem.entry_points) for code in codes):
        number, code = _last_that_defines(codes, problem.entry_points)
        return _behind(code, problem, is_whole=candidates[number].is_closed)
    bodies = [block for block in candidates if problem.prefix and _is_body(block.code)]
    chosen = (bodies or candidates)[-1]
    return _behind(chosen.code, problem, is_whole=chosen.is_closed)


def _of_prose(answer: str, problem: Problem) -> str:
    """The program in an answer without fences, which may stand between lines of prose, or indented by four spaces."""
    is_body = bool(problem.prefix) and _is_body(answer)
    for text in [answer] if is_body else [answer, _INDENT.sub("", answer)]:
        runs = _runs(text)
        if any(_defines(run, problem.entry_points) for run in runs):
            return _behind(_last_that_defines(runs, problem.entry_points)[1], problem, is_whole=True)
    if problem.prefix:
        return _behind(answer, problem, is_whole=False)
    return _kept(max(_runs(answer), key=len, default=""), answer)


def _runs(text: str) -> list[str]:
    """The parts of a text that are whole Python statements, each as long as possible."""
    lines, runs, start = text.split("\n"), list[str](), 0
    while start < len(lines):
        run = whole_statements("\n".join(lines[start:]))
        runs += [run + "\n"] if run.strip() else []
        start += run.count("\n") + 1
    return runs


def _last_that_defines(codes: Sequence[str], names: Sequence[str]) -> tuple[int, str]:
    """The number of the last code that defines a name, and it, behind its helpers.

    These are the codes before it that only import or define, and of the names nothing that it defines itself.
    """
    number = max(n for n, code in enumerate(codes) if _defines(code, names))
    own = [name for name in names if _defines(codes[number], [name])]
    helpers = [code for code in codes[:number] if not _defines(code, own) and _is_helper(code)]
    return number, "".join([*helpers, codes[number]])


def _behind(code: str, problem: Problem, *, is_whole: bool) -> str:
    """Code as it stands behind the problem's prefix; of what may be cut or end in prose, the whole statements."""
    prefix, whole = problem.prefix, dedent(code)
    module = parse(whole)
    body = module is not None and is_body(module)
    if not prefix or (_defines(whole, problem.entry_points) and not body):
        whole = whole if is_whole else _kept(whole_statements(whole), whole)
        return _after_unfinished(prefix) + whole if prefix else whole
    code = indent(whole, _indent_of(prefix)) if body else code
    code = code if prefix.endswith("\n") or code.startswith("\n") else f"\n{code}"
    return code if is_whole else _kept(whole_statements(prefix + code)[len(prefix) :], code)


def _after_unfinished(prefix: str) -> str:
    """What ends a function that a prefix begins, so that a definition can follow."""
    newline = "" if prefix.endswith("\n") else "\n"
    return newline if parse(prefix) is not None else f"{newline}{_indent_of(prefix)}pass\n"


def _indent_of(prefix: str) -> str:
    """White space before a function's body: that of the prefix's last line, or four spaces behind its header."""
    last = prefix.rstrip().split("\n")[-1]
    return last[: len(last) - len(last.lstrip())] or "    "


def _kept(statements: str, code: str) -> str:
    """The statements, or everything if there are none."""
    return statements if statements.strip() else code


def _defines(code: str, names: Sequence[str]) -> bool:
    """Whether a text defines one of the names at the left margin; it need not be right Python."""
    either = "|".join(map(re.escape, names))
    pattern = rf"^(?:(?:async[ \t]+)?def|class)[ \t]+(?:{either})\b|^(?:{either})[ \t]*="
    return bool(names) and re.search(pattern, code, re.MULTILINE) is not None


def _is_helper(code: str) -> bool:
    module = parse(code)
    return module is not None and only_defines(module)


def _is_body(code: str) -> bool:
    """Whether it is indented like a function's body, or returns without being in a function."""
    module = parse(code)
    return code.lstrip("\n")[:1].isspace() or (module is not None and is_body(module))
