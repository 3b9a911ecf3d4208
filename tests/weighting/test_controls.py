import pytest
import torch

from wmtp.config import CONTROLS
from wmtp.data.targets import lookahead, shift_left
from wmtp.errors import WMTPError
from wmtp.weighting.controls import _hash, _splitmix, apply_control

B, S, H = 16, 64, 3
MASK = (1 << 64) - 1


def make_step(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights that differ in every entry, a ragged mask, and keys that differ in every position."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(B, S, H, generator=generator) < 0.7
    valid[:, -H:] = False
    weights = (torch.rand(B, S, H, generator=generator) + 0.1) * valid
    keys = torch.randperm(10 * B * S, generator=generator)[: B * S].view(B, S)
    return weights, valid, keys


def target_keys(keys: torch.Tensor) -> torch.Tensor:
    return lookahead(shift_left(keys), H)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_head_keeps_exactly_its_weights(name):
    weights, valid, keys = make_step()
    dealt = apply_control(name, weights, valid, keys, seed=0, step=3)
    assert dealt.shape == weights.shape
    assert dealt.dtype == weights.dtype
    assert (dealt[~valid] == 0).all()
    for h in range(H):
        own = valid[..., h]
        assert torch.equal(dealt[..., h][own].sort().values, weights[..., h][own].sort().values)
    assert not torch.equal(dealt, weights)


@pytest.mark.parametrize("name", CONTROLS)
def test_zero_weights_are_dealt_like_any_other(name):
    weights, valid, keys = make_step()
    weights = torch.where(weights > 0.6, 1.7, 0.0) * valid
    dealt = apply_control(name, weights, valid, keys, seed=0, step=0)
    assert torch.equal((dealt > 0).sum((0, 1)), (weights > 0).sum((0, 1)))
    kept_both = ((dealt > 0) & (weights > 0)).sum() / (weights > 0).sum()
    assert kept_both.item() == pytest.approx(((weights > 0).sum() / valid.sum()).item(), abs=0.05)


@pytest.mark.parametrize("name", CONTROLS)
def test_places_mean_nothing(name):
    """About 700 entries a head: a correlation of chance stays under 4 / sqrt(700)."""
    weights, valid, keys = make_step()
    dealt = apply_control(name, weights, valid, keys, seed=0, step=0)
    for h in range(H):
        own = valid[..., h]
        pairs = torch.stack([weights[..., h][own], dealt[..., h][own]])
        assert abs(torch.corrcoef(pairs)[0, 1].item()) < 4 / own.sum().sqrt()


@pytest.mark.parametrize("name", CONTROLS)
def test_every_place_gets_every_weight_equally_often(name):
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0]).view(1, 4, 1)
    valid = torch.tensor([True, True, True, False]).view(1, 4, 1)
    draws = torch.stack(
        [
            apply_control(name, weights, valid, torch.arange(4).view(1, 4), seed=seed, step=0)[0, :3, 0]
            for seed in range(600)
        ]
    )
    orders, counts = draws.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 60
    assert counts.max() < 140


def test_shuffled_is_fresh_at_every_step_head_and_seed():
    weights, valid, keys = make_step()
    first = apply_control("shuffled", weights, valid, keys, seed=0, step=0)
    assert torch.equal(first, apply_control("shuffled", weights, valid, keys, seed=0, step=0))
    for seed, step in ((0, 1), (1, 0)):
        other = apply_control("shuffled", weights, valid, keys, seed=seed, step=step)
        pairs = torch.stack([first[valid], other[valid]])
        assert abs(torch.corrcoef(pairs)[0, 1].item()) < 0.1
    same = torch.linspace(0.1, 2, B * S).view(B, S, 1).expand(B, S, H)
    dealt = apply_control("shuffled", same, torch.ones_like(valid), keys, seed=0, step=0)
    between_heads = torch.corrcoef(torch.stack([dealt[:, :-1, 1].flatten(), dealt[:, 1:, 0].flatten()]))[0, 1]
    assert abs(between_heads.item()) < 0.15


def test_matched_random_is_fixed_over_steps_and_differs_between_seeds():
    weights, valid, keys = make_step()
    first = apply_control("matched-random", weights, valid, keys, seed=0, step=0)
    assert torch.equal(first, apply_control("matched-random", weights, valid, keys, seed=0, step=99))
    assert not torch.equal(first, apply_control("matched-random", weights, valid, keys, seed=1, step=0))


