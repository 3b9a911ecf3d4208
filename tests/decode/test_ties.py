import copy
from dataclasses import replace

import pytest
import torch

from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.ties import first_differences

PROMPTS = [[number % 12, number % 7, number % 5] for number in range(40)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_two_ways_of_decoding_differ_only_at_near_ties(build_model, dtype):
    """Many layers and a narrow spread of the logits, so that bfloat16 leaves near-ties.

    Whether they show in speculative decoding depends on the processor, whose sums may be those of greedy decoding to
    the last bit. Next to the same weights in float32 they show everywhere.
    """
    speculated, rounded = [], []
    for seed in range(3):
        model = build_model(trunk_layers=3, heads=4, seed=seed).to(dtype)
        with torch.no_grad():
            model.lm_head.weight *= 0.2
        options = DecodeOptions(24, {3})
        greedy = generate(model, PROMPTS, options).tokens
        speculative = generate(model, PROMPTS, replace(options, heads=None)).tokens
        in_float32 = generate(copy.deepcopy(model).float(), PROMPTS, options).tokens
        speculated += first_differences(model, PROMPTS, greedy, speculative, eos_ids={3})
        rounded += first_differences(model, PROMPTS, greedy, in_float32, eos_ids={3})
    assert all(difference.is_near_tie and difference.error > 0 for difference in speculated + rounded)
    assert bool(rounded) == (dtype == torch.bfloat16)
    assert not speculated or dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_wrong_token_is_no_near_tie(build_model, recompute, dtype):
    model = build_model(dtype=dtype)
    exact = build_model()
    greedy = generate(model, PROMPTS[:3], DecodeOptions(9)).tokens
    changed = [list(tokens) for tokens in greedy]
    logits = recompute(exact, PROMPTS[1] + greedy[1][:4])
    worst = int(logits.argmin())
    changed[1][4:] = [worst, 0, 0]
    [difference] = first_differences(model, PROMPTS[:3], greedy, changed, eos_ids=())
    assert (difference.prompt, difference.place, difference.tokens) == (1, 4, (greedy[1][4], worst))
    assert difference.gap == pytest.approx(float(logits.max() - logits.min()), rel=0.05)
    assert not difference.is_near_tie


def test_a_completion_that_ends_earlier_has_the_eos_next(build_model, recompute):
    model = build_model()
    [tokens] = generate(model, [[1]], DecodeOptions(9)).tokens
    [difference] = first_differences(model, [[1]], [tokens], [tokens[:5]], eos_ids={7})
    best = int(recompute(model, [1, *tokens[:5]])[[7, 2, 9]].argmax())
    [other] = first_differences(model, [[1]], [tokens], [tokens[:5]], eos_ids=[7, 2, 9])
    assert (other.place, other.tokens) == (5, (tokens[5], [7, 2, 9][best]))
    assert (difference.place, difference.tokens) == (5, (tokens[5], 7))
    assert first_differences(model, [[1]], [tokens], [tokens], eos_ids={7}) == []
