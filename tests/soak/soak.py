"""Kill training at random moments, go on, and compare with runs that nobody killed.

    python tests/soak/soak.py --kills 100

Each kill goes to one of four courses: one process; two with DDP; two with FSDP2; and one that changes between these
layouts at every start. A course is a run of the real command line, resumed until it is done, and then another one.
What an uninterrupted run of the same layout logged must come out bitwise; of another layout, its losses to 1e-6 over
the first 50 steps.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "invariant"))

from harness import DDP, FSDP, ONE, Ended, Training, largest_difference, prepare, records

from wmtp.checkpoint import store as checkpoint
from wmtp.errors import WMTPError

KEEP, KEEP_EVERY = 3, 50
SETTINGS = (f"train.keep_checkpoints={KEEP}", f"train.keep_every={KEEP_EVERY}", "train.save_every=2")
KILL_WITHIN = 8.0
"""Seconds after the first step of a life."""
STARTING = 0.1
"""Of the kills, the share that comes while the run is still starting."""
FIRST_STEPS, OTHER_LAYOUT = 50, 1e-6
"""So long, and to this, layouts agree. Rounding grows with the steps: later, a course that changes its layout may
differ by twice what uninterrupted layouts do."""

Layout = tuple[int | None, tuple[str, ...]]


@dataclass
class Course:
    """A run, or several one after the other, in one layout or in several in turn."""

    name: str
    layouts: tuple[Layout, ...]
    number: int = 0
    lives: int = 0

    @property
    def run(self) -> str:
        return f"{self.name}-{self.number}"

    @property
    def changes(self) -> bool:
        return len(self.layouts) > 1


@dataclass
class Tally:
    """What was seen."""

    counts: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.faults.append(f"{kind}: {what}")
        print(f"  {kind}: {what}", flush=True)


class Soak:
    """Kills, and checks after every kill."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.tally = Tally()
        self.expected: dict[Layout, list[dict[str, Any]]] = {}
        self.spread = 0.0
        one, ddp, fsdp = (None, ONE), (2, DDP), (2, FSDP)
        self.courses = {
            "one": Course("one", (one,)),
            "ddp": Course("ddp", (ddp,)),
            "fsdp": Course("fsdp", (fsdp,)),
            "changing": Course("changing", (one, ddp, one, fsdp)),
        }

    def uninterrupted(self) -> None:
        """Run every layout once without a kill."""
        for course in self.courses.values():
            for nproc, settings in course.layouts:
                if (nproc, settings) in self.expected:
                    continue
                name = f"whole-{course.name}"
                ended = Training(self.folder, name, *settings, "train.save_every=100000", nproc=nproc).end()
                if ended.status:
                    sys.exit(f"{name}: status {ended.status}\n{ended.errors}")
                self.expected[nproc, settings] = records(self.folder / "runs" / name)
        first, *others = map(_losses, self.expected.values())
        self.spread = max(largest_difference(other, first) for other in others)

    def kill_one(self, course: Course, number: int) -> None:
        """Start the course again until a life of it could be killed, and check what it left."""
        while not self._life(course, number):
            pass

    def complete(self) -> None:
        """Let every course come to its end."""
        for course in self.courses.values():
            if (self.folder / "runs" / course.run).exists():
                self._check_end(course, self._start(course).end())

    def _start(self, course: Course) -> Training:
        nproc, settings = course.layouts[course.lives % len(course.layouts)]
        in_background = f"train.async_save={str(self.chance.random() < 0.5).lower()}"
        course.lives += 1
        return Training(
            self.folder, course.run, *settings, *SETTINGS, in_background, nproc=nproc, resume="auto"
        )

    def _life(self, course: Course, number: int) -> bool:
        run = self.folder / "runs" / course.run
        before = _steps(run)
        seen = set(before)
        training = self._start(course)

        def until(condition: Callable[[], bool]) -> bool:
            """Whether it came true before the run ended; checkpoints are noted meanwhile."""

            def look() -> bool:
                seen.update(_steps(run))
                return training.process.poll() is not None or condition()

            training.wait_until(look)
            return training.process.poll() is None

        began = None
        alive = True
        if self.chance.random() > STARTING:
            alive = until(lambda: training.last_step() > 0)
            began = training.last_step() if alive else None
        alive = alive and until(_after(self.chance.uniform(0, KILL_WITHIN)))
        if not alive:
            self._check_end(course, training.end())
            return False
        victim, saving = self._kill(training)
        ended = training.end()
        if ended.status == 0:  # it was faster
            self._check_end(course, ended)
            return False
        self.tally.counts["kills"] += 1
        self.tally.counts["kills during a save"] += saving
        self.tally.victims[victim] += 1
        self._check(course, number, ended, before, seen, began)
        print(
            f"{number:4d} {course.run:12} {victim:9} {'saving' if saving else '':7} "
            f"steps {max(before, default=0)} -> {max(_steps(run), default=0)}",
            flush=True,
        )
        return True

    def _kill(self, training: Training) -> tuple[str, bool]:
        workers = training.workers()
        pids = {f"rank {rank}": pid for rank, pid in workers.items()}
        if training.process.pid not in pids.values():
            pids["launcher"] = training.process.pid
        victim = self.chance.choice([*pids, "all"])
        for pid in pids.values() if victim == "all" else [pids[victim]]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return ("all" if len(pids) == 1 else victim), training.is_saving()

    def _check(
        self,
        course: Course,
        number: int,
        ended: Ended,
        before: set[int],
        seen: set[int],
        began: int | None,
    ) -> None:
        run = self.folder / "runs" / course.run
        where = f"kill {number}, {course.run}"
        on_disk = _steps(run)
        known = sorted(seen | on_disk)
        lost = {*known[-KEEP:], *(s for s in known if s % KEEP_EVERY == 0)} - on_disk
        for step in sorted(lost):
            self.tally.fault("lost checkpoints", f"{where}: step {step}")
        self._check_newest(run, where)
        newest = max(before, default=0)
        if began is not None and began < newest + 1:
            self.tally.fault("wrong resumes", f"{where}: from step {began - 1}, not {newest}")
        if ended.status not in (-signal.SIGKILL, 1) or "Traceback" in ended.errors:
            self.tally.fault("wrong resumes", f"{where}: status {ended.status}: {ended.errors}")
        self._compare(course, where)

    def _check_newest(self, run: Path, where: str) -> None:
        found = checkpoint.checkpoints(run)
        try:
            if found:
                checkpoint.verify(found[-1])
        except WMTPError as error:
            self.tally.fault("damaged newest", f"{where}: {error}")

    def _compare(self, course: Course, where: str) -> None:
        found = records(self.folder / "runs" / course.run)
        expected = self.expected[course.layouts[0]][: len(found)]
        tolerance = first_tolerance = 0.0
        if course.changes:
            found, expected = _losses(found), _losses(expected)
            tolerance, first_tolerance = max(2 * self.spread, OTHER_LAYOUT), OTHER_LAYOUT
        difference = largest_difference(found, expected)
        self.tally.largest[course.name] = max(self.tally.largest.get(course.name, 0.0), difference)
        if (
            difference > tolerance
            or largest_difference(found[:FIRST_STEPS], expected[:FIRST_STEPS]) > first_tolerance
        ):
            self.tally.fault("wrong resumes", f"{where}: differs by {difference:.1e}")

    def _check_end(self, course: Course, ended: Ended) -> None:
        where = f"the end of {course.run}"
        if ended.status:
            self.tally.fault("wrong resumes", f"{where}: status {ended.status}: {ended.errors}")
        elif len(records(self.folder / "runs" / course.run)) != len(self.expected[course.layouts[0]]):
            self.tally.fault("wrong resumes", f"{where}: not all steps")
        self._compare(course, where)
        self._check_newest(self.folder / "runs" / course.run, where)
        self.tally.counts["runs completed"] += 1
        course.number += 1


