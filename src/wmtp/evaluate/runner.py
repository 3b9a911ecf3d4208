"""Generate, execute, count: one model on one task."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from wmtp.config import Config, EvaluateConfig, Recipe
from wmtp.data.tokenizer import encode, load_tokenizer
from wmtp.decode.batch import Generation
from wmtp.decode.generate import generate
from wmtp.decode.speculative import generate_speculative
from wmtp.environment import choose_device, choose_dtype
from wmtp.errors import WMTPError
from wmtp.evaluate.passk import pass_at_k
from wmtp.evaluate.sandbox import Execution, Limits, Verdict, describe, execute_all
from wmtp.evaluate.tasks import TASKS
from wmtp.evaluate.tasks.base import Problem, Task
from wmtp.model.modeling import MTPForCausalLM
from wmtp.progress import counting, progress
from wmtp.storage import write_json, write_text
from wmtp.train import checkpoint
from wmtp.train.assemble import load_learner


def evaluation_path(run: Path, recipe: Recipe) -> Path:
    """Where the result of a run's evaluation is."""
    return run / f"evaluation-{recipe.evaluate.task}.json"


def require_consent(config: EvaluateConfig) -> None:
    """Generated programs run only when somebody said so.

    Raises:
        WMTPError: nobody did.
    """
    if not config.allow_code_execution:
        raise WMTPError(
            "evaluate.allow_code_execution: evaluating runs programs that a model wrote; allow it in the recipe "
            "or with --allow-code-execution (docs/sandbox.md says what they cannot do)"
        )


def evaluate_run(run: Path, recipe: Recipe, config: Config) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint; writes `samples/<task>.jsonl` and `evaluation-<task>.json`."""
    require_consent(recipe.evaluate)
    location, model, tokenizer = trained_model(run, config)
    task = TASKS.create(recipe.evaluate.task, recipe)
    result = evaluate(model, tokenizer, task, recipe.evaluate, run / "samples", recipe.seed)
    result["checkpoint"] = location.name
    write_json(evaluation_path(run, recipe), result)
    return result


def trained_model(run: Path, config: Config) -> tuple[Path, MTPForCausalLM, PreTrainedTokenizerFast]:
    """A run's newest checkpoint, once its checksums are right: its place, the model as it decodes, the tokenizer."""
    location = Path(checkpoint.resolve_model(str(run), "run"))
    checkpoint.verify(location)
    model = load_learner(location).to(choose_device(config.devices))
    if model.device.type == "cuda":
        model = model.to(choose_dtype(config.devices, model.device))
    return location, model, load_tokenizer(str(location))


def evaluate(
    model: MTPForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    config: EvaluateConfig,
    samples: Path,
    seed: int,
) -> dict[str, Any]:
    """Generate `config.samples` completions a problem, execute them, and sum up."""
    problems = list(task.problems())[: config.limit]
    prompts = encode(tokenizer, [problem.prompt for problem in problems])
    repeated = [prompt for prompt in prompts for _ in range(config.samples)]
    with progress(f"generate {task.name}", len(repeated)) as update:
        generation = generate(
            model,
            repeated,
            max_new_tokens=config.max_new_tokens,
            eos_id=int(tokenizer.eos_token_id),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=seed,
            batch_size=config.batch_size,
            progress=counting(update),
        )
    completions = [tokenizer.decode(tokens) for tokens in generation.tokens]
    executions = _execute(task, problems, completions, config, samples / f"{task.name}.jsonl")
    return {
        **_summary(task, problems, executions, config),
        "decoding": _speculation(model, prompts, generation, config, int(tokenizer.eos_token_id)),
        "sandbox": describe(),
    }


def _execute(
    task: Task, problems: Sequence[Problem], completions: Sequence[str], config: EvaluateConfig, path: Path
) -> list[list[Execution]]:
    """Verdicts by problem and sample; each line of the samples file is written when its verdict is known."""
    owners = [(problem, sample) for problem in problems for sample in range(config.samples)]
    programs = [task.program(p, c) for (p, _), c in zip(owners, completions, strict=True)]
    limits = Limits(
        cpu_seconds=config.cpu_seconds, wall_seconds=config.wall_seconds, memory_mib=config.memory_mib
    )
    found: dict[int, Execution] = {}
    write_text(path, "")
    with path.open("a", encoding="utf-8") as file, progress(f"execute {task.name}", len(programs)) as update:
        for index, execution in execute_all(programs, limits, config.workers):
            found[index] = execution
            problem, sample = owners[index]
            line = {
                "task_id": problem.task_id,
                "sample": sample,
                "completion": completions[index],
                "verdict": str(execution.verdict),
                "message": execution.message,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            update(len(found), f"{sum(e.verdict is Verdict.PASSED for e in found.values())} passed")
    n = config.samples
    return [[found[i * n + sample] for sample in range(n)] for i in range(len(problems))]


def _summary(
    task: Task, problems: Sequence[Problem], executions: Sequence[Sequence[Execution]], config: EvaluateConfig
) -> dict[str, Any]:
    passed = [sum(e.verdict is Verdict.PASSED for e in own) for own in executions]
    verdicts = Counter(str(e.verdict) for own in executions for e in own)
    if verdicts[str(Verdict.ERROR)]:
        broken = next(e for own in executions for e in own if e.verdict is Verdict.ERROR)
        raise WMTPError(
            f"evaluate: the sandbox failed on {verdicts[str(Verdict.ERROR)]} programs, which are not scored: "
            f"{broken.message}"
        )
    counts = [config.samples] * len(problems)
    return {
        "task": task.name,
        "protocol": task.protocol,
        "problems": len(problems),
        "samples_per_problem": config.samples,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "pass_at": {str(k): _strict(asdict(pass_at_k(counts, passed, k))) for k in config.k},
        "verdicts": dict(verdicts),
        "by_problem": [
            {
                "task_id": problem.task_id,
                "samples": config.samples,
                "passed": count,
                "verdict": str(own[0].verdict),
                **problem.metadata,
            }
            for problem, count, own in zip(problems, passed, executions, strict=True)
        ],
    }


def _strict(estimate: dict[str, float]) -> dict[str, float | None]:
    """Without NaN, which JSON has not: one problem alone gives no standard error."""
    return {name: None if math.isnan(value) else value for name, value in estimate.items()}


def _speculation(
    model: MTPForCausalLM,
    prompts: list[list[int]],
    generation: Generation,
    config: EvaluateConfig,
    eos_id: int,
) -> dict[str, Any] | None:
    """Self-speculative greedy decoding of the same prompts; None for a model of one head."""
    if model.config.heads == 1:
        return None
    options: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens,
        "eos_id": eos_id,
        "batch_size": config.batch_size,
    }
    greedy = generation if config.temperature == 0 else generate(model, prompts, **options)
    speculative = generate_speculative(model, prompts, **options)
    same = sum(a == b for a, b in zip(greedy.tokens, speculative.tokens, strict=True))
    return {
        "tokens": sum(map(len, speculative.tokens)),
        "forwards": speculative.forwards,
        "tokens_per_forward": speculative.tokens_per_forward,
        "acceptance": speculative.acceptance,
        "seconds_greedy": greedy.seconds,
        "seconds_speculative": speculative.seconds,
        "same_as_greedy": same,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
