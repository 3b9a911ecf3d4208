"""docs/compatibility.md: every line names a test that exists."""

import ast
import re
from pathlib import Path

import pytest

import elsewhere

ROOT = Path(__file__).parents[1]
LINES = [
    line
    for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines()
    if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line) and not line.endswith("| test |")
]


def test_there_are_lines() -> None:
    assert len(LINES) > 40


@pytest.mark.parametrize("line", LINES)
def test_its_tests_exist(line: str) -> None:
    """The last cell holds `file::function`, below tests/."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", line.rstrip(" |").rpartition("|")[2])
    assert named, line
    for file, function in named:
        tree = ast.parse((ROOT / "tests" / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, f"{file} has no {function}"


def test_elsewhere_runs_tests_that_exist() -> None:
    for path in {*elsewhere.QUICK, *elsewhere.NUMERICAL, *elsewhere.LOWEST_PATHS}:
        assert (ROOT / path.partition("::")[0]).exists(), path
