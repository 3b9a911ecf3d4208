import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.sampling import distribution, draw
from wmtp.errors import WMTPError

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 0], [2, 2], [3, 1, 4, 1, 5]]


def step_by_step(model, recompute, prompt: list[int], max_new_tokens: int, eos_id: int | None):
    """Greedy decoding by definition."""
    tokens: list[int] = []
    while len(tokens) < max_new_tokens:
        token = int(recompute(model, prompt + tokens).argmax())
        if token == eos_id:
            return tokens, True
        tokens.append(token)
    return tokens, False


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(("seed", "key_value_heads"), [(0, 1), (1, 2), (2, 1)])
def test_greedy_equals_recomputing_everything(build_model, recompute, seed, key_value_heads, batch_size):
    model = build_model(seed=seed, trunk_layers=2, key_value_heads=key_value_heads)
    free = generate(model, PROMPTS, DecodeOptions(16))
    eos_id = free.tokens[0][7]
    found = generate(model, PROMPTS, DecodeOptions(16, {eos_id}, batch_size=batch_size))
    expected = [step_by_step(model, recompute, prompt, 16, eos_id) for prompt in PROMPTS]
    assert list(zip(found.tokens, found.finished, strict=True)) == expected
    assert any(found.finished)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_equals_generate_of_transformers(build_model, architecture):
    model = build_model(architecture=architecture, trunk_layers=2, heads=2, key_value_heads=1)
    ours = generate(model, PROMPTS, DecodeOptions(12))
    ends = [tokens[5] for tokens in ours.tokens]
    for prompt, tokens, end in zip(PROMPTS, ours.tokens, ends, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": 12, "attention_mask": torch.ones_like(ids)}
        theirs = model.generate(ids, pad_token_id=0, **options)
        assert tokens == theirs[0, len(prompt) :].tolist()
        for others in [[], [tokens[8]], [tokens[2], 12]]:
            theirs = model.generate(ids, pad_token_id=0, eos_token_id=[end, *others], **options)
            written = theirs[0, len(prompt) :].tolist()
            for heads in (1, None):
                ended = generate(model, [prompt], DecodeOptions(12, [end, *others], heads=heads))
                assert ended.tokens[0] == written[:-1]
                assert written[-1] in [end, *others]
                assert ended.stops == ["eos"]


def test_the_eos_as_first_token_and_as_the_last_allowed_one(count_upwards):
    model = count_upwards(1)
    found = generate(model, [[3], [1], [2]], DecodeOptions(3, {4}))
    assert found.tokens == [[], [2, 3], [3]]
    assert found.finished == [True, True, True]
    assert generate(model, [[0]], DecodeOptions(3, {4})).tokens == [[1, 2, 3]]
    assert generate(model, [[0]], DecodeOptions(3, {4})).stops == ["length"]


def test_every_forward_yields_one_token(build_model):
    model = build_model()
    eos_id = generate(model, PROMPTS, DecodeOptions(9)).tokens[2][4]
    found = generate(model, PROMPTS, DecodeOptions(9, {eos_id}, batch_size=2))
    assert found.forwards == sum(len(tokens) for tokens in found.tokens) + sum(found.finished)
    assert found.tokens_per_forward == 1.0
    assert found.seconds > 0
    assert found.acceptance == []


def test_prompts_are_told_in_the_order_in_which_they_end(count_upwards):
    told: list[int] = []
    prompts = [[start] for start in range(12)]
    options = DecodeOptions(6, {11}, batch_size=5)
    generate(count_upwards(1), prompts, options, on_end=lambda index, *_: told.append(index))
    assert told == [0, 1, 2, 3, 4, 9, 8, 7, 6, 5, 10, 11]
    assert generate(count_upwards(1), [], options).tokens == []


def test_samples_depend_on_the_seed_and_the_prompts_index_only(build_model):
    model = build_model()
    options = DecodeOptions(12, {3}, temperature=1.0, top_p=0.9, seed=5)
    whole = generate(model, PROMPTS, options).tokens
    for batch_size in (1, 2, 3):
        assert generate(model, PROMPTS, replace(options, batch_size=batch_size)).tokens == whole
    others = [*PROMPTS[:2], [9] * 20, [8], *PROMPTS[4:]]
    changed = generate(model, others, options).tokens
    assert [changed[i] for i in (0, 1, 4)] == [whole[i] for i in (0, 1, 4)]
    assert generate(model, PROMPTS, replace(options, seed=6)).tokens != whole
    repeated = generate(model, [PROMPTS[0]] * 6, options).tokens
    assert len({tuple(tokens) for tokens in repeated}) > 1


@pytest.mark.parametrize("heads", [1, None])
def test_a_stream_gives_a_prompt_the_same_sample_in_any_batch(build_model, heads):
    model = build_model()
    options = DecodeOptions(12, {3}, temperature=1.0, top_p=0.9, seed=5, heads=heads)
    whole = generate(model, PROMPTS, options).tokens
    assert generate(model, PROMPTS, options, streams=range(5)).tokens == whole
    later = generate(model, [PROMPTS[3], [7, 7], PROMPTS[1]], options, streams=[3, 9, 1]).tokens
    assert [later[0], later[2]] == [whole[3], whole[1]]
    twice = generate(model, [PROMPTS[0]] * 2, options, streams=[4, 4]).tokens
    assert twice[0] == twice[1] != whole[0]


@pytest.mark.parametrize("heads", [1, None])
def test_every_prompt_is_told_once_when_it_ends(build_model, heads):
    model = build_model()
    told: list[tuple[int, list[int], str]] = []

    def on_end(index: int, tokens: list[int], stop: str) -> None:
        told.append((index, list(tokens), stop))

    found = generate(model, PROMPTS, DecodeOptions(12, {3}, heads=heads, batch_size=2), on_end=on_end)
    assert sorted(told) == list(zip(range(len(PROMPTS)), found.tokens, found.stops, strict=True))
    lengths = [len(tokens) for _, tokens, _ in told[:2]]
    assert lengths == sorted(lengths)


def test_another_number_of_streams_than_of_prompts(build_model):
    with pytest.raises(WMTPError, match=r"^streams: 2 numbers for 1 prompts"):
        generate(build_model(), [[1]], DecodeOptions(2, temperature=1.0), streams=[0, 1])


def test_a_low_temperature_is_greedy(build_model):
    model = build_model()
    greedy = generate(model, PROMPTS, DecodeOptions(10))
    assert generate(model, PROMPTS, DecodeOptions(10, temperature=1e-4)).tokens == greedy.tokens


def test_sampled_pairs_follow_the_models_distribution(build_model, recompute):
    model = build_model(seed=3)
    draws, temperature = 4000, 1.5
    found = generate(model, [[1, 2]] * draws, DecodeOptions(2, temperature=temperature, batch_size=draws))
    first = torch.softmax(recompute(model, [1, 2]) / temperature, -1)
    second = [torch.softmax(recompute(model, [1, 2, token]) / temperature, -1) for token in range(12)]
    expected = (first[:, None] * torch.stack(second)).flatten()
    pairs = torch.tensor(found.tokens)
    observed = torch.bincount(pairs[:, 0] * 12 + pairs[:, 1], minlength=144)
    frequent = expected * draws >= 5
    table = [
        (counts[frequent].tolist(), counts[~frequent].sum().item()) for counts in (observed, expected * draws)
    ]
    (seen, seen_rest), (wanted, wanted_rest) = table
    assert frequent.sum() > 40
    assert chisquare([*seen, seen_rest], [*wanted, wanted_rest]).pvalue > 0.001


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.95, 1.0])
def test_evenly_spread_numbers_give_exact_shares(temperature, top_p):
    logits = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    count = 20_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(distribution(logits.expand(count, -1), temperature, top_p), uniforms)
    probabilities = torch.softmax(logits / temperature, -1).tolist()
    nucleus: list[int] = []
    for token in sorted(range(9), key=lambda t: -probabilities[t]):
        nucleus.append(token)
        if sum(probabilities[t] for t in nucleus) >= top_p:
            break
    mass = sum(probabilities[t] for t in nucleus)
    shares = [probabilities[t] / mass if t in nucleus else 0.0 for t in range(9)]
    observed = torch.bincount(tokens, minlength=9)
    assert (observed - count * torch.tensor(shares)).abs().max() <= 1
    assert len(nucleus) < 9 or top_p > 0.9


