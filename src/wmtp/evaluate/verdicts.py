"""Keeps verdicts from one command to the next."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wmtp.config import EvaluateConfig
from wmtp.evaluate.judging import judging_conditions, sandbox_limits
from wmtp.progress import progress
from wmtp.sandbox import AnyProgram, Execution, Verdict, execute_all
from wmtp.storage import sha256_text

VERDICTS = "verdicts.jsonl"


def judge_once(
    programs: Sequence[AnyProgram], config: EvaluateConfig, cache: Path, stage: str
) -> list[Execution]:
    """The outcome of every program, executing those that were not judged before under the same conditions.

    Verdicts are kept in `cache`, one line each as they come, by program, tests and conditions of judging, so that an
    interrupted run goes on where it stopped. `ERROR` is not kept.

    Args:
        programs: equal ones, whatever their `task_id`, are judged once.
        stage: what the progress is called.

    Raises:
        WMTPError: this machine does not have the isolation.
    """
    conditions = json.dumps(judging_conditions(config))
    keys = [sha256_text(conditions, repr(replace(program, task_id=""))) for program in programs]
    path = cache / VERDICTS
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    known = _read(text)
    by_key = dict(zip(keys, programs, strict=True))
    found = {key: known[key] for key in by_key if key in known}
    todo = [key for key in by_key if key not in known]
    if not todo:
        return [found[key] for key in keys]
    passed = sum(execution.verdict is Verdict.PASSED for execution in found.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file, progress(stage, len(by_key)) as update:
        if text and not text.endswith("\n"):
            file.write("\n")
        missing = [by_key[key] for key in todo]
        executions = execute_all(missing, sandbox_limits(config), config.workers, config.sandbox)
        for index, execution in executions:
            found[todo[index]] = execution
            if execution.verdict is not Verdict.ERROR:
                file.write(_line(todo[index], execution))
            passed += execution.verdict is Verdict.PASSED
            update(len(found), f"{passed} passed")
    return [found[key] for key in keys]


def _line(key: str, execution: Execution) -> str:
    values = {"program": key, "verdict": str(execution.verdict), "message": execution.message}
    return json.dumps(values) + "\n"


def _read(text: str) -> dict[str, Execution]:
    """Outcomes by program; a damaged line counts as not written, wherever it is: several commands may append."""
    found = {}
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            found[values["program"]] = Execution(Verdict(values["verdict"]), values["message"], 0.0)
    return found
