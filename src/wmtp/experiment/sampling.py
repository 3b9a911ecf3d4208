"""Several completions of each training prompt by a trained model: the groups that GRPO and pairs learn from."""

import json
from pathlib import Path

from wmtp.config import Config, Recipe
from wmtp.data.corpus import load_rows
from wmtp.data.dataset import documents_from
from wmtp.data.tokenizer import encode
from wmtp.decode.generate import generate
from wmtp.errors import WMTPError
from wmtp.evaluate.runner import trained_model
from wmtp.progress import counting, progress
from wmtp.storage import write_text

KEPT = ("task_id", "test_list", "test_setup_code")
"""Fields of a row that belong to its prompt and not to its answer."""


def sample_answers(
    run: Path,
    recipe: Recipe,
    config: Config,
    output: Path,
    *,
    per_prompt: int,
    temperature: float,
    limit: int,
) -> int:
    """Write JSON lines with `prompt`, `completion`, and what tests the prompt has; returns their number.

    Args:
        recipe: of the run; its training rows have the prompts, each taken once.
        limit: of prompts, from the first.
    Raises:
        WMTPError: the rows are plain texts, or there is a file of that name already.
    """
    if output.exists():
        raise WMTPError(f"{output}: there is something already; name another file with --output")
    rows = load_rows(recipe)
    if rows.fields.prompt is None:
        raise WMTPError(f"data.source {recipe.data.source!r}: plain texts have no prompts to answer")
    documents = documents_from(rows.train, rows.fields, f"data.source {recipe.data.source}")
    by_prompt = {d.prompt: row for d, row in zip(reversed(documents), reversed(rows.train), strict=True)}
    prompts = list(dict.fromkeys(d.prompt for d in documents))[:limit]
    _, model, tokenizer = trained_model(run, config)
    repeated = [ids for ids in encode(tokenizer, prompts) for _ in range(per_prompt)]
    with progress("sample", len(repeated)) as update:
        generation = generate(
            model,
            repeated,
            max_new_tokens=recipe.evaluate.settings.max_new_tokens,
            eos_id=int(tokenizer.eos_token_id),
            temperature=temperature,
            top_p=recipe.evaluate.settings.top_p,
            seed=recipe.seed,
            batch_size=recipe.evaluate.batch_size,
            progress=counting(update),
        )
    lines = []
    for i, tokens in enumerate(generation.tokens):
        prompt = prompts[i // per_prompt]
        kept = {key: by_prompt[prompt][key] for key in KEPT if key in by_prompt[prompt]}
        lines.append({"prompt": prompt, "completion": tokenizer.decode(tokens), **kept})
    write_text(output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(lines)
