"""Levels of isolation: which can be asked for, and which the machine has."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wmtp.errors import WMTPError
from wmtp.sandbox import bubblewrap

BASIC, KERNEL, NAMESPACES = "basic", "kernel", "namespaces"
LEVELS = (NAMESPACES, KERNEL, BASIC)
"""Best first. Kernel is basic with Landlock and a filter of system calls; namespaces is kernel inside bubblewrap."""

_CANDIDATES = {
    "auto": LEVELS,
    "strict": (NAMESPACES, KERNEL),
    **{level: (level,) for level in LEVELS},
}

_PATIENCE = 10
_found: dict[str, "Choice"] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """The level that programs run at.

    Attributes:
        level: one of `LEVELS`.
        problem: why not even this level works; empty if it does.
        facts: measure to whether it holds.
        unavailable: better levels, and why they do not work.
    """

    level: str
    problem: str
    facts: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def choose(isolation: str, probe: Callable[[str], tuple[str, dict[str, Any]]]) -> Choice:
    """The best level that works; once found, it is kept for the life of this process.

    Args:
        isolation: "auto", the best available; "strict", one with kernel isolation; or one level, whether it works or
            not.
        probe: runs a program at a level; returns why it failed (empty if it worked), and the facts it found.

    Raises:
        WMTPError: no such isolation, or "strict" and the machine has no kernel isolation.
    """
    if isolation not in _CANDIDATES:
        raise WMTPError(f"evaluate.sandbox is {isolation!r}; it must be one of {', '.join(_CANDIDATES)}")
    with _lock:
        if isolation in _found:
            return _found[isolation]
        choice = _try(_CANDIDATES[isolation], probe)
        if not choice.problem:
            _found[isolation] = choice
    if choice.problem and isolation == "strict":
        missing = "; ".join(f"{level}: {problem}" for level, problem in choice.unavailable.items())
        raise WMTPError(f"evaluate.sandbox is strict, and this machine has no kernel isolation ({missing})")
    return choice


def _try(levels: tuple[str, ...], probe: Callable[[str], tuple[str, dict[str, Any]]]) -> Choice:
    unavailable: dict[str, str] = {}
    for level in levels:
        facts: dict[str, Any] = {}
        problem = _bubblewrap_problem() if level == NAMESPACES else ""
        if not problem:
            problem, facts = probe(level)
        if not problem:
            return Choice(level, "", facts, unavailable)
        unavailable[level] = problem
    return Choice(level, problem, {}, unavailable)


def _bubblewrap_problem() -> str:
    """Bubblewrap's own message if it does not work here; empty if it does."""
    if not shutil.which("bwrap"):
        return "bubblewrap (bwrap) is not installed"
    try:
        with tempfile.TemporaryDirectory() as workdir:
            command = bubblewrap.command(workdir, ["--version"])
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap: {error}"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["bwrap failed"])[-1]
