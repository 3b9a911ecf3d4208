"""Acceptance by head against blocks that are replayed, one forward for every logit, in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_models import small_model
from wmtp.config import Config, Recipe
from wmtp.data.tokenizer import _train, encode
from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.stopping import StopStrings
from wmtp.errors import WMTPError
from wmtp.evaluate import speed
from wmtp.evaluate.speed import HeadAcceptance, measure_speed
from wmtp.evaluate.tasks import TASKS, Problem
from wmtp.model.modeling import MTPForCausalLM
from wmtp.run import Run
from wmtp.sandbox import Program

VOCABULARY = 4


def make_model(heads: int, seed: int = 0, vocabulary: int = VOCABULARY) -> MTPForCausalLM:
    return small_model(heads, vocabulary, seed=seed).double()


@torch.no_grad()
def choice(model: MTPForCausalLM, sequence: list[int], head: int) -> int:
    trunk = model.trunk(torch.tensor([sequence]))
    return int((model.head(trunk, head)[0, -1] @ model.unembedding.T).argmax())


def replay(
    model: MTPForCausalLM, prompts: Sequence[list[int]], options: DecodeOptions, heads: int
) -> tuple[int, int, list[HeadAcceptance]]:
    """Tokens, forwards and acceptance of blocks that are laid over each prompt's greedy output."""
    tokens, forwards = 0, 0
    marginal: dict[int, list[bool]] = {h: [] for h in range(1, heads)}
    conditional: dict[int, list[bool]] = {h: [] for h in range(1, heads)}
    for prompt in prompts:
        output: list[int] = []
        while len(output) < options.max_new_tokens and not set(options.eos_ids) & set(output):
            output.append(choice(model, [*prompt, *output], 0))
        tokens, forwards = tokens + len(output), forwards + 1
        known = 1
        while known < len(output):
            forwards += 1
            seen = [*prompt, *output[: known - 1]]
            right = {
                h: choice(model, seen, h) == output[known + h - 1]
                for h in range(1, heads)
                if known + h - 1 < len(output)
            }
            accepted = 0
            for h, is_right in right.items():
                marginal[h].append(is_right)
                if accepted == h - 1:
                    conditional[h].append(is_right)
                    accepted += is_right
            known += accepted + 1
    acceptance = [
        HeadAcceptance(
            h,
            sum(marginal[h]) / len(marginal[h]) if marginal[h] else None,
            len(marginal[h]),
            sum(conditional[h]) / len(conditional[h]) if conditional[h] else None,
            len(conditional[h]),
        )
        for h in range(1, heads)
    ]
    return tokens, forwards, acceptance


@settings(max_examples=12)
@given(
    ids=st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4), min_size=1, max_size=3),
    heads=st.integers(2, 4),
    seed=st.integers(0, 99),
    max_new_tokens=st.integers(1, 12),
    eos_ids=st.sampled_from([(), (0,), (0, 3)]),
    batch_size=st.integers(1, 3),
)
@pytest.mark.slow
def test_counts_are_those_of_replayed_blocks(
    ids: list[list[int]],
    heads: int,
    seed: int,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    batch_size: int,
) -> None:
    model, options = make_model(heads, seed), DecodeOptions(max_new_tokens, eos_ids)
    measured = measure_speed(model, ids, options, [batch_size], 1)
    assert [own.heads for own in measured] == list(range(2, heads + 1))
    for own in measured:
        tokens, forwards, acceptance = replay(model, ids, options, own.heads)
        assert (own.tokens, own.acceptance) == (tokens, acceptance)
        assert own.tokens_per_forward == tokens / forwards
        assert (own.same_as_greedy, own.near_ties) == (len(ids), 0)


def test_a_later_draft_may_be_right_more_often_than_it_is_checked() -> None:
    """Marginal and conditional acceptance differ, or the test above would not tell them apart."""
    (_, own) = measure_speed(make_model(3, seed=2), [[1], [2, 3], [0]], DecodeOptions(20), [3], 1)
    second = own.acceptance[1]
    assert second.drafts > second.checked > 0
    assert second.marginal != second.conditional


