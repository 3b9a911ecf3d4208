from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import wmtp.decode.sampling as sampling
from wmtp.decode.generate import Block, generate
from wmtp.decode.options import DecodeOptions
from wmtp.decode.sampling import count_accepted, distribution, draw, most_probable, remainder
from wmtp.errors import WMTPError

VOCABULARY, DRAWS = 4, 4000
PROMPTS = ([1, 2, 3], [0])


@pytest.fixture(scope="module")
def model(build_model):
    return build_model(heads=4, vocab_size=VOCABULARY, seed=1)


def enumerate_exactly(model, prompt: list[int], length: int, temperature: float, top_p: float):
    """Probabilities of all sequences, [V ** length], by running head 0 on every one of them."""
    sequences = list(product(range(VOCABULARY), repeat=length))
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *sequence] for sequence in sequences])
        logits = model(ids).logits[:, len(prompt) - 1 : -1]
    joint = torch.ones(len(sequences), dtype=torch.float64)
    for place in range(length):
        for number, sequence in enumerate(sequences):
            probabilities = torch.softmax(logits[number, place] / temperature, -1).tolist()
            nucleus: list[int] = []
            for token in sorted(range(VOCABULARY), key=lambda t: -probabilities[t]):
                nucleus.append(token)
                if sum(probabilities[t] for t in nucleus) >= top_p:
                    break
            mass = sum(probabilities[t] for t in nucleus)
            token = sequence[place]
            joint[number] *= probabilities[token] / mass if token in nucleus else 0.0
    return joint


def fit(model, heads: int | None, length: int, temperature: float, top_p: float) -> list[float]:
    """For each prompt the p-value of what was drawn under head 0's joint distribution of `length` tokens."""
    values = []
    prompts = [prompt for _ in range(DRAWS) for prompt in PROMPTS]
    options = DecodeOptions(
        length, temperature=temperature, top_p=top_p, seed=11, heads=heads, batch_size=2001
    )
    found = generate(model, prompts, options)
    powers = VOCABULARY ** torch.arange(length - 1, -1, -1)
    for place, prompt in enumerate(PROMPTS):
        expected = DRAWS * enumerate_exactly(model, prompt, length, temperature, top_p)
        drawn = torch.tensor(found.tokens[place :: len(PROMPTS)])
        observed = torch.bincount((drawn * powers).sum(1), minlength=len(expected)).double()
        assert not observed[expected == 0].any()
        frequent = expected >= 5
        rare = (expected > 0) & ~frequent
        groups = [(observed[frequent], expected[frequent])]
        if expected[rare].sum() >= 1:
            groups.append((observed[rare].sum()[None], expected[rare].sum()[None]))
        seen, wanted = (torch.cat(each) for each in zip(*groups, strict=True))
        assert len(seen) > 5
        values.append(float(chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue))
    return values


@pytest.mark.parametrize(
    ("length", "heads", "temperature", "top_p"),
    [(2, 2, 1.0, 1.0), (3, 3, 0.7, 1.0), (3, 4, 1.5, 0.8), (4, 4, 1.0, 0.95), (4, 4, 2.0, 1.0)],
)
def test_speculative_samples_have_the_joint_distribution_of_head_0(model, length, heads, temperature, top_p):
    assert min(fit(model, heads, length, temperature, top_p)) > 0.001


def test_samples_token_by_token_have_the_same_joint_distribution(model):
    assert min(fit(model, 1, 3, 1.0, 0.9)) > 0.001


def always(wanted, proposal, drafts, uniforms):
    return torch.full((len(drafts),), drafts.shape[1])


def without_the_proposal(wanted, proposal, drafts, uniforms):
    return count_accepted(wanted, torch.ones_like(proposal), drafts, uniforms)


def too_often(wanted, proposal, drafts, uniforms):
    return count_accepted(1.2 * wanted, proposal, drafts, uniforms)


def all_that_is_wanted(wanted, proposal):
    return wanted


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("count_accepted", always),
        ("count_accepted", without_the_proposal),
        ("count_accepted", too_often),
        ("remainder", all_that_is_wanted),
    ],
)
def test_a_wrong_rule_would_be_noticed(model, monkeypatch, name, wrong):
    monkeypatch.setattr(sampling, name, wrong)
    assert max(fit(model, None, 3, 1.0, 1.0)) < 1e-6


