import pytest
import torch
from transformers import DynamicCache

from wmtp.decode.generate import generate
from wmtp.decode.options import DecodeOptions
from wmtp.model.cache import PositionCache


def states(rows: int, width: int, start: float = 0.0) -> torch.Tensor:
    """[rows, 1, width, 2], every entry another number."""
    return start + torch.arange(rows * width * 2, dtype=torch.float64).reshape(rows, 1, width, 2)


def test_entries_lie_at_their_positions():
    cache = PositionCache(capacity=6)
    positions = torch.tensor([[0, 1], [3, 4]])
    cache.write_at(positions, rows=2, length=5)
    new = states(2, 2, start=1.0)
    keys, values = cache.update(new, -new, 0)
    assert keys.shape == (2, 1, 5, 2)
    torch.testing.assert_close(keys[0, :, :2], new[0], rtol=0, atol=0)
    torch.testing.assert_close(keys[1, :, 3:5], new[1], rtol=0, atol=0)
    torch.testing.assert_close(values, -keys, rtol=0, atol=0)
    assert keys.count_nonzero() == new.numel()


def test_the_mask_shows_a_query_its_own_and_earlier_positions():
    mask = PositionCache(capacity=4).write_at(torch.tensor([[0, 1], [2, 3]]), rows=2, length=4)
    assert mask.int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0]]], [[[1, 1, 1, 0], [1, 1, 1, 1]]]]


def test_positions_of_all_rows_at_once():
    cache = PositionCache(capacity=4)
    mask = cache.write_at(torch.arange(3)[None], rows=2, length=3)
    new = states(2, 3)
    keys, _ = cache.update(new, new, 0)
    assert mask.shape == (1, 1, 3, 3)
    torch.testing.assert_close(keys, new, rtol=0, atol=0)


def test_writing_at_earlier_positions_replaces_what_was_there():
    cache = PositionCache(capacity=5)
    cache.write_at(torch.tensor([[0, 1, 2]]), rows=1, length=3)
    first = states(1, 3, start=1.0)
    cache.update(first, first, 0)
    cache.write_at(torch.tensor([[1, 2]]), rows=1, length=3)
    second = states(1, 2, start=100.0)
    keys, _ = cache.update(second, second, 0)
    torch.testing.assert_close(keys, torch.cat([first[:, :, :1], second], 2), rtol=0, atol=0)


def test_memory_is_taken_once_and_layers_are_apart():
    cache = PositionCache(capacity=8)
    cache.write_at(torch.tensor([[0]]), rows=1, length=1)
    first, _ = cache.update(states(1, 1), states(1, 1), 0)
    other, _ = cache.update(states(1, 1, start=5.0), states(1, 1), 3)
    cache.write_at(torch.tensor([[7]]), rows=1, length=8)
    again, _ = cache.update(states(1, 1), states(1, 1), 0)
    assert again.data_ptr() == first.data_ptr() != other.data_ptr()
    assert cache.get_seq_length() == 8


@pytest.fixture
def uninitialised_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_what_was_never_written_cannot_do_harm(build_model, uninitialised_is_nan):
    assert torch.empty(3).isnan().all()
    model = build_model()
    prompts = [[1] * 50, [2], [3, 4]]
    alone = [generate(model, [prompt], DecodeOptions(60)).tokens[0] for prompt in prompts]
    assert generate(model, prompts, DecodeOptions(60)).tokens == alone
    assert generate(model, prompts, DecodeOptions(60, heads=None)).tokens == alone


def test_moved_rows_keep_their_entries():
    cache = PositionCache(capacity=3)
    cache.write_at(torch.arange(2)[None], rows=4, length=2)
    old = states(4, 2)
    cache.update(old, -old, 0)
    cache.move_rows({3: 0, 2: 1})
    cache.write_at(torch.tensor([[2], [2]]), rows=2, length=3)
    new = states(2, 1, start=50.0)
    keys, values = cache.update(new, -new, 0)
    torch.testing.assert_close(keys, torch.cat([old[[3, 2]], new], 2), rtol=0, atol=0)
    torch.testing.assert_close(values, -keys, rtol=0, atol=0)


def test_a_model_computes_the_same_as_with_the_cache_of_transformers(build_model):
    model = build_model(trunk_layers=3, heads=1, key_value_heads=1)
    ids = torch.randint(0, 12, (2, 7), generator=torch.Generator().manual_seed(0))
    dynamic, ours = DynamicCache(config=model.config), PositionCache(capacity=9)
    with torch.inference_mode():
        for start, end in ((0, 4), (4, 5), (5, 7)):
            expected = model.head(model.trunk(ids[:, start:end], cache=dynamic), 0)
            positions = torch.arange(start, end)[None]
            mask = ours.write_at(positions, rows=2, length=end)
            trunk = model.trunk(ids[:, start:end], mask=mask, position_ids=positions, cache=ours)
            torch.testing.assert_close(model.head(trunk, 0), expected)
