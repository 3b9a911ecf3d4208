"""The process that runs a candidate's code: confined first, then a server of the names that the code defines.

Nothing it says is believed beyond the plain values it returns; see `judge`.

Code is run by `exec` as text: the first `compile` of a process builds all types of the syntax tree, 1 ms. Text
inherits the future features of this file, so it has none.
"""

import builtins
import os
import sys
from _sitebuiltins import Quitter

from . import kernel, wire
from .channel import Channel, ClosedError
from .confine import confine
from .faults import CANDIDATE, ENTRY_POINT, TESTS, is_the_tests_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

MODULE = "candidate"
"""Name of the module that the code runs as; not `__main__`, so that a script's main part does not run."""

_MESSAGE = 300
_OWN_DEPTH = 4
"""Frames of this file below the code."""
_REQUEST_LIMIT = 1 << 30


def main(read_fd: int, write_fd: int) -> None:
    """Serve the judge at the other end of the two pipes until it closes them."""
    sys.argv[:] = ["solution.py"]
    sys.setrecursionlimit(sys.getrecursionlimit() + _OWN_DEPTH)
    os.environ.pop("PYTHONHASHSEED", None)
    channel = Channel(read_fd, write_fd, _REQUEST_LIMIT)
    first: Any = wire.decode(channel.receive())
    plan, stdin = first
    if stdin is not None:
        _set_standard_input(stdin, plan["workdir"])
    try:
        channel.send(wire.encode(("confined", confine(plan)), _REQUEST_LIMIT))
    except (OSError, ImportError) as error:
        channel.send(wire.encode(("unable", str(error)), _REQUEST_LIMIT))
        return
    module: ModuleType | None = None
    code = ""
    while True:
        try:
            request: Any = wire.decode(channel.receive())
        except ClosedError:
            os._exit(0)
        if request[0] == "run":
            _run(request[1], channel)
            return
        if request[0] == "define":
            code = request[1]
        module = module or _new_module(MODULE)
        channel.send(_answer(module, code, request[0], request[1:], plan["reply_bytes"]))


def _set_standard_input(text: str, workdir: str) -> None:
    """Make `text` the standard input, as a regular file."""
    if kernel.LINUX:
        fd = os.memfd_create("stdin")
    else:
        path = os.path.join(workdir, "stdin")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(path)
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "surrogateescape") + (b"" if text.endswith("\n") else b"\n"))
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)


def _run(code: str, channel: Channel) -> None:
    """Run a script, with its standard output going straight to the judge."""
    os.dup2(channel.write_fd, 1)
    channel.close()
    _renew_standard_output()
    sys.set_int_max_str_digits(0)  # the limits on time and output hold
    module = _new_module("__main__")
    module.__file__ = sys.argv[0]

    def print_error(kind: type[BaseException], error: BaseException, _: object) -> None:
        """Exit status 1 has failed the script whatever it wrote; the judge quotes its last line."""
        _, message, line = _describe(error, code)
        print(f"\n{kind.__name__}: {message} (line {line})")

    sys.excepthook = print_error
    exec(code, module.__dict__)


def _renew_standard_output() -> None:
    """The object that was made for /dev/null takes a pipe for seekable."""
    old = sys.stdout
    sys.stdout = open(1, "w", encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
    setattr(sys, "__stdout__", sys.stdout)  # noqa: B010 (final for mypy)


def _new_module(name: str) -> "ModuleType":
    for quitter in ("exit", "quit"):  # `-S` leaves them out; scripts use them
        setattr(builtins, quitter, Quitter(quitter, ""))
    module = type(sys)(name)
    sys.modules[name] = module
    return module


def _answer(
    module: "ModuleType", code: str, operation: str, operands: "tuple[Any, ...]", limit: int
) -> bytes:
    try:
        if operation == "define":
            exec(code, module.__dict__)
            reply: tuple[object, ...] = ("defined",)
        elif operation == "lookup":
            reply = _look_up(module, operands[0])
        elif operation == "test":
            reply = _test(module, code, *operands)
        else:
            name, args, *kwargs = operands
            reply = ("value", module.__dict__[name](*args, **(kwargs[0] if kwargs else {})))
        return wire.encode(reply, limit)
    except wire.WireError as error:
        return wire.encode(("unsendable", str(error)), limit)
    except BaseException as error:  # an iterator's, too, which is read only now
        return wire.encode(("raised", *_describe(error, code)), limit)


def _test(
    module: "ModuleType",
    code: str,
    setup: str,
    tests: list[str],
    entry_point: str,
    theirs: "frozenset[str]",
    demanded: list[str],
    token: str,
) -> tuple[object, ...]:
    if entry_point:
        module.__dict__[ENTRY_POINT] = module.__dict__[entry_point]
    for position, text in enumerate((setup, *tests)):
        try:
            exec(compile(text, TESTS, "exec", dont_inherit=True), module.__dict__)
        except BaseException as error:
            kind, message, _ = _describe(error, code)
            return ("raised", position, kind, message, is_the_tests_own(error, theirs, demanded))
    return ("tested", token)


def _look_up(module: "ModuleType", name: str) -> tuple[object, ...]:
    if name not in module.__dict__:
        return ("missing",)
    value = module.__dict__[name]
    if isinstance(value, type):
        return ("class",)
    if type(value) is type(sys):
        return ("module", value.__name__)
    return ("callable",) if callable(value) else ("value", value)


def _describe(error: BaseException, code: str) -> "tuple[str, str, int]":
    """Type and message of the error, and the last line of the candidate's code that it passed (0: none)."""
    own = _compiled(code)
    line, step = 0, error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_filename == CANDIDATE and frame.f_code in own:
            line = step.tb_lineno
        step = step.tb_next
    if isinstance(error, SyntaxError) and line == 0:
        line = error.lineno or 0
    return type(error).__name__, str(error)[:_MESSAGE], line


def _compiled(code: str) -> "set[CodeType]":
    """The code objects that running a text makes: what `eval` and the like make is called `<string>`, too."""
    found: set[CodeType] = set()
    try:
        left = [compile(code, CANDIDATE, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    while left:
        found.add(left[-1])
        left += [constant for constant in left.pop().co_consts if type(constant) is type(_compiled.__code__)]
    return found