def test_every_way_is_repeated_in_turn_and_the_median_of_the_pairs_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[tuple[int, int | None]] = []
    took = iter(range(1, 1000))

    def timed(model: Any, prompts: Any, options: DecodeOptions, **rest: Any) -> Any:
        found = generate(model, prompts, options, **rest)
        order.append((options.batch_size, options.heads))
        found.seconds = float(next(took))
        return found

    monkeypatch.setattr(speed, "generate", timed)
    measured = measure_speed(make_model(3), [[1], [2]], DecodeOptions(3), [2, 1], 3)
    turns = [1, 2, 3, 1, 2, 3, 3, 2, 1, 1, 2, 3]
    assert order == [(2, n) for n in turns] + [(1, n) for n in turns]
    first = measured[0]
    assert (first.greedy_seconds, first.seconds) == ([4.0, 9.0, 10.0], [5.0, 8.0, 11.0])
    assert first.ratio == 10 / 11  # of 4/5, 9/8 and 10/11


@pytest.mark.slow
def test_differences_are_counted_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision leaves near-ties where logits lie close together; a token that is far off is none.

    The drafts are checked in float32, so that the two ways of decoding round differently on every processor.
    """
    model = make_model(3, vocabulary=1000)
    with torch.no_grad():
        model.lm_head.weight *= 0.05
    model = model.to(torch.bfloat16)
    prompts = [[number, 3 * number, 7 * number] for number in range(64)]
    in_float32 = copy.deepcopy(model).float()

    def rounded_otherwise(model: Any, prompts: Any, options: DecodeOptions, **rest: Any) -> Any:
        return generate(model if options.heads == 1 else in_float32, prompts, options, **rest)

    monkeypatch.setattr(speed, "generate", rounded_otherwise)
    (_, own) = measure_speed(model, prompts, DecodeOptions(24), [64], 1)
    assert own.same_as_greedy < 64
    assert own.same_as_greedy + own.near_ties == 64

    def wrong(model: Any, prompts: Any, options: DecodeOptions, **rest: Any) -> Any:
        found = rounded_otherwise(model, prompts, options, **rest)
        if options.heads != 1:
            worst = int(in_float32(torch.tensor([prompts[5]])).logits[0, -1].argmin())
            found.tokens[5] = [worst, *found.tokens[5][1:]]
        return found

    monkeypatch.setattr(speed, "generate", wrong)
    (_, own) = measure_speed(model, prompts, DecodeOptions(24), [64], 1)
    assert own.same_as_greedy + own.near_ties == 63


def test_one_head_has_no_drafts_to_measure() -> None:
    with pytest.raises(WMTPError, match=r"^--speed: the model has one head"):
        measure_speed(make_model(1), [[1]], DecodeOptions(4), [1], 1)


def test_without_prompts_there_is_nothing_to_measure() -> None:
    with pytest.raises(WMTPError, match=r"^--speed: there are no prompts to decode$"):
        measure_speed(make_model(2), [], DecodeOptions(4), [1], 1)


@dataclass(frozen=True)
class Listing:
    """A task of one's own."""

    prompts: Sequence[str]
    stop: tuple[str, ...] = ()
    name: str = "listing"

    def problems(self) -> list[Problem]:
        """One of each prompt."""
        return [Problem(text, text, lambda code: Program("", code, ())) for text in self.prompts]


def test_a_run_is_measured_up_to_its_tasks_stop_strings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = _train(["a b c d"] * 3, 270)
    model = small_model(2, len(tokenizer))
    recipe = Recipe.model_validate({"evaluate": {"task": f"{__name__}:Listing", "max_new_tokens": 12}})
    run = Run(tmp_path, recipe, Config())
    vars(run).update(checkpoint=tmp_path, model=model, tokenizer=tokenizer)

    def measured(task: Listing) -> list[dict[str, Any]]:
        monkeypatch.setattr(TASKS, "create", lambda *_: task)
        found: list[dict[str, Any]] = speed.evaluate_speed(run, [2], 1)["measured"]
        return found

    texts = ["a b", "c"]
    [free] = measured(Listing(texts))
    written = generate(model, encode(tokenizer, texts), DecodeOptions(12)).tokens
    stop = next(letter for letter in tokenizer.decode(written[0])[2:] if letter.isascii())
    ended = generate(
        model,
        encode(tokenizer, texts),
        DecodeOptions(12, {int(tokenizer.eos_token_id)}, stop=StopStrings(tokenizer, [stop])),
    )
    [own] = measured(Listing(texts, (stop,)))
    assert own["tokens"] == ended.generated < free["tokens"]
    with pytest.raises(WMTPError, match=r"^evaluate\.task listing: has no problems$"):
        measured(Listing([]))