def _losses(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k in ("kind", "step", "loss", "ce")} for record in found]


def _steps(run: Path) -> set[int]:
    return {checkpoint.step_of(c) for c in checkpoint.checkpoints(run)}


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def main() -> None:
    """Run the soak, print its figures, and exit with 1 if anything was wrong; the folder is kept then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400, help="of one run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wmtp-soak-"))
    os.environ["TMPDIR"] = str(folder)  # where a killed launcher leaves its own
    prepare(folder, **{"train.steps": options.steps, "train.validate_every": 50})
    soak = Soak(folder, random.Random(options.seed))
    started = time.monotonic()
    soak.uninterrupted()
    order = itertools.cycle(soak.courses[name] for name in ("one", "ddp", "one", "fsdp", "changing"))
    for number in range(1, options.kills + 1):
        soak.kill_one(next(order), number)
    soak.complete()
    tally = soak.tally
    print()
    for kind in (
        "kills",
        "kills during a save",
        "runs completed",
        "lost checkpoints",
        "damaged newest",
        "wrong resumes",
    ):
        print(f"{kind:24}{tally.counts[kind]:6}")
    print(f"{'seconds':24}{time.monotonic() - started:6.0f}")
    for victim, count in sorted(tally.victims.items()):
        print(f"{'killed: ' + victim:24}{count:6}")
    for name, difference in tally.largest.items():
        print(f"{'largest difference, ' + name:36}{difference:.1e}")
    print(f"{'largest difference, uninterrupted':36}{soak.spread:.1e}")
    if tally.faults:
        sys.exit(f"{len(tally.faults)} faults; everything is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
