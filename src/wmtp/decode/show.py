"""A generation as coloured text: which tokens were drafted and accepted."""

from pathlib import Path

from rich.text import Text
from transformers import PreTrainedTokenizerFast

from wmtp.config import Config, Recipe
from wmtp.data.tokenizer import encode, load_tokenizer
from wmtp.decode.generate import generate
from wmtp.decode.speculative import Block, generate_speculative
from wmtp.environment import choose_device, configure_torch
from wmtp.errors import WMTPError
from wmtp.evaluate.tasks import TASKS
from wmtp.train import checkpoint
from wmtp.train.assemble import load_learner

ACCEPTED, OWN = "bold green", ""


def show_generation(
    run: Path,
    recipe: Recipe,
    config: Config,
    prompt: str | None,
    problem: int | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Text:
    """What `wmtp generate` prints: the prompt, its continuation and, for greedy decoding, what drafting saved."""
    configure_torch(config.devices)
    location = Path(checkpoint.resolve_model(str(run), "run"))
    tokenizer = load_tokenizer(str(location))
    model = load_learner(location).to(choose_device(config.devices))
    text = _prompt(recipe, prompt, problem)
    prompts = encode(tokenizer, [text])
    shown = Text(text, style="dim")
    end = int(tokenizer.eos_token_id)
    if temperature > 0 or model.config.heads == 1:
        found = generate(
            model,
            prompts,
            max_new_tokens=max_new_tokens,
            eos_id=end,
            temperature=temperature,
            seed=seed,
        )
        return shown.append(tokenizer.decode(found.tokens[0]), style=OWN)
    blocks: list[Block] = []
    found = generate_speculative(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=end,
        on_block=lambda _, block: blocks.append(block),
    )
    shown.append_text(_coloured(blocks, tokenizer, end))
    shares = " ".join(f"{share:.2f}" for share in found.acceptance) or "none were checked"
    shown.append(
        f"\n{found.tokens_per_forward:.2f} tokens per forward, drafts accepted by head: {shares}", style="dim"
    )
    return shown


def _coloured(blocks: list[Block], tokenizer: PreTrainedTokenizerFast, end: int) -> Text:
    """Accepted drafts in colour, head 0's own tokens plain. Decoded at once, so that no character is cut."""
    tokens: list[int] = []
    styles: list[str] = []
    for block in blocks:
        own = [] if block.token is None else [block.token]
        tokens += [*block.drafts[: block.accepted], *own]
        styles += [ACCEPTED] * block.accepted + [OWN] * len(own)
    text, shown = Text(), ""
    for count, style in enumerate(styles, start=1):
        if tokens[count - 1] == end:
            break
        decoded = tokenizer.decode(tokens[:count])
        if decoded.endswith("\N{REPLACEMENT CHARACTER}"):
            continue
        text.append(decoded[len(shown) :], style=style)
        shown = decoded
    return text


def _prompt(recipe: Recipe, prompt: str | None, problem: int | None) -> str:
    if (prompt is None) == (problem is None):
        raise WMTPError("generate: give either --prompt TEXT or --problem NUMBER")
    if prompt is not None:
        return prompt
    problems = TASKS.create(recipe.evaluate.task, recipe).problems()
    assert problem is not None
    if not 0 <= problem < len(problems):
        raise WMTPError(f"--problem {problem}: task {recipe.evaluate.task!r} has {len(problems)} problems")
    return problems[problem].prompt
