"""What the trusted texts of a problem (prompt, tests, reference solution) say about how its programs are judged."""

import ast
import builtins
import sys
import warnings
from collections.abc import Iterator, Sequence

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(*texts: str) -> ast.Module | None:
    """Texts as one syntax tree; None if they are not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse("\n".join(texts))
        except (SyntaxError, ValueError):
            return None


def packages_imported(*texts: str) -> tuple[str, ...]:
    """The packages outside the standard library that texts import and cannot do without.

    What they import inside `try` they can do without; a text that is not Python imports nothing.
    """
    modules = [module for text in texts if (module := parsed(text) or parsed(text + "\n    pass\n"))]
    names = {name for module in modules for name in _imports(module)}
    return tuple(sorted(names - sys.stdlib_module_names))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]
    elif not isinstance(node, ast.Try):
        for child in ast.iter_child_nodes(node):
            yield from _imports(child)


def helpers(prompt: str, entry_point: str, test: str) -> str:
    """What a prompt defines besides the function to complete, if the tests use some of it.

    Args:
        prompt: a program whose last function may lack its body.
        entry_point: name of the function to complete.
        test: the tests.

    Returns:
        Python statements, to be run by whoever runs the tests; empty if the tests use nothing of it.
    """
    module, use = parsed(prompt) or parsed(prompt.rstrip() + "\n    pass\n"), parsed(test)
    if module is None or use is None:
        return ""
    kept = [node for node in module.body if not (isinstance(node, _Definition) and node.name == entry_point)]
    if not {name for node in kept for name in _defined(node)} & names_used(use):
        return ""
    return ast.unparse(ast.Module(kept, []))


def names_used(module: ast.Module) -> set[str]:
    """The names that a syntax tree reads somewhere."""
    return {n.id for n in ast.walk(module) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def names_defined(module: ast.Module) -> set[str]:
    """The global names that a module's statements define."""
    return {name for node in module.body for name in _defined(node)}


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, _Definition):
        yield node.name
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in part.names)
        elif isinstance(part, _Definition):
            yield part.name


def demanded_names(reference: str, setup: str, tests: Sequence[str]) -> tuple[str, ...]:
    """The names that a problem's tests use of a solution.

    Where its function is called like a built-in, that is one of them; but not where the tests use another name of it:
    what is called like a built-in is then a helper of its own.

    Args:
        reference: a right solution; what cannot be parsed, or defines nothing that is used, demands nothing.
        setup: goes before the tests.
        tests: statements.
    """
    solution, use = parsed(reference), parsed(setup, *tests)
    if solution is None or use is None:
        return ()
    used = sorted((names_defined(solution) & names_used(use)) - names_defined(use))
    return tuple([name for name in used if not hasattr(builtins, name)] or used)


def needs_candidate(reference: str, setup: str, tests: Sequence[str]) -> bool:
    """Whether tests need something of the program itself that is no plain data: its class, its module, a function.

    That is so where they use a class or an import of the reference solution that the setup does not provide, or pass
    a built-in or one of its functions to one of its functions. What the tests pass of their own that cannot cross is
    found out when they run.

    Args:
        reference: a right solution; what cannot be parsed needs nothing.
        setup: goes before the tests.
        tests: statements.
    """
    solution, use = parsed(reference), parsed(setup, *tests)
    if solution is None or use is None:
        return False
    functions = {node.name for node in solution.body if isinstance(node, ast.FunctionDef)}
    own = _classes_and_imports(solution) - _classes_and_imports(use)
    for node in ast.walk(use):
        if isinstance(node, ast.Name) and node.id in own:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            names = {argument.id for argument in given if isinstance(argument, ast.Name)}
            if any(name in functions or callable(getattr(builtins, name, None)) for name in names):
                return True
    return False


def _classes_and_imports(module: ast.Module) -> set[str]:
    nodes = [node for node in module.body if isinstance(node, ast.ClassDef | ast.Import | ast.ImportFrom)]
    return {name for node in nodes for name in _defined(node)}
