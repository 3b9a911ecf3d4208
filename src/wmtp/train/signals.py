"""SIGINT and SIGTERM as a request that training answers between two steps."""

import signal
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training was asked to stop and has saved; `signum` says by which signal."""

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(where)
        self.signum = signum
        self.where = where


class StopRequest:
    """Remembers the first signal while the context lasts; a second one acts as usual."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._remember) for s in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _remember(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        for s, handler in self._previous.items():
            signal.signal(s, handler)
