"""Runs untrusted programs; docs/sandbox.md says what this protects from and what it does not."""

from wmtp.sandbox.execution import AnyProgram, describe, execute, execute_all, usable_cores
from wmtp.sandbox.program import (
    ENTRY_POINT,
    Call,
    CallProgram,
    Case,
    Execution,
    Limits,
    Program,
    StdinProgram,
    Verdict,
)

__all__ = [
    "ENTRY_POINT",
    "AnyProgram",
    "Call",
    "CallProgram",
    "Case",
    "Execution",
    "Limits",
    "Program",
    "StdinProgram",
    "Verdict",
    "describe",
    "execute",
    "execute_all",
    "usable_cores",
]