def test_the_extreme_numbers_pick_possible_tokens():
    logits = torch.tensor([[-1e4, 0.0, 0.0, -1e4]], dtype=torch.float64).expand(2, -1)
    for top_p in (0.9, 1.0):
        uniforms = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
        assert draw(distribution(logits, 1.0, top_p), uniforms).tolist() == [1, 2]


def test_the_training_flags_stay_as_they_were(build_model):
    model = build_model()
    model.train()
    model.model.norm.eval()
    flags = [module.training for module in model.modules()]
    generate(model, PROMPTS, DecodeOptions(2))
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(IndexError):
        generate(model, [[99]], DecodeOptions(2))
    assert [module.training for module in model.modules()] == flags
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_generating(build_model):
    model = build_model(attention_dropout=0.9)
    expected = generate(model, PROMPTS, DecodeOptions(8)).tokens
    assert generate(model.train(), PROMPTS, DecodeOptions(8)).tokens == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_choose_nearly_the_best_token(build_model, recompute, dtype):
    model = build_model(dtype=dtype)
    found = generate(model, PROMPTS, DecodeOptions(12))
    for prompt, tokens in zip(PROMPTS, found.tokens, strict=True):
        for count, token in enumerate(tokens):
            logits = recompute(model, prompt + tokens[:count])
            assert logits.max() - logits[token] <= 16 * torch.finfo(dtype).eps * logits.abs().max()


def test_an_empty_prompt_is_named(build_model):
    with pytest.raises(WMTPError, match=r"^prompt 1: has no tokens"):
        generate(build_model(), [[1], []], DecodeOptions(2))


def test_more_positions_than_the_model_has(build_model):
    model = build_model(max_position_embeddings=20)
    prompt = random.Random(0).choices(range(12), k=15)
    assert len(generate(model, [prompt], DecodeOptions(5)).tokens[0]) == 5
    with pytest.raises(WMTPError, match=r"^max_new_tokens 6: prompt 1 of 15 tokens leaves 5 of .* 20"):
        generate(model, [[1], prompt], DecodeOptions(6))


def test_a_model_that_diverged_is_refused(build_model):
    model = build_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WMTPError, match="not finite"):
        generate(model, PROMPTS, DecodeOptions(2))


@pytest.mark.parametrize("heads", [1, None])
def test_one_row_that_is_not_finite_is_enough(build_model, heads):
    model = build_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = float("nan")
    prompts, options = [[1, 2], [4, 3], [5, 6]], DecodeOptions(1, heads=heads)
    assert len(generate(model, prompts[::2], options).tokens) == 2
    with pytest.raises(WMTPError, match="not finite"):
        generate(model, prompts, options)