@pytest.mark.parametrize("place", [0, 1])
def test_a_draft_is_accepted_with_the_overlap_of_both_distributions(place):
    """The best that any rule can do: sum of min(p, q)."""
    generator = torch.Generator().manual_seed(place)
    count = 40_000
    wanted, proposal = torch.rand(2, 6, dtype=torch.float64, generator=generator).pow(2)
    wanted, proposal = wanted / wanted.sum(), proposal / proposal.sum()
    uniforms = torch.rand(2, count, 1, dtype=torch.float64, generator=generator)
    drafts = draw(proposal.expand(count, 1, 6), uniforms[0])
    held = count_accepted(wanted.expand(count, 1, 6), proposal.expand(count, 1, 6), drafts, uniforms[1])
    overlap = float(torch.minimum(wanted, proposal).sum())
    assert float(held.double().mean()) == pytest.approx(overlap, abs=0.01)
    assert 0.4 < overlap < 0.95


@given(
    logits=st.lists(st.lists(st.floats(-30, 30), min_size=5, max_size=5), min_size=1, max_size=4),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_distributions_sum_to_one_and_only_possible_tokens_are_drawn(logits, temperature, top_p, uniform):
    probabilities = distribution(torch.tensor(logits), temperature, top_p)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(logits), dtype=torch.float64))
    tokens = draw(probabilities, torch.full((len(logits),), uniform, dtype=torch.float64))
    assert (probabilities.gather(1, tokens[:, None]) > 0).all()


def test_equal_distributions_leave_no_remainder_and_accept_everything():
    same = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert remainder(same, same).tolist() == same.tolist()
    drafts = torch.tensor([[0, 1]])
    uniforms = torch.full((1, 2), 1 - 2**-53, dtype=torch.float64)
    assert count_accepted(same.expand(1, 2, 2), same.expand(1, 2, 2), drafts, uniforms).tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "^temperature -1.0: should be a number, 0 or more"),
        ({"temperature": float("nan")}, "^temperature nan: "),
        ({"temperature": float("inf")}, "^temperature inf: "),
        ({"top_p": 0.0}, "^top_p 0.0: should be above 0 and at most 1"),
        ({"top_p": 1.5}, "^top_p 1.5: "),
        ({"seed": -1}, "^seed -1: should be 0 or more"),
        ({"max_new_tokens": 0}, "^max_new_tokens 0: should be 1 or more"),
        ({"batch_size": 0}, "^batch_size 0: should be 1 or more"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(WMTPError, match=message):
        DecodeOptions(**{"max_new_tokens": 2} | options)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100), temperature=st.floats(0.3, 3), eos_ids=st.sets(st.integers(0, 3), max_size=1)
)
def test_neither_batch_nor_neighbours_change_a_speculative_sample(model, seed, temperature, eos_ids):
    prompts = [[1, 2, 3], [0], [3, 3], [2, 1, 0, 1, 2]]
    options = DecodeOptions(11, eos_ids, temperature=temperature, seed=seed, heads=None)
    blocks: list[list[Block]] = [[] for _ in prompts]
    whole = generate(model, prompts, options, on_block=lambda index, block: blocks[index].append(block))
    for index, prompt in enumerate(prompts):
        alone = generate(model, [prompt], options, streams=[index])
        assert alone.tokens == [whole.tokens[index]]
        joined: list[int] = []
        for block in blocks[index]:
            joined += block.drafts[: block.accepted]
            joined += [] if block.token is None else [block.token]
        assert joined == whole.tokens[index] + [*eos_ids] * whole.finished[index]


def test_one_head_draws_each_token_with_the_number_of_its_place(model, recompute):
    prompts = [[1, 2, 3], [0], [3, 3]]
    found = generate(model, prompts, DecodeOptions(10, temperature=1.0, top_p=0.9, seed=3))
    for index, (prompt, tokens) in enumerate(zip(prompts, found.tokens, strict=True)):
        numbers = torch.from_numpy(np.random.default_rng([3, index]).random((3, 10)))[sampling.OWN]
        for place in range(10):
            logits = recompute(model, prompt + tokens[:place])
            assert tokens[place] == int(draw(distribution(logits, 1.0, 0.9), numbers[place]))
    assert found.tokens_per_forward == 1


def test_a_low_temperature_is_greedy(model):
    prompts = [[1, 2, 3], [0], [3, 3]]
    greedy = generate(model, prompts, DecodeOptions(10))
    found = generate(model, prompts, DecodeOptions(10, temperature=1e-4, heads=None))
    assert found.tokens == greedy.tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_most_probable_token_is_the_first_of_equals(dtype):
    logits = torch.randint(-3, 3, (5, 4, 40), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert most_probable(logits).tolist() == [
        [row.index(max(row)) for row in rows] for rows in logits.tolist()
    ]
