"""Parses programs that a model wrote, without running them."""

import ast
import warnings

MAX_LENGTH = 100_000
"""Characters; a longer program is not parsed."""


def parse(code: str) -> ast.Module | None:
    """The syntax tree; None for what is not Python, is nested too deeply, or is longer than `MAX_LENGTH`."""
    parsed = _parsed(code)
    return parsed if isinstance(parsed, ast.Module) else None


def is_syntax_error(code: str) -> bool:
    """Whether Python refuses a program before running it; one longer than `MAX_LENGTH` is not parsed."""
    return len(code) <= MAX_LENGTH and parse(code) is None


def whole_statements(code: str) -> str:
    """The longest beginning of a text that is Python, cut where a statement begins at the left margin. So neither
    prose after a program nor an unfinished last function remains.
    """
    lines = code.split("\n")
    end = len(lines)
    while end > 0:
        parsed = _parsed("\n".join(lines[:end]))
        if isinstance(parsed, ast.Module):
            return "\n".join(lines[:end])
        wrong = min(end, (parsed.lineno if isinstance(parsed, SyntaxError) else None) or 1)
        end = next((i for i in reversed(range(wrong)) if _begins_statement(lines[i])), 0)
    return ""


def only_defines(module: ast.Module) -> bool:
    """Whether a module only has imports, functions and classes."""
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return all(isinstance(node, kinds) for node in module.body)


def is_word(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a name: a word of prose."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Name)


def is_body(module: ast.Module) -> bool:
    """Whether a module has `return` or `yield` outside every function, so that it is the body of one."""
    todo: list[ast.AST] = list(module.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return False


def _parsed(code: str) -> ast.Module | Exception:
    if len(code) > MAX_LENGTH:
        return ValueError("too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return error


def _begins_statement(line: str) -> bool:
    goes_on = (")", "]", "}", "else", "elif", "except", "finally")
    return bool(line[:1].strip()) and not line.startswith(goes_on)
