"""Measures what drafting with the extra heads saves: wall-clock time, tokens per forward, acceptance by head."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from wmtp.decode.batch import Generation
from wmtp.decode.generate import Block, OnBlock, generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.ties import first_differences
from wmtp.environment import dtype_name
from wmtp.errors import WMTPError
from wmtp.evaluate.prompts import prompts_of
from wmtp.evaluate.tasks import settings_of, task_of
from wmtp.layout import SPEED_FILE
from wmtp.model.modeling import MTPForCausalLM
from wmtp.progress import counting, progress
from wmtp.run import Run
from wmtp.storage import check_can_write, write_json


@dataclass(frozen=True)
class HeadAcceptance:
    """How often a head's draft is the token that the output has at its place.

    Attributes:
        head: from 1.
        marginal: share of all its drafts, whether or not the drafts before them in their block were accepted.
        drafts: how many those are; drafts beyond the end of the output are left out.
        conditional: share of the drafts that were checked: those before which all in their block were accepted.
        checked: how many those are. A share is None where there are none.
    """

    head: int
    marginal: float | None
    drafts: int
    conditional: float | None
    checked: int


@dataclass(frozen=True)
class Speed:
    """Self-speculative decoding with some of the heads against greedy next-token decoding of the same prompts.

    Attributes:
        batch_size: prompts decoded together, the same for both.
        heads: how many are used, head 0 included.
        tokens: generated, each eos included.
        tokens_per_forward: as in `Generation`; 1 for next-token decoding.
        acceptance: of heads 1..heads-1.
        same_as_greedy: prompts whose tokens are those of greedy next-token decoding.
        near_ties: of the other prompts, those that diverge where head 0 could not tell two tokens apart in the
            model's dtype (`decode.ties`). Together they should be all.
        seconds, greedy_seconds: wall-clock time for all prompts, by repetition.
        ratio: median over the repetitions of greedy_seconds / seconds; above 1 drafting is faster.
    """

    batch_size: int
    heads: int
    tokens: int
    tokens_per_forward: float
    acceptance: list[HeadAcceptance]
    same_as_greedy: int
    near_ties: int
    seconds: list[float]
    greedy_seconds: list[float]
    ratio: float


def evaluate_speed(run: Run, batch_sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Measure a run's newest checkpoint on the prompts of the recipe's task; writes `evaluation-speed.json`.

    Raises:
        WMTPError: the model has one head only, or the task has no problems.
    """
    path = run.directory / SPEED_FILE
    check_can_write(path)
    model, settings, task = run.model, settings_of(run.recipe.evaluate), task_of(run.recipe)
    prompts = prompts_of(task.rows, model, run.tokenizer, settings, task.stop)
    options = DecodeOptions(settings.max_new_tokens, prompts.ends, stop=prompts.stop)
    measured = measure_speed(model, list(prompts.ids.values()), options, batch_sizes, repeats)
    result = {
        "checkpoint": run.checkpoint.name,
        "task": task.name,
        "protocol": settings.label,
        "prompts": len(prompts.ids),
        "max_new_tokens": settings.max_new_tokens,
        "dtype": dtype_name(model.dtype),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "measured": [asdict(each) for each in measured],
    }
    write_json(path, result)
    return result


def measure_speed(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    options: DecodeOptions,
    batch_sizes: Sequence[int],
    repeats: int,
) -> list[Speed]:
    """Greedy next-token decoding against drafting with 2, 3, … H heads, at each batch size.

    Every way runs once without being timed, which gives the counts, and then all of them `repeats` times in turn,
    forwards and backwards, so that a slow spell of the machine meets all alike.

    Args:
        model: its dtype and device are used.
        prompts: token ids.
        options: of greedy decoding; batch size and heads are those measured.
        batch_sizes: each is measured.
        repeats: timed runs of each way.

    Raises:
        WMTPError: the model has one head only, or there are no prompts.
    """
    heads = model.config.heads
    if heads == 1:
        raise WMTPError("--speed: the model has one head, so none can draft")
    if not prompts:
        raise WMTPError("--speed: there are no prompts to decode")
    passes = len(batch_sizes) * heads * (1 + repeats)
    with progress("measure speed", passes * len(prompts)) as update:
        ended = counting(update)
        return [
            speed
            for batch_size in batch_sizes
            for speed in _at_batch_size(
                model, prompts, replace(options, batch_size=batch_size), repeats, ended
            )
        ]


def _at_batch_size(
    model: MTPForCausalLM,
    prompts: Sequence[list[int]],
    options: DecodeOptions,
    repeats: int,
    ended: Callable[[int], None],
) -> list[Speed]:
    def decode(heads: int, on_block: OnBlock | None = None) -> Generation:
        wanted = replace(options, heads=heads)
        return generate(model, prompts, wanted, on_end=lambda *_: ended(1), on_block=on_block)

    used = range(1, model.config.heads + 1)
    greedy = decode(1)
    counted: dict[int, tuple[Generation, list[HeadAcceptance]]] = {}
    for heads in used[1:]:
        blocks: list[list[Block]] = [[] for _ in prompts]
        found = decode(heads, lambda index, block, blocks=blocks: blocks[index].append(block))  # type: ignore[misc]
        counted[heads] = found, acceptance_by_head(found, blocks)
    seconds: dict[int, list[float]] = {heads: [] for heads in used}
    for repeat in range(repeats):
        for heads in used if repeat % 2 == 0 else reversed(used):
            seconds[heads].append(decode(heads).seconds)
    return [
        Speed(
            batch_size=options.batch_size,
            heads=heads,
            tokens=found.generated,
            tokens_per_forward=found.tokens_per_forward,
            acceptance=acceptance,
            same_as_greedy=sum(a == b for a, b in zip(found.tokens, greedy.tokens, strict=True)),
            near_ties=sum(
                difference.is_near_tie
                for difference in first_differences(
                    model, prompts, greedy.tokens, found.tokens, eos_ids=options.eos_ids
                )
            ),
            seconds=seconds[heads],
            greedy_seconds=seconds[1],
            ratio=statistics.median(a / b for a, b in zip(seconds[1], seconds[heads], strict=True)),
        )
        for heads, (found, acceptance) in counted.items()
    ]


def acceptance_by_head(generation: Generation, blocks: Sequence[Sequence[Block]]) -> list[HeadAcceptance]:
    """Acceptance of heads 1, 2, …, as many as drafted.

    Args:
        generation: what was decoded greedily, and what was checked meanwhile.
        blocks: of each prompt, in order.
    """
    equal, drafted = [0] * len(generation.checked), [0] * len(generation.checked)
    for own in blocks:
        output = [token for block in own for token in _kept(block)]
        start = 0
        for block in own:
            for place, (draft, token) in enumerate(zip(block.drafts, output[start:], strict=False)):
                drafted[place] += 1
                equal[place] += draft == token
            start += len(_kept(block))
    return [
        HeadAcceptance(
            head=head,
            marginal=_share(equal[head - 1], drafted[head - 1]),
            drafts=drafted[head - 1],
            conditional=_share(accepted, checked),
            checked=checked,
        )
        for head, (accepted, checked) in enumerate(
            zip(generation.accepted, generation.checked, strict=True), start=1
        )
    ]


def _kept(block: Block) -> list[int]:
    own = [] if block.token is None else [block.token]
    return [*block.drafts[: block.accepted], *own]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
