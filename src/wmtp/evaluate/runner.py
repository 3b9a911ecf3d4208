"""Generate, execute, count: one model on one task."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from wmtp.checkpoint.store import MANIFEST, resolve_model
from wmtp.config import DevicesConfig, EvaluateConfig, Recipe
from wmtp.decode.options import DecodeOptions
from wmtp.environment import decoding_dtype, dtype_name
from wmtp.evaluate.answers import about_answers
from wmtp.evaluate.exclusions import check_solutions, exclude
from wmtp.evaluate.extraction import extracted
from wmtp.evaluate.generation import Generator
from wmtp.evaluate.judging import (
    judge_samples,
    require_consent,
    verdict_origin,
    warn,
)
from wmtp.evaluate.prompts import Prompts, prompts_of
from wmtp.evaluate.protocols import Protocol
from wmtp.evaluate.samples import Key, Origin, SampleFile
from wmtp.evaluate.summary import Judged, summarise
from wmtp.evaluate.tasks import ListedTask, Problem, result_name, settings_of, task_of
from wmtp.layout import evaluation_file, samples_file
from wmtp.model.modeling import MTPForCausalLM
from wmtp.run import Run
from wmtp.sandbox import describe
from wmtp.storage import read_json, sha256_file, sha256_text, write_json


def evaluation_path(run: Run) -> Path:
    """Where the result of a run's evaluation is."""
    return evaluation_file(run.directory, _name(run.recipe.evaluate))


def samples_path(run: Run) -> Path:
    """Where the samples of a run's evaluation are."""
    return samples_file(run.directory, _name(run.recipe.evaluate))


def _name(config: EvaluateConfig) -> str:
    return result_name(config.task, settings_of(config).name)


def evaluate_run(run: Run) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint; an interrupted evaluation of the same goes on.

    Writes `samples/<name>.jsonl` as samples come and, at the end, `evaluation-<name>.json`, where the name is the
    task's, with the protocol's if it is not the task's first.

    Raises:
        WMTPError: nobody allowed execution, the task's data is missing, or programs could not be judged.
    """
    recipe = run.recipe
    require_consent(recipe.evaluate)
    task = task_of(recipe)
    path = evaluation_path(run)
    result = evaluate(
        run.model,
        run.tokenizer,
        task,
        recipe,
        samples_path(run),
        model_origin(run),
        Path(run.config.paths.cache),
        path,
    )
    result |= {"checkpoint": run.checkpoint.name, "origin": _origin(run.checkpoint, recipe)}
    write_json(path, result)
    return result


def evaluation_conditions(recipe: Recipe, devices: DevicesConfig) -> dict[str, Any]:
    """What two evaluations must share to be comparable, as JSON values: problems, settings, judging, dtype.

    Raises:
        WMTPError: the task's data is missing.
    """
    problems = task_of(recipe).rows
    return _conditions(
        recipe.evaluate, problems, verdict_origin(problems, recipe.evaluate), decoding_dtype(devices)
    )


def is_evaluated(run: Run, conditions: dict[str, Any]) -> bool:
    """Whether a run's newest checkpoint has a result already that was made with this seed under these conditions."""
    path = evaluation_path(run)
    if not path.exists():
        return False
    found = read_json(path)
    location = Path(resolve_model(str(run.directory), "run"))
    wanted = {"origin": _origin(location, run.recipe), "conditions": conditions}
    return isinstance(found, dict) and all(found.get(key) == value for key, value in wanted.items())


