"""A sign of life from every rank: for people and liveness probes, and to name the rank that is stuck."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from wmtp.rank import RankLost
from wmtp.train.stuck import PHASES, Beat, Beats, behind, gone

T = TypeVar("T")

HEARTBEAT_FILE = "heartbeat.json"
BEAT_SECONDS = 1.0
FILE_SECONDS = 5.0
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
        self._run = run
        self._timeout = timeout
        self._beat = Beat()
        self._place = (0, self._beat.step, self._beat.phase)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        consequence = error is not None and is_collective_error(error)
        explanation = self.explain(error) if error is not None and consequence else None
        self._over.set()
        self._thread.join(2 * SILENT_BEATS * BEAT_SECONDS)  # it may hang on a launcher that is suspended
        own = None if error is None or consequence else _first_line(error)
        self._beat = self._beat.leave(own)
        self._tell()
        self._write()
        if explanation is not None:
            raise RankLost(f"{explanation}; go on with --resume auto") from error

    def at(self, step: int, phase: str) -> None:
        """Say what begins now; again, while it goes on and takes long.

        Args:
            step: how many steps are finished.
            phase: one of PHASES.
        """
        assert phase in PHASES, phase
        self._place = (self._place[0] + 1, step, phase)

    def explain(self, error: BaseException) -> str:
        """Why a collective failed here: which rank is gone, else where and how it failed. Takes some seconds."""
        before = self._read()
        time.sleep(SILENT_BEATS * BEAT_SECONDS)
        after = self._read()
        _, step, phase = self._place
        unknown = f"a collective failed in {phase!r} after step {step}: {_first_line(error)}"
        return unknown if self._store is None else gone(before, after, self._ranks) or unknown

    def _live(self) -> None:
        last, written = time.monotonic(), float("-inf")
        seconds, place = 0.0, self._place
        suspected: tuple[int, Beats] | None = None
        while not self._over.wait(BEAT_SECONDS):
            now, before, place = time.monotonic(), place, self._place
            # Longer than two beats: this process was suspended, not stuck.
            seconds = seconds + min(now - last, 2 * BEAT_SECONDS) if place == before else 0.0
            last = now
            _, step, phase = place
            self._beat = self._beat.next(step, phase, seconds)
            self._tell()
            if now - written >= FILE_SECONDS:
                self._write()
                written = now
            if self._store is None or len(self._ranks) == 1 or seconds <= self._timeout:
                suspected = None
            elif suspected is None:
                suspected = self._beat.count, self._read()
            elif self._beat.count >= suspected[0] + SILENT_BEATS:
                self._end(suspected[1], self._read())

    def _end(self, before: Beats, after: Beats) -> NoReturn:
        """Of all ranks that come here at about the same time, one speaks."""
        try:
            reason = gone(before, after, self._ranks) or behind(after)
            if self._is_first_to_speak():
                line = f"{reason} (devices.collective_timeout {self._timeout:g} s); go on with --resume auto"
                # Not through sys.stderr: the main thread may hold its lock.
                os.write(2, f"wmtp: {line}\n".encode())
            else:
                time.sleep(SILENT_BEATS * BEAT_SECONDS)
        finally:
            os._exit(1)

    def _is_first_to_speak(self) -> bool:
        return self._ask(lambda store: store.add("speaker", 1), 1) == 1

    def _tell(self) -> None:
        self._ask(lambda store: store.set(str(self._rank), self._beat.to_json()), None)

    def _read(self) -> dict[int, Beat]:
        others = [str(rank) for rank in self._ranks if rank != self._rank]
        nothing: dict[str, bytes] = {}
        answers = self._ask(lambda store: {r: store.get(r) for r in others if store.check([r])}, nothing)
        beats = {int(rank): Beat.from_json(text) for rank, text in answers.items()}
        return dict(sorted((beats | {self._rank: self._beat}).items()))

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
        if self._rank != 0:
            return
        beats = self._read()
        content = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": self._beat.step,
            "phase": self._beat.phase,
            "ranks": [{"rank": rank} | beat.as_record() for rank, beat in beats.items()],
        }
        path = self._run / HEARTBEAT_FILE
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        with suppress(OSError):  # a full disk is reported by those who need it
            aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            aside.replace(path)


def is_collective_error(error: BaseException) -> bool:
    """Whether a collective failed, which means that another rank did; or an error that came of that."""
    if error.__cause__ is not None and is_collective_error(error.__cause__):
        return True
    text = str(error)
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and ("gloo/" in text or "NCCL" in text)
    )


def _first_line(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
