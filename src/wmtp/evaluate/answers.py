"""Statistics of completions: what ended them, and whether they are valid Python."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from wmtp.decode.batch import Stop
from wmtp.evaluate.protocols import Protocol
from wmtp.evaluate.samples import Key
from wmtp.evaluate.summary import Judged
from wmtp.evaluate.syntax import is_syntax_error


def about_answers(judged: Judged, stops: Mapping[Key, Stop], settings: Protocol) -> dict[str, Any]:
    """Counts over all scored samples, as JSON values.

    Args:
        judged: the problems and the executed part of each completion.
        stops: by key, what ended a completion, if known.
        settings: what they were made and extracted with.

    Returns:
        `stops` (how many completions each reason ended), `extraction`, `syntax_errors`, and `remedies`: settings that
        may help if most samples are not valid Python.
    """
    by_id = {problem.task_id: problem for problem in judged.problems}
    codes = {key: judged.completions[key] for key in judged.executions}
    wrong = {
        (task_id, code): is_syntax_error(by_id[task_id].program(code).code)
        for task_id, code in {(key.task_id, code) for key, code in codes.items()}
    }
    count = sum(wrong[key.task_id, code] for key, code in codes.items())
    return {
        "stops": dict(Counter(stops[key] for key in codes if key in stops)),
        "extraction": settings.extraction,
        "syntax_errors": count,
        "remedies": _remedies(settings) if 2 * count > len(codes) else [],
    }


def _remedies(settings: Protocol) -> list[str]:
    remedies = {
        "evaluate.extraction=fenced": settings.extraction == "none",
        "evaluate.chat=true for an instruct model": not settings.chat,
        "evaluate.max_new_tokens": settings.extraction != "none" and settings.chat,
    }
    return [remedy for remedy, is_open in remedies.items() if is_open]
