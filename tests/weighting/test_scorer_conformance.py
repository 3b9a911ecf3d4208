"""What holds for every scorer: the built-in ones, and the one that docs/scorers.md shows how to write."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_step import (
    LENGTH,
    STEPS,
    Small,
    copied,
    learn,
    make_small,
    run_step,
    together,
    weights_of,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from ranks import run_on_ranks
from wmtp.config import CONTROLS
from wmtp.data.loader import Batch
from wmtp.weighting.scorers import SCORERS

DOCUMENTED = "scorer_of_the_documentation"


def documented_scorer() -> tuple[str, str] | None:
    """Name and code of the first scorer in docs/scorers.md."""
    page = Path(__file__).parents[2] / "docs" / "scorers.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) if page.exists() else []
    for block in blocks:
        if found := re.search(r"^class (\w+)\(Scorer\):", block, re.MULTILINE):
            return f"{DOCUMENTED}:{found[1]}", block
    return None


DOCUMENTED_SCORER = documented_scorer()
NAMES = [*SCORERS.names(), *([DOCUMENTED_SCORER[0]] if DOCUMENTED_SCORER else [])]
REMEMBERS = {
    "critic-gae-v1": {"moments"},
    "learned-v1": {"parameters", "first_moment", "second_moment", "updates"},
    "blend": {
        "critic-gae-v1.moments",
        *(f"learned-v1.{k}" for k in ("parameters", "first_moment", "second_moment", "updates")),
    },
}

ROWS = [[0, 1, 2], [3, 4], [5, 6, 7], [8]]
OTHERWISE_PACKED = [[8, 3], [7], [1, 5], [2, 0, 4], [6]]
ALONE = [[i] for i in range(9)]
OF_STEP = [[[9 * t + i for i in row] for row in ROWS] for t in range(STEPS)]
SPLITS = {1: [[4]], 2: [[1, 2], [1]]}
"""Micro-batches of each rank, in rows."""


@pytest.fixture(scope="module", autouse=True)
def _documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The scorer of the documentation, where processes find it."""
    if DOCUMENTED_SCORER is None:
        yield
        return
    folder = tmp_path_factory.mktemp("documented")
    (folder / f"{DOCUMENTED}.py").write_text(DOCUMENTED_SCORER[1])
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small(cache: Path) -> Small:
    return make_small(cache)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def split(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    """Its rows as micro-batches."""
    parts = {name: x.split(list(sizes)) for name, x in vars(batch).items() if name != "columns"}
    columns = {name: x.split(list(sizes)) for name, x in batch.columns.items()}
    return [
        Batch(**{n: x[i] for n, x in parts.items()}, columns={n: x[i] for n, x in columns.items()})
        for i in range(len(sizes))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_without_gradient_and_weights_have_mean_1(name: str, small: Small) -> None:
    module = small.module(name)
    for step, rows in enumerate(OF_STEP):
        (output,) = run_step(module, [small.batch(rows)], step)
        valid, weights = output.valid_bsh, output.weights_bsh
        assert not output.scores_bsh.requires_grad
        assert not weights.requires_grad
        assert output.loss.requires_grad
        assert not any(tensor.requires_grad for tensor in module.state().values())
        assert weights.dtype == torch.float32
        assert weights.shape == valid.shape == output.scores_bsh.shape
        assert valid.any(dim=0).any(dim=0).all()
        assert output.scores_bsh[valid].isfinite().all()
        assert output.nonfinite_scores == 0
        assert weights.isfinite().all()
        assert (weights[~valid] == 0).all()
        assert weights[valid].double().mean().item() == pytest.approx(1, abs=1e-5)
        config = module.schedule.at(step)
        assert weights[valid].min() >= config.epsilon
        assert weights[valid].max() <= config.max_weight
        if name != "uniform":
            assert weights[valid].std() > 0.001, "the other tests would see nothing"


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_same_bits(name: str, small: Small) -> None:
    first, second = small.module(name), small.module(name)
    for step, rows in enumerate(OF_STEP):
        batch = small.batch(rows)
        (one,), (other,) = run_step(first, [batch], step), run_step(second, [replace(batch)], step)
        assert torch.equal(one.weights_bsh, other.weights_bsh)
        assert torch.equal(one.scores_bsh[one.valid_bsh], other.scores_bsh[one.valid_bsh])
    assert first.state().keys() == second.state().keys()
    for key, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[key])


@pytest.mark.parametrize("name", NAMES)
def test_padding_packing_and_micro_batches_change_no_weight(name: str, small: Small) -> None:
    batch = small.batch(ROWS)
    expected = weights_of(small, small.module(name), [batch])
    layouts = {
        "longer rows": [small.batch(ROWS, LENGTH + 29)],
        "rows in another order": [small.batch(ROWS[::-1])],
        "a row of padding": [small.batch([*ROWS[:2], [], *ROWS[2:]])],
        "other packing": [small.batch(OTHERWISE_PACKED)],
        "every document alone": [small.batch(ALONE)],
        "micro-batches of a row": split(batch, [1] * 4),
        "uneven micro-batches": split(batch, [3, 1]),
    }
    for layout, batches in layouts.items():
        found = weights_of(small, small.module(name), batches)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True, msg=layout)