def test_matched_random_depends_on_the_target_token_and_not_on_head_or_batch():
    """Tokens that meet again, in other rows and under other heads, are in the same order by weight."""
    weights, _, keys = make_step()
    valid = torch.ones(B, S, H, dtype=torch.bool)
    valid[:, -H:] = False
    weights = weights.flatten()[torch.randperm(B * S * H)].view(B, S, H) + torch.rand(B, S, H) * 1e-3
    order = {}
    rows = torch.randperm(B, generator=torch.Generator().manual_seed(1))
    for name, batch in (("all", slice(None)), ("half", rows[: B // 2])):
        dealt = apply_control("matched-random", weights[batch], valid[batch], keys[batch], seed=5, step=0)
        for h in range(H):
            own = valid[batch][..., h]
            by_weight = dealt[..., h][own].argsort()
            order[name, h] = target_keys(keys[batch])[..., h][own][by_weight].tolist()
    everything = order["all", 0]
    rank = {key: i for i, key in enumerate(everything)}
    for met_again in order.values():
        ranks = [rank[key] for key in met_again if key in rank]
        assert len(ranks) > 100
        assert ranks == sorted(ranks)


@pytest.mark.parametrize("name", CONTROLS)
def test_it_is_the_predicted_token_that_is_ranked(name):
    """The same tokens in another order: each of them is ranked next to itself."""
    order = torch.cat(
        [torch.tensor([0]), 1 + torch.randperm(S - 1, generator=torch.Generator().manual_seed(0))]
    )
    keys = torch.stack([torch.arange(S), torch.arange(S)[order]])
    weights = torch.linspace(0.1, 2, 2 * S).view(2, S, 1)
    valid = torch.ones(2, S, 1, dtype=torch.bool)
    valid[:, -1] = False
    dealt = apply_control(name, weights, valid, keys, seed=0, step=0)
    by_weight = shift_left(keys)[valid[..., 0]][dealt[valid].argsort()]
    assert torch.equal(by_weight[::2], by_weight[1::2])


@pytest.mark.parametrize("name", CONTROLS)
def test_the_order_of_rows_plays_no_part(name):
    weights, valid, keys = make_step()
    keys[3] = keys[2]  # tokens seen twice, with other weights
    rows = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    dealt = apply_control(name, weights, valid, keys, seed=0, step=0)
    assert torch.equal(
        apply_control(name, weights[rows], valid[rows], keys[rows], seed=0, step=0), dealt[rows]
    )


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("shape", [(0, 8, 2), (1, 8, 2)])
def test_nothing_valid_gives_zeros(name, shape):
    nothing = torch.zeros(shape, dtype=torch.bool)
    keys = torch.zeros(shape[:2], dtype=torch.int64)
    dealt = apply_control(name, torch.zeros(shape), nothing, keys, seed=0, step=0)
    assert dealt.shape == shape
    assert (dealt == 0).all()


def test_an_unknown_control_is_named_with_the_nearest():
    weights, valid, keys = make_step()
    with pytest.raises(WMTPError, match=r"unknown control 'shufled'; did you mean 'shuffled'\?"):
        apply_control("shufled", weights, valid, keys, seed=0, step=0)


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def test_the_hash_is_splitmix64():
    assert (
        _splitmix(torch.tensor(0)).item() & MASK == 0xE220A8397B1DCDAF
    )  # the published first output of seed 0
    values = [0, 1, -1, 2**63 - 1, -(2**63), 123456789]
    assert [x & MASK for x in _splitmix(torch.tensor(values)).tolist()] == [
        splitmix(v & MASK) for v in values
    ]


def test_the_hash_chains_its_parts_and_takes_any_seed():
    keys = torch.tensor([3, 4])
    expected = [splitmix((splitmix(splitmix(2**64 - 5) + 7 & MASK) + key) & MASK) for key in (3, 4)]
    assert [x & MASK for x in _hash(-5, 7, keys).tolist()] == expected
    assert torch.equal(_hash(2**64 - 5, 7, keys), _hash(-5, 7, keys))
