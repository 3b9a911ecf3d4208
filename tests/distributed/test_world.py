import torch
from torch.distributed import ProcessGroup, ReduceOp

from ranks import run_on_ranks
from wmtp.distributed.world import all_gather_ragged, all_reduce, rank, world_size

LENGTHS = (3, 0, 2)


def use_every_collective(group: ProcessGroup, own_rank: int) -> dict[str, object]:
    own = torch.tensor([own_rank + 1.0, -own_rank], dtype=torch.float64)
    ragged = torch.full((LENGTHS[own_rank], 2), own_rank, dtype=torch.int64)
    return {
        "rank": rank(group),
        "world_size": world_size(group),
        "sum": all_reduce(own, group),
        "max": all_reduce(own, group, ReduceOp.MAX),
        "min": all_reduce(own, group, ReduceOp.MIN),
        "own": own,
        "ragged": all_gather_ragged(ragged, group),
    }


def test_collectives_over_three_ranks():
    results = run_on_ranks(use_every_collective, 3)
    for own_rank, result in enumerate(results):
        assert result["rank"] == own_rank
        assert result["world_size"] == 3
        assert result["sum"].tolist() == [6, -3]
        assert result["max"].tolist() == [3, 0]
        assert result["min"].tolist() == [1, -2]
        assert result["own"].tolist() == [own_rank + 1, -own_rank], "the argument must stay as it is"
        assert [part.tolist() for part in result["ragged"]] == [[[0, 0]] * 3, [], [[2, 2]] * 2]
        assert all(part.shape[1:] == (2,) for part in result["ragged"])


def test_without_a_group_nothing_is_communicated():
    x = torch.tensor([1.0, 2.0])
    assert rank(None) == 0
    assert world_size(None) == 1
    assert all_reduce(x, None) is x
    assert all_gather_ragged(x, None) == [x]
