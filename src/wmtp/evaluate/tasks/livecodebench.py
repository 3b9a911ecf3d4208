"""LiveCodeBench (Jain et al. 2024, arXiv 2403.07974): contest problems by date, answered by scripts or methods."""

import base64
import json
import pickletools
import re
import zlib
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from wmtp.config import Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.entry_points import as_function
from wmtp.evaluate.protocols import Protocol, TaskSettings
from wmtp.evaluate.rows import EvaluationRow, unified
from wmtp.evaluate.tasks import settings_of, takes
from wmtp.evaluate.tasks.base import ListedTask, Problem, check_unique, data_rows
from wmtp.sandbox import AnyProgram, Call, CallProgram, Case, StdinProgram

SOURCE = "test*.jsonl of livecodebench/code_generation_lite (huggingface.co/datasets)"
PACKAGES = ("numpy",)
"""What the published runner's interpreter has besides the standard library."""

# fmt: off
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)
# fmt: on
PRELUDE = "; ".join(
    [
        *(f"from {module} import *" for module in _STARRED),
        f"import {', '.join(_STARRED[:-2])}",
        "sys.setrecursionlimit(50000)",
        "sys.set_int_max_str_digits(50000)",
    ]
)
"""What programs may take for granted, in the published order."""

_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
_WITH_STARTER_CODE = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_WITHOUT_STARTER_CODE = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)

_FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)
_UNPACKED_LIMIT = 1 << 30
_TEXT_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_HARMLESS_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}

Tests = list[tuple[str, str]]

# LiveCodeBench/LiveCodeBench, lcb_runner/runner/parser.py, evaluation/ and prompts/code_generation.py
PROTOCOL = Protocol(
    "livecodebench",
    "published",
    {1: (0.2,), 5: (0.2,), 10: (0.2,)},
    samples=10,
    stop=("###",),
    extraction="fenced",
    top_p=0.95,
    max_new_tokens=2000,
    cpu_seconds=6.0,
    wall_seconds=60.0,
    memory_mib=1024,
    processes=1,
    about="Jain et al. 2024: 10 samples at temperature 0.2, from the question and how to answer",
)


@takes(TaskSettings((PROTOCOL,), has_dates=True))
def livecodebench(recipe: Recipe) -> ListedTask:
    """Contest problems of a window of dates; the file is `evaluate.data`.

    Raises:
        WMTPError: the file is missing, a row of it is not a problem, or no problem is of that time.
    """
    settings = settings_of(recipe.evaluate)
    rows = [(row, row.identifier("question_id")) for row in data_rows(recipe.evaluate, SOURCE)]
    check_unique(rows)
    chosen = [(row, task_id) for row, task_id in rows if _is_within(_contest_date(row), settings)]
    if not chosen:
        raise WMTPError(
            f"evaluate.data {recipe.evaluate.data}: has no problem from {settings.start_date or 'the beginning'} "
            f"to {settings.end_date or 'the end'}"
        )
    return ListedTask("livecodebench", settings.stop, [_problem(row, task_id) for row, task_id in chosen])


def _is_within(day: date, settings: Protocol) -> bool:
    """Whether a day is in the protocol's window, whose first and last days count."""
    start, end = settings.start_date, settings.end_date
    return (start is None or date.fromisoformat(start) <= day) and (
        end is None or day <= date.fromisoformat(end)
    )


def _contest_date(row: EvaluationRow) -> date:
    text = row.text("contest_date")
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise WMTPError(
            f"{row.place}: 'contest_date' should be a date as in 2024-08-31, not {text!r}"
        ) from None


def _problem(row: EvaluationRow, task_id: str) -> Problem:
    public = _tests(row, "public_test_cases")
    private = _tests(row, "private_test_cases")
    if not public and not private:
        raise WMTPError(f"{row.place}: no tests: neither 'public_test_cases' nor 'private_test_cases'")
    name = _function_name(row)
    program = _call_program(task_id, name, public, private) if name else _script(task_id, public, private)
    starter_code = row.text("starter_code", default="")
    return Problem(
        task_id,
        prompt_text(row.text("question_content"), starter_code),
        program,
        entry_points=("Solution", name) if name else (),
        metadata={
            "contest_date": _contest_date(row).isoformat(),
            **{field: row.text(field) for field in ("platform", "difficulty") if row.values.get(field)},
        },
    )


