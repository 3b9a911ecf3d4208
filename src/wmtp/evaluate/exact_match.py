"""Exact match, MBPP's other measure: whether a completion is the same program as the reference solution."""

import ast
import warnings

MAX_LENGTH = 100_000
"""Characters; a longer completion is not parsed and matches nothing."""


def exact_match(completion: str, reference: str) -> bool:
    """Whether both have the same syntax tree once docstrings are removed.

    So comments, white space, line ends, quotes, the `u` before a string, redundant brackets and docstrings make no
    difference; every name, constant and statement, and their order, does. What is not Python matches nothing.
    """
    wanted = _normalised(reference)
    return wanted is not None and _normalised(completion) == wanted


def _normalised(code: str) -> str | None:
    if len(code) > MAX_LENGTH:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                _remove_docstring(node)
            elif isinstance(node, ast.Constant):
                node.kind = None
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _remove_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
