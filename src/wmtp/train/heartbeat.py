"""A sign of life from every rank: for people and liveness probes, and to name the rank that is stuck."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from wmtp.errors import type_and_message
from wmtp.layout import HEARTBEAT_FILE
from wmtp.rank import RankLost
from wmtp.train.stuck import PHASES, Beat, behind, gone

T = TypeVar("T")

BEAT_SECONDS = 1.0
FILE_BEATS = 5
"""The file is written every so many beats."""
SILENT_BEATS = 5
"""So many beats must be missing before a rank counts as silent: a busy machine misses some."""


class Heartbeat:
    """Beats in a thread of its own, whatever the main thread waits for, while the context lasts.

    Rank 0 also writes `heartbeat.json` in the run directory. When this rank has stood still too long, all ranks are
    looked at, one line names those that hold up the others, and the process ends with status 1. A collective's
    exception that leaves the context becomes a RankLost that names them. Time is counted in beats, so that neither a
    wall clock that is set nor a suspended process looks like standing still.

    Args:
        store: what the processes met by; None for a single process, which waits for nobody and has no time limit.
        timeout: seconds that a rank may stay in one phase of one step.
    """

    def __init__(self, store: Store | None, rank: int, world_size: int, run: Path, timeout: float) -> None:
        # A connection of its own: the main thread may wait on the other one.
        self._store: Store | None = None if store is None else PrefixStore("heartbeat", store.clone())  # type: ignore[attr-defined]
        self._rank = rank
        self._ranks = range(world_size)
        self._file = run / HEARTBEAT_FILE
        self._timeout = timeout
        self._beat = Beat()
        self._place = (0, "start", 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self._why_lost(error) if error is not None and is_collective_error(error) else None
        self._over.set()
        self._thread.join(2 * SILENT_BEATS * BEAT_SECONDS)  # it may hang on a launcher that is suspended
        self._tell(left=True, failure=None if error is None or lost else type_and_message(error))
        if lost is not None:
            raise RankLost(f"{lost}; go on with --resume auto") from error

    def at(self, step: int, phase: str) -> None:
        """Say what begins now; again, while it goes on and takes long.

        Args:
            step: how many steps are finished.
            phase: one of PHASES.
        """
        assert phase in PHASES, phase
        self._place = (step, phase, self._beat.count)

    def _live(self) -> None:
        while not self._over.is_set():
            self._next()
            if self._is_stuck():
                reason = self._who_is_gone(self._next)
                if self._is_stuck():
                    self._end(reason or behind(self._read()))

    def _next(self) -> None:
        if not self._over.wait(BEAT_SECONDS):
            self._tell()

    def _is_stuck(self) -> bool:
        waits_for_others = self._store is not None and len(self._ranks) > 1 and not self._over.is_set()
        return waits_for_others and self._beat.seconds > self._timeout

    def _why_lost(self, error: BaseException) -> str:
        """Which rank is gone after a collective failed here, else where and how it failed. Takes some seconds."""
        step, phase, _ = self._place
        unknown = f"a collective failed in {phase!r} after step {step}: {type_and_message(error)}"
        return self._who_is_gone(lambda: time.sleep(BEAT_SECONDS)) or unknown

    def _who_is_gone(self, next_beat: Callable[[], None]) -> str | None:
        before = self._read()
        for _ in range(SILENT_BEATS):
            next_beat()
        after = self._read()
        return None if self._store is None else gone(before, after, self._ranks)

    def _end(self, reason: str) -> NoReturn:
        """Of all ranks that come here at about the same time, one speaks."""
        try:
            if self._ask(lambda store: store.add("speaker", 1), 1) == 1:
                line = f"{reason} (devices.collective_timeout {self._timeout:g} s); go on with --resume auto"
                # Not through sys.stderr: the main thread may hold its lock.
                os.write(2, f"wmtp: {line}\n".encode())
            else:
                time.sleep(SILENT_BEATS * BEAT_SECONDS)
        finally:
            os._exit(1)

    def _tell(self, *, left: bool = False, failure: str | None = None) -> None:
        step, phase, since = self._place
        count = self._beat.count + 1
        self._beat = Beat(step, phase, count, (count - since) * BEAT_SECONDS, left, failure)
        self._ask(lambda store: store.set(str(self._rank), json.dumps(asdict(self._beat))), None)
        if self._rank == 0 and (left or (count - 1) % FILE_BEATS == 0):
            self._write()

    def _read(self) -> dict[int, Beat]:
        nothing: dict[int, bytes] = {}
        answers = self._ask(
            lambda store: {r: store.get(str(r)) for r in self._ranks if store.check([str(r)])}, nothing
        )
        beats = {rank: Beat(**json.loads(answer)) for rank, answer in answers.items()}
        return beats | {self._rank: self._beat}

    def _ask(self, question: Callable[[Store], T], otherwise: T) -> T:
        """The store's answer. It is not asked again once it is lost: the launcher's end is a signal to stop."""
        if self._store is None:
            return otherwise
        try:
            return question(self._store)
        except RuntimeError:
            self._store = None
            return otherwise

    def _write(self) -> None:
        content = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": self._beat.step,
            "phase": self._beat.phase,
            "ranks": [{"rank": rank} | asdict(beat) for rank, beat in self._read().items()],
        }
        aside = self._file.with_name(f".{HEARTBEAT_FILE}.{os.getpid()}")
        with suppress(OSError):  # a full disk is reported by those who need it
            aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            aside.replace(self._file)


def is_collective_error(error: BaseException) -> bool:
    """Whether a collective failed, which means that another rank did; or an error that came of that."""
    if error.__cause__ is not None and is_collective_error(error.__cause__):
        return True
    is_torchs = isinstance(error, RuntimeError) and ("gloo/" in str(error) or "NCCL" in str(error))
    return is_torchs or isinstance(error, DistError)