def prompt_text(question: str, starter_code: str) -> str:
    """The published prompt for models without a template of their own."""
    how = _WITH_STARTER_CODE if starter_code else _WITHOUT_STARTER_CODE
    return (
        f"{_SYSTEM}\n\n### Question:\n{question}\n\n### Format: {how}\n"
        f"```python\n{starter_code or '# YOUR CODE HERE'}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


def _script(task_id: str, public: Tests, private: Tests) -> Callable[[str], AnyProgram]:
    shown, hidden = (tuple(Case(*test) for test in tests) for tests in (public, private))
    return lambda completion: StdinProgram(
        task_id, behind_prelude(completion), shown, hidden, "lines", packages=PACKAGES
    )


def _call_program(task_id: str, name: str, public: Tests, private: Tests) -> Callable[[str], AnyProgram]:
    calls: dict[str, Any] = {"public": (), "private": ()}
    try:
        calls = {"public": _calls(public), "private": _calls(private)}
    except (ValueError, RecursionError) as error:
        calls["fault"] = f"its tests are not all JSON: {error}"

    def program(completion: str) -> AnyProgram:
        is_method = "class Solution" in completion
        function, definition = as_function(f"Solution.{name}" if is_method else name)
        code = behind_prelude(completion) + definition
        return CallProgram(task_id, code, function, packages=PACKAGES, **calls)

    return program


def _calls(tests: Tests) -> tuple[Call, ...]:
    """A test's input has an argument a line."""
    return tuple(
        Call(tuple(json.loads(line) for line in given.rstrip("\n").split("\n")), json.loads(wanted))
        for given, wanted in tests
    )


def behind_prelude(code: str) -> str:
    """A program that finds the published imports made; imports from `__future__` have to come first."""
    future = "".join(f"{line}; " for line in _FUTURE.findall(code))
    return f"{future}{PRELUDE}\n{_FUTURE.sub('', code)}"


def _function_name(row: EvaluationRow) -> str:
    """The function or method that tests call; empty for a script."""
    value = row.values.get("metadata") or {}
    if isinstance(value, str):
        value = _json(row, "metadata", value)
    name = value.get("func_name") if isinstance(value, dict) else 0
    if name is None:
        return ""
    if not isinstance(name, str) or not name.isidentifier():
        raise WMTPError(f"{row.place}: 'metadata' should be an object, with a function's name as 'func_name'")
    return name


def _tests(row: EvaluationRow, field: str) -> Tests:
    """Published as JSON text, which private tests are packed as: base64 of zlib of a pickled text."""
    value = row.values.get(field) or []
    if isinstance(value, str):
        value = _json(row, field, value if value.lstrip()[:1] == "[" else _unpacked(row, field, value))
    if not isinstance(value, list) or not all(
        isinstance(test, dict) and all(isinstance(test.get(side), str) for side in ("input", "output"))
        for test in value
    ):
        raise WMTPError(f"{row.place}: {field!r} should hold tests, each with 'input' and 'output', texts")
    return [(unified(test["input"]), unified(test["output"])) for test in value]


def _json(row: EvaluationRow, field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WMTPError(f"{row.place}: {field!r} should be JSON: {error}") from None


def _unpacked(row: EvaluationRow, field: str, text: str) -> str:
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(text, validate=True), _UNPACKED_LIMIT)
        if not unpacking.eof:
            raise ValueError(f"cut off, or larger than {_UNPACKED_LIMIT} bytes")
        return text_of_pickle(data)
    except (ValueError, zlib.error) as error:
        raise WMTPError(
            f"{row.place}: {field!r} should be JSON, or a pickled text packed by zlib: {error}"
        ) from None


def text_of_pickle(data: bytes) -> str:
    """The text that was pickled. Nothing is executed: a pickle of anything else is refused.

    Raises:
        ValueError: it is one of something else, or damaged.
    """
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _TEXT_OPCODES:
            texts.append(str(argument))
        elif opcode.name not in _HARMLESS_OPCODES:
            raise ValueError(f"the pickle is no plain text (it has {opcode.name})")
    if len(texts) != 1:
        raise ValueError(f"the pickle holds {len(texts)} texts instead of one")
    return texts[0]
