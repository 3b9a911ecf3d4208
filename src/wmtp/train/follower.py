"""Whoever follows a training while it runs, as an experiment tracker does."""

from pathlib import Path
from types import TracebackType
from typing import Protocol


class Follower(Protocol):
    """Entered on rank 0 when nothing can be refused any more, and left when the training ends."""

    @property
    def run_id(self) -> str | None:
        """Its own name of the run, which checkpoints keep; None as long as there is none."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Follow(Protocol):
    """Makes the follower of the training in a directory."""

    def __call__(self, run: Path, run_id: str | None, *, fresh: bool) -> Follower:
        """Make it.

        Args:
            run_id: what a checkpoint kept of an earlier follower.
            fresh: the training starts at step 0.
        """
        ...


class Nobody:
    """Does not follow."""

    run_id: str | None = None

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def nobody(*_: object, **__: object) -> Follower:
    """Let a training go on unobserved."""
    return Nobody()
