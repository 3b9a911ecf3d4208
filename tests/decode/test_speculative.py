from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.decode.generate import Block, generate
from wmtp.decode.options import DecodeOptions
from wmtp.errors import WMTPError

prompt_lists = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9), min_size=1, max_size=6)


def decode(model, prompts, options: DecodeOptions):
    """What is generated, with the blocks of each prompt."""
    blocks: list[list[Block]] = [[] for _ in prompts]
    found = generate(model, prompts, options, on_block=lambda index, block: blocks[index].append(block))
    return found, blocks


def check_records(found, blocks, eos_ids: Collection[int], heads: int) -> None:
    """What was recorded follows from the blocks, and the blocks give the tokens."""
    checked, accepted = [0] * (heads - 1), [0] * (heads - 1)
    for tokens, finished, own in zip(found.tokens, found.finished, blocks, strict=True):
        joined: list[int] = []
        for block in own:
            kept = block.drafts[: block.accepted]
            joined += kept if block.token is None else [*kept, block.token]
            assert len(block.drafts) == (0 if block is own[0] else heads - 1)
            refused = block.token is not None and block.accepted < len(block.drafts)
            for draft in range(block.accepted + refused):
                checked[draft] += 1
                accepted[draft] += draft < block.accepted
            assert not refused or block.drafts[block.accepted] != block.token
        assert joined[: len(tokens)] == tokens
        assert [token in eos_ids for token in joined[len(tokens) :]] == [True] * finished
    assert found.forwards == sum(map(len, blocks))
    assert (found.checked, found.accepted) == (checked, accepted)
    assert found.acceptance == [a / c for a, c in zip(accepted, checked, strict=True) if c]
    assert 1 <= found.tokens_per_forward <= heads


@settings(max_examples=60, deadline=None)
@given(
    prompts=prompt_lists,
    heads=st.integers(1, 5),
    trunk_layers=st.integers(0, 3),
    key_value_heads=st.sampled_from([1, 2, 4]),
    tied=st.booleans(),
    vocab_size=st.sampled_from([3, 12]),
    seed=st.integers(0, 1000),
    max_new_tokens=st.integers(1, 17),
    data=st.data(),
)
def test_the_tokens_are_those_of_greedy_decoding(
    build_model, prompts, heads, trunk_layers, key_value_heads, tied, vocab_size, seed, max_new_tokens, data
):
    model = build_model(
        heads=heads,
        trunk_layers=trunk_layers,
        attention_heads=4,
        key_value_heads=key_value_heads,
        tied=tied,
        vocab_size=vocab_size,
        seed=seed,
    )
    prompts = [[token % vocab_size for token in prompt] for prompt in prompts]
    free = generate(model, prompts, DecodeOptions(max_new_tokens))
    occurring = sorted({token for tokens in free.tokens for token in tokens})
    eos_ids = data.draw(st.sets(st.sampled_from(occurring), max_size=3), label="eos_ids")
    used = data.draw(st.integers(1, heads), label="used heads")
    batch_size = data.draw(st.integers(1, len(prompts)), label="batch_size")
    options = DecodeOptions(max_new_tokens, eos_ids)
    greedy = generate(model, prompts, options)
    found, blocks = decode(model, prompts, replace(options, heads=used, batch_size=batch_size))
    assert (found.tokens, found.stops) == (greedy.tokens, greedy.stops)
    check_records(found, blocks, eos_ids, used)


@pytest.mark.gpu
@pytest.mark.parametrize("key_value_heads", [1, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_the_tokens_on_a_gpu_are_those_of_greedy_decoding_on_the_processor(
    build_model, key_value_heads, tied, gpu_device
):
    model = build_model(heads=4, attention_heads=4, key_value_heads=key_value_heads, tied=tied)
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8], [9, 10, 11]]
    options = DecodeOptions(24, eos_ids={7})
    expected = generate(model, prompts, options)
    model = model.to(gpu_device)
    greedy = generate(model, prompts, options)
    assert (greedy.tokens, greedy.stops) == (expected.tokens, expected.stops)
    for heads in (2, 4):
        for batch_size in (1, 3):
            found, blocks = decode(model, prompts, replace(options, heads=heads, batch_size=batch_size))
            assert (found.tokens, found.stops) == (expected.tokens, expected.stops)
            check_records(found, blocks, {7}, heads)


@pytest.mark.gpu
def test_samples_on_a_gpu_do_not_depend_on_the_batches(build_model, gpu_device):
    model = build_model().to(gpu_device)
    options = DecodeOptions(16, temperature=1.0, seed=3)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    one_by_one, together = (generate(model, prompts, replace(options, batch_size=n)).tokens for n in (1, 3))
    assert one_by_one == together
    assert len({tuple(tokens) for tokens in together}) == 3


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("key_value_heads", [1, 4])
def test_drafts_are_the_choices_of_the_heads(build_model, recompute, architecture, key_value_heads):
    """The tokens would be right with any drafts; these are what each head, recomputed from nothing, says."""
    biases = {"attention_bias": True, "mlp_bias": True} if architecture == "llama" else {}
    model = build_model(
        architecture=architecture,
        heads=4,
        trunk_layers=2,
        attention_heads=4,
        key_value_heads=key_value_heads,
        **biases,
    )
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8]]
    found, blocks = decode(model, prompts, DecodeOptions(14, heads=None))
    assert found.tokens == generate(model, prompts, DecodeOptions(14)).tokens
    for prompt, own in zip(prompts, blocks, strict=True):
        known = list(prompt)
        for block, following in pairwise(own):
            known += block.drafts[: block.accepted]
            assert following.drafts == [int(recompute(model, known, h).argmax()) for h in (1, 2, 3)]
            known.append(block.token)


