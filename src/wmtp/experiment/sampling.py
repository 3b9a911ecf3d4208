"""Samples several completions of each training prompt: the groups that GRPO and pairwise critics learn from."""

import json
from pathlib import Path

from wmtp.data.corpus import load_rows
from wmtp.data.documents import documents_from
from wmtp.data.tokenizer import encode_prompts
from wmtp.decode.ends import end_tokens
from wmtp.decode.options import DecodeOptions
from wmtp.errors import WMTPError
from wmtp.evaluate.generation import Generator
from wmtp.evaluate.judging import warn
from wmtp.evaluate.runner import model_origin
from wmtp.evaluate.samples import Key, Origin, SampleFile
from wmtp.evaluate.tasks import settings_of
from wmtp.run import Run
from wmtp.storage import sha256_text, write_text, writing

KEPT = ("task_id", "test_list", "test_setup_code")
"""Fields of a row that belong to its prompt, not to its answer."""


def sample_answers(run: Run, output: Path, *, per_prompt: int, temperature: float, limit: int) -> int:
    """Write JSON lines with `prompt`, `completion`, and what tests the prompt has; returns their number.

    Completions are saved as they come, and an interrupted run goes on from there.

    Args:
        run: the training rows of its recipe have the prompts, each taken once.
        limit: of prompts, from the first.
    Raises:
        WMTPError: the rows are plain texts, or the file exists already or cannot be written.
    """
    with writing(output):
        is_taken = output.exists()
    if is_taken:
        raise WMTPError(f"{output}: there is something already; name another file with --output")
    recipe, rows = run.recipe, load_rows(run.recipe)
    if rows.fields.prompt is None:
        raise WMTPError(f"data.source {recipe.data.source!r}: plain texts have no prompts to answer")
    documents = documents_from(rows.train, rows.fields)
    by_prompt = {d.prompt: row for d, row in zip(reversed(documents), reversed(rows.train), strict=True)}
    prompts = list(dict.fromkeys(d.prompt for d in documents))[:limit]
    settings = settings_of(recipe.evaluate).with_changes(
        {"k": [1], "samples": per_prompt, "temperature": [temperature]}
    )
    options = DecodeOptions(
        settings.max_new_tokens,
        end_tokens(run.model, run.tokenizer),
        top_p=settings.top_p,
        seed=recipe.seed,
        batch_size=recipe.evaluate.batch_size,
    )
    generator = Generator(run.model, run.tokenizer, options)
    origin = {
        **model_origin(run),
        "seed": recipe.seed,
        "prompts": sha256_text(*prompts),
        "temperature": temperature,
        "per_prompt": per_prompt,
        "top_p": settings.top_p,
        "max_new_tokens": settings.max_new_tokens,
    }
    ids = {str(number): tokens for number, tokens in enumerate(encode_prompts(run.tokenizer, prompts))}
    order = [Key(number, temperature, sample) for number in ids for sample in range(per_prompt)]
    with SampleFile(output.with_name(f"{output.stem}.partial.jsonl"), Origin(origin, {}), warn) as file:
        with file.hint_when_interrupted(order):
            generator.write(file, order, ids)
        lines = []
        for key in order:
            prompt = prompts[int(key.task_id)]
            kept = {field: by_prompt[prompt][field] for field in KEPT if field in by_prompt[prompt]}
            lines.append({"prompt": prompt, "completion": file.completions[key], **kept})
        write_text(output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        file.remove()
    return len(lines)
