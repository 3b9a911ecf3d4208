"""Shows progress of long work: a live bar in a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wmtp.rank import is_first_process

PLAIN_SECONDS = 5.0
RESUMED_SECONDS = 0.5
"""Progress reported this early was made before; it does not count for the remaining time."""


class Update(Protocol):
    """Called as work goes on, with the amount done and a line about it."""

    def __call__(self, done: int, text: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, console: Console | None = None) -> Iterator[Update]:
    """A bar of `total` units; without a terminal, a line on standard error at the first update, every few seconds and
    at the end.

    Of several processes the first one shows it.
    """
    if not is_first_process():
        yield _silent
        return
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, text="")
            yield lambda done, text="": bar.update(task, completed=done, text=text)
        return
    started, last = time.monotonic(), -math.inf
    before: int | None = None

    def line(done: int, text: str = "") -> None:
        nonlocal last, before
        now = time.monotonic()
        if before is None:
            before = done if now - started < RESUMED_SECONDS else 0
        if now - last < PLAIN_SECONDS and not (done == total and now - started >= 2):
            return
        last = now
        eta = _eta(done - before, total - before, now - started)
        print(" ".join(filter(None, (title, f"{done}/{total}", eta, text))), file=sys.stderr, flush=True)

    yield line


def _eta(done: int, total: int, seconds: float) -> str:
    """The time left, once enough is done to estimate it: a twentieth, or ten units."""
    if done < max(1, min(10, total / 20)):
        return ""
    return f"eta {duration(seconds / done * (total - done))}"


@contextmanager
def working(title: str) -> Iterator[None]:
    """Show a spinner for work of unknown length; without a terminal, a line if it took long."""
    if not is_first_process():
        yield
        return
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(title):
            yield
        return
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    if seconds >= 2:
        print(f"{title}: {seconds:.0f} s", file=sys.stderr, flush=True)


def note(line: str) -> None:
    """Write a note for the user on standard error; of several processes only the first writes it."""
    if is_first_process():
        print(f"note: {line}", file=sys.stderr, flush=True)


def _silent(done: int, text: str = "") -> None:
    pass


def counting(update: Update) -> Callable[[int], None]:
    """Adapt a report of the total done for work that reports increments."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        update(done)

    return add


def duration(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe_step(record: dict[str, Any]) -> str:
    """One line about a training record of metrics.jsonl."""
    parts = [f"loss {record['loss']:.3f}" if record["loss"] is not None else "loss –"]
    if "ce" in record:
        heads = " ".join("–" if ce is None else f"{ce:.3f}" for ce in record["ce"])
        entropy, share = record["weight_entropy"], record["weight_effective"]
        parts += [f"ce {heads}", f"w {record['weight_mean']:.2f} H {entropy:.2f} eff {share:.2f}"]
    if record.get("value_mean") is not None:
        parts.append(f"V {record['value_mean']:.2f} ± {record['value_std']:.2f}")
    parts += [
        f"|g| {record['grad_norm']:.2f}" if record["grad_norm"] is not None else "|g| –",
        f"lr {record['lr']:.1e}",
        f"{record['tokens_per_second']:,.0f} tok/s",
        f"{record['memory_mib']:.0f} MiB",
    ]
    if record["skipped_steps"]:
        parts.append(f"skipped {record['skipped_steps']}")
    return "  ".join(parts)