@pytest.mark.parametrize("name", NAMES)
def test_another_document_in_the_row_changes_no_raw_score(name: str, small: Small) -> None:
    """Its tokens, their supervision, and all that is known of them."""
    module = small.module(name)
    batch = small.batch([[0, 1, 2], [5, 6, 7]])
    is_other = batch.document_ids == 2
    generator, vocabulary = torch.Generator().manual_seed(1), len(small.model.unembedding)
    changed = replace(
        batch,
        ids=torch.randint(vocabulary, batch.ids.shape, generator=generator).where(is_other, batch.ids),
        supervised=batch.supervised ^ is_other,
        columns={k: (3 * x + 7).where(is_other, x) for k, x in batch.columns.items()},
    )
    gradient = module.prepare([batch], 0)[0]["clean_gradient"]
    before, after = (module.scores(b, gradient) for b in (batch, changed))
    valid = module.targets(batch)[1][..., 0]
    for number in (1, 3):
        own = valid & (batch.document_ids == number)
        assert own.any()
        torch.testing.assert_close(after[own], before[own], rtol=1e-6, atol=1e-6)
    if name != "uniform":
        assert not torch.equal(after[is_other], before[is_other]), "the change should be seen where it is"


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", NAMES)
def test_controls_hand_out_exactly_the_weights_of_every_head(name: str, control: str, small: Small) -> None:
    module, dealt_by = small.module(name), small.module(name, **{"train.control": control})
    for step, rows in enumerate(OF_STEP):
        batch = small.batch(rows)
        (plain,), (dealt,) = run_step(module, [batch], step), run_step(dealt_by, [batch], step)
        assert (dealt.weights_bsh[~plain.valid_bsh] == 0).all()
        for h in range(module.heads):
            own = plain.valid_bsh[..., h]
            sorted_weights = (o.weights_bsh[..., h][own].sort().values for o in (plain, dealt))
            assert torch.equal(*sorted_weights)
        assert name == "uniform" or not torch.equal(dealt.weights_bsh, plain.weights_bsh)


def train(small: Small, name: str, group: ProcessGroup | None, rank: int, world_size: int) -> dict[str, Any]:
    """Three steps of learning: this rank's weights by token at each of them, and what is remembered at the end."""
    module = small.module(name, group=group, own_model=True)
    shares = [sum(sizes) for sizes in SPLITS[world_size]]
    weights = []
    for step, rows in enumerate(OF_STEP):
        own = rows[sum(shares[:rank]) : sum(shares[: rank + 1])]
        batches = split(small.batch(own), SPLITS[world_size][rank])
        outputs = run_step(module, batches, step)
        valid = together(outputs, "valid_bsh")
        weights.append(small.by_token(together(outputs, "weights_bsh"), batches, valid))
        learn(module, outputs)
    return {"weights": torch.stack(weights), "state": copied(module.state())}


def train_with_each(
    group: ProcessGroup | None, rank: int, world_size: int, names: Sequence[str], cache: Path
) -> dict[str, Any]:
    small = make_small(cache)
    return {name: train(small, name, group, rank, world_size) for name in names}


@pytest.fixture(scope="module")
def on_two_ranks(small: Small, cache: Path, shared: Callable[..., Any]) -> list[dict[str, Any]]:
    """All scorers, one after the other, on one pair of processes."""
    return shared("scorers-on-two-ranks", lambda _: run_on_ranks(train_with_each, 2, 2, NAMES, cache))


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_the_weights_and_the_memory_of_one_process(
    name: str, small: Small, on_two_ranks: list[dict[str, Any]]
) -> None:
    alone = train(small, name, None, 0, 1)
    first, second = (rank[name] for rank in on_two_ranks)
    assert first["weights"].isfinite().any()
    assert second["weights"].isfinite().any()
    found = torch.where(first["weights"].isnan(), second["weights"], first["weights"])
    same(found, alone["weights"])
    assert alone["state"].keys() == REMEMBERS.get(name, set())
    assert first["state"].keys() == second["state"].keys() == alone["state"].keys()
    for key, tensor in alone["state"].items():
        assert torch.equal(first["state"][key], second["state"][key])
        same(first["state"][key], tensor)
        assert not (tensor == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_its_restored_memory(name: str, small: Small) -> None:
    going_on, resumed = small.module(name), small.module(name)
    batches = [small.batch(rows) for rows in OF_STEP]
    for step, batch in enumerate(batches[:2]):
        run_step(going_on, [batch], step)
    for key, tensor in resumed.state().items():
        tensor.copy_(going_on.state()[key])
    (expected,), (found,) = run_step(going_on, [batches[2]], 2), run_step(resumed, [batches[2]], 2)
    assert torch.equal(found.weights_bsh, expected.weights_bsh)


@pytest.mark.parametrize("name", NAMES)
def test_looking_at_weights_teaches_it_nothing(name: str, small: Small) -> None:
    module, batch = small.module(name), small.batch(ROWS)
    run_step(module, [batch], 0)
    before = copied(module.state())
    module.eval()
    run_step(module, [batch], 1)
    for key, tensor in module.state().items():
        assert torch.equal(tensor, before[key])