def _conditions(
    config: EvaluateConfig, problems: Sequence[Problem], judging: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    conditions = {
        "dtype": dtype_name(dtype),
        "settings": settings_of(config).as_values(),
        "problems": sha256_text(*(text for p in problems for text in (p.task_id, p.prompt))),
        **judging,
    }
    found: dict[str, Any] = json.loads(json.dumps(conditions))
    return found


def _origin(location: Path, recipe: Recipe) -> dict[str, Any]:
    """What else makes the results of one evaluation differ from another's."""
    return {"checkpoint": _identity(location), "seed": recipe.seed}


def model_origin(run: Run) -> dict[str, Any]:
    """What makes the samples of two models differ."""
    return {"checkpoint": _identity(run.checkpoint), "dtype": dtype_name(run.model.dtype)}


def _identity(location: Path) -> str:
    """A checkpoint's name and the beginning of its manifest's digest."""
    return f"{location.name} {sha256_file(location / MANIFEST)[:16]}"


def evaluate(
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    task: ListedTask,
    recipe: Recipe,
    samples: Path,
    origin: dict[str, Any],
    cache: Path,
    result: Path | None = None,
) -> dict[str, Any]:
    """Check the problems, generate the protocol's completions of each, execute them, and sum up.

    Args:
        model: in the dtype and on the device that it decodes in.
        tokenizer: of the model.
        task: what is evaluated: every one of its problems.
        recipe: its `evaluate` and its seed count.
        samples: the file that completions and verdicts are written to, and taken from where they are there.
        origin: what the model is, as JSON values; samples of another origin are set aside.
        cache: a folder that keeps the verdicts on the problems' own solutions.
        result: where the caller writes what this returns, if it does; set aside with the samples it was made of.
    """
    config, settings = recipe.evaluate, settings_of(recipe.evaluate)
    problems, judging = task.rows, verdict_origin(task.rows, config)
    prompts = prompts_of(problems, model, tokenizer, settings, task.stop)
    prompts_digest = sha256_text(*prompts.texts)
    solutions = check_solutions(task.name, problems, config, cache)
    options = DecodeOptions(
        settings.max_new_tokens,
        prompts.ends,
        top_p=settings.top_p,
        seed=recipe.seed,
        stop=prompts.stop,
        batch_size=config.batch_size,
    )
    generator = Generator(model, tokenizer, options)
    order = [
        Key(problem.task_id, temperature, sample)
        for temperature in settings.all_temperatures
        for problem in problems
        for sample in range(settings.samples)
    ]
    completions = {
        **origin,
        "seed": recipe.seed,
        "protocol": settings.name,
        "prompts": prompts_digest,
        "temperatures": settings.all_temperatures,
        "samples": settings.samples,
        "top_p": settings.top_p,
        "max_new_tokens": settings.max_new_tokens,
        "stop strings": list(prompts.stop.strings),
        **_further_origin(prompts, tokenizer, settings),
    }
    with SampleFile(samples, Origin(completions, judging), warn, result) as file:
        with file.hint_when_interrupted(order):
            generator.write(file, order, prompts.ids)
            judge_samples(file, problems, order, config)
        file.finish(order)
        decoding = generator.speculation(order, prompts.ids, file)
        codes = extracted(file, problems, order, settings.extraction)
        judged, exclusions = exclude(Judged(problems, codes, file.executions), solutions)
    return {
        "task": task.name,
        "protocol": settings.label,
        "prompts_sha256": prompts_digest,
        "problems": len(judged.problems),
        "samples_per_problem": settings.samples,
        "temperature": settings.all_temperatures,
        "top_p": settings.top_p,
        **summarise(judged, settings.temperatures, settings.submissions),
        **exclusions,
        **about_answers(judged, file.stops, settings),
        "settings": settings.as_values(),
        "decoding": decoding,
        "sandbox": describe(config.sandbox),
        "conditions": _conditions(config, problems, judging, model.dtype),
    }


def _further_origin(
    prompts: Prompts, tokenizer: PreTrainedTokenizerFast, settings: Protocol
) -> dict[str, Any]:
    """What else samples depend on, where it is not what it is for a base model."""
    ends = sorted(prompts.ends)
    several = {"end tokens": ends} if ends != [tokenizer.eos_token_id] else {}
    return {**several, **({"chat": True, "system": settings.system} if settings.chat else {})}