def test_eager_attention_gives_the_same(build_model):
    model = build_model(key_value_heads=1)
    prompts, options = [[1, 2, 3, 4, 5], [6], [7, 8]], DecodeOptions(14)
    expected = generate(model, prompts, options).tokens
    model.set_attn_implementation("eager")
    assert model.config.backbone._attn_implementation == "eager"
    assert generate(model, prompts, options).tokens == expected
    assert generate(model, prompts, replace(options, heads=None)).tokens == expected


@pytest.mark.parametrize("heads", [2, 4, 5])
@pytest.mark.parametrize("eos_ids", [(), {0}, {5, 8}])
def test_heads_that_are_always_right(count_upwards, heads, eos_ids):
    model = count_upwards(heads)
    for max_new_tokens in range(1, 3 * heads):
        prompts = [[start] for start in range(11)]
        options = DecodeOptions(max_new_tokens, eos_ids)
        greedy = generate(model, prompts, options)
        found, blocks = decode(model, prompts, replace(options, heads=None, batch_size=7))
        assert (found.tokens, found.finished) == (greedy.tokens, greedy.finished)
        check_records(found, blocks, eos_ids, heads)
        assert set(found.acceptance) <= {1.0}
        generated = [len(t) + f for t, f in zip(found.tokens, found.finished, strict=True)]
        assert [len(own) for own in blocks] == [1 + -(-(n - 1) // heads) for n in generated]


@pytest.mark.parametrize("eos_ids", [(), {2}])
def test_heads_that_are_always_wrong(build_model, eos_ids):
    """A direction that only heads 1.. write and only token 11 reads makes them draft 11, which head 0 never says."""
    model = build_model(heads=4, attention_bias=True)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        for layer in model.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight[0] = 0
            layer.self_attn.o_proj.bias[0] = 0
        for layer in model.heads.layers[1:]:
            layer.self_attn.o_proj.bias[0] = 1e6
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[11] = 0
        model.lm_head.weight[11, 0] = model.model.norm.weight[0].sign()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    options = DecodeOptions(15, eos_ids)
    greedy = generate(model, prompts, options)
    assert all(11 not in tokens for tokens in greedy.tokens)
    found, blocks = decode(model, prompts, replace(options, heads=None))
    assert (found.tokens, found.finished) == (greedy.tokens, greedy.finished)
    assert all(block.drafts == [11, 11, 11] for own in blocks for block in own[1:])
    assert found.acceptance == [0.0]
    assert found.checked == [found.forwards - len(prompts), 0, 0]
    assert found.tokens_per_forward == 1.0


@pytest.mark.parametrize(("heads", "used"), [(3, 1), (1, None)])
def test_one_head_is_next_token_generation(build_model, recompute, heads, used):
    model = build_model(heads=heads)
    prompts = [[1], [2, 3]]
    found, blocks = decode(model, prompts, DecodeOptions(8, heads=used))
    for prompt, own in zip(prompts, blocks, strict=True):
        known = list(prompt)
        for block in own:
            assert block == Block([], 0, int(recompute(model, known).argmax()))
            known.append(block.token)
    assert found.tokens == [[block.token for block in own] for own in blocks]
    assert [len(own) for own in blocks] == [8, 8]
    assert (found.tokens_per_forward, found.acceptance) == (1.0, [])


def test_drafts_may_lie_beyond_the_models_positions(count_upwards):
    model = count_upwards(5)
    model.config.backbone.max_position_embeddings = 10
    found = generate(model, [[1, 2, 3]], DecodeOptions(7, heads=None))
    assert found.tokens == [[4, 5, 6, 7, 8, 9, 10]]


def test_prompts_are_told_in_the_order_in_which_they_end(count_upwards):
    told: list[int] = []
    prompts = [[start] for start in range(12)]
    options = DecodeOptions(6, {11}, heads=None, batch_size=5)
    generate(count_upwards(3), prompts, options, on_end=lambda index, *_: told.append(index))
    assert told == [0, 1, 2, 3, 4, 7, 8, 9, 5, 6, 10, 11]


def test_bfloat16_chooses_nearly_the_best_token(build_model, recompute, device):
    model = build_model(dtype=torch.bfloat16).to(device).train()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    found = generate(model, prompts, DecodeOptions(12, heads=None))
    assert model.training
    for prompt, tokens in zip(prompts, found.tokens, strict=True):
        for count, token in enumerate(tokens):
            logits = recompute(model, prompt + tokens[:count])
            assert logits.max() - logits[token] <= 16 * torch.finfo(torch.bfloat16).eps * logits.abs().max()


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_that_the_model_lacks(build_model, heads):
    with pytest.raises(WMTPError, match=rf"^heads {heads}: the model has 3"):
        generate(build_model(), [[1]], DecodeOptions(2, heads=heads))


def test_mistakes_are_named_as_in_greedy_decoding(build_model):
    model = build_model(max_position_embeddings=8)
    with pytest.raises(WMTPError, match=r"^prompt 0: has no tokens"):
        generate(model, [[]], DecodeOptions(2, heads=None))
    with pytest.raises(WMTPError, match=r"^max_new_tokens 8: "):
        generate(model, [[1]], DecodeOptions(8, heads=None))


def test_adapters_in_the_heads_are_refused(build_model):
    class Adapter(torch.nn.Linear):
        pass

    model = build_model()
    model.model.layers[-1].self_attn.q_proj = Adapter(16, 16, dtype=torch.float64)
    with pytest.raises(WMTPError, match="Adapter projections; merge adapters"):
        generate(model, [[1]], DecodeOptions(4, heads=None))
