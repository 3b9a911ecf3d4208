"""Learning values: the loss against loops over its definition, the copy of the head, explosions, figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from answers import reading
from ranks import RECIPE, run_on_ranks
from wmtp.config import Config, Recipe, override
from wmtp.critic.learner import (
    EXPLOSION,
    Labelled,
    ValueLearner,
    learnt_positions,
    value_metrics,
)
from wmtp.critic.model import untrained_critic
from wmtp.critic.value_head import ValueHead, load_value_head
from wmtp.data.dataset import Counts, Document, TokenDataset, tokenise
from wmtp.data.loader import Batch, BatchShape, Loader, collate, in_order
from wmtp.data.targets import is_last
from wmtp.data.tokenizer import train_tokenizer
from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.metrics import MetricsLog
from wmtp.train.run import train
from wmtp.train.state import Counters, memory_tensors
from wmtp.train.trainer import Trainer

Make = Callable[..., Recipe]
ALONE = World(torch.device("cpu"))
SEPARATE = {"critic.backbone": "separate", "critic.trunk": "full"}
DISCOUNTED = {"critic.gamma": 0.9, "critic.gae_lambda": 0.7}
CASES: list[dict[str, Any]] = [
    {"critic.objective": "gae"},
    {"critic.objective": "gae", **DISCOUNTED},
    {"critic.objective": "gae", **DISCOUNTED, **SEPARATE},
    {"critic.objective": "gae", "critic.gae_lambda": 0.0, "critic.gamma": 0.8},
    {"critic.objective": "monte-carlo"},
    {"critic.objective": "monte-carlo", **DISCOUNTED, **SEPARATE},
    {"critic.objective": "pairwise"},
    {"critic.objective": "pairwise", "critic.shrinkage": 0.0},
    {"critic.objective": "pairwise", "critic.shrinkage": 0.7, **SEPARATE},
]


class DoubleHead(ValueHead):
    """In the precision of its parameters, to compare exactly."""

    def forward(
        self, hidden: Tensor, previous: Tensor | None = None, embeddings: Tensor | None = None
    ) -> Tensor:
        assert self.surprise is not None
        assert previous is not None
        assert embeddings is not None
        values: Tensor = self.output(self.body(hidden.double())).squeeze(-1)
        return values + self.surprise(previous.double(), embeddings.double())


def labelled(recipe: Recipe, cache: Path, count: int = 40) -> tuple[Any, Labelled]:
    """Tokenizer, and documents of uneven length in pairs of the same prompt, each with a reward of its own."""
    documents = [
        Document(f"add {i // 2}: ", f"{i} is {i + 1}" + " so" * (i * i % 5) + " far" * (i % 3))
        for i in range(count)
    ]
    tokenizer = train_tokenizer([d.prompt + d.completion for d in documents], 300, cache)
    dataset = tokenise(documents, tokenizer, recipe.data.sequence_length, "error")
    rewards = np.random.default_rng(0).normal(size=count).repeat(dataset.lengths).astype(np.float32)
    return tokenizer, Labelled(dataset, {"rewards": rewards}, [(i, i + 1) for i in range(0, count, 2)])


def learner(recipe: Recipe, tokenizer: Any, group: ProcessGroup | None = None, seed: int = 1) -> ValueLearner:
    """In float64, with a head whose every parameter is random, and another one as its copy."""
    critic = untrained_critic(recipe, tokenizer, with_weights=True).double()
    critic.head.__class__ = DoubleHead
    module = ValueLearner(critic, recipe, compute_dtype=torch.float64, group=group)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*critic.head.parameters(), *module.state().values()]:
            tensor.normal_(std=0.3, generator=generator)
    return module


def loader(recipe: Recipe, found: Labelled, rank: int = 0, world_size: int = 1) -> Loader:
    is_pairwise = recipe.critic.objective == "pairwise"
    return Loader(
        found.documents,
        BatchShape(recipe.data.sequence_length, recipe.train.batch_size, recipe.train.rows_at_once),
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        columns=found.columns,
        units=found.pairs if is_pairwise else None,
    )


def forward_backward(module: ValueLearner, batches: Sequence[Batch], step: int = 1) -> tuple[float, Any]:
    """The loss of a step, as the training loop sums it, and its gradients."""
    module.zero_grad()
    loop = object.__new__(Trainer)
    loop.module = loop.parallel = module
    loop.world, loop.counters = World(torch.device("cpu"), group=module.group), Counters(step=step)
    outputs = loop._forward_backward([in_double(batch) for batch in batches])
    loss = torch.stack([o.loss.detach() for o in outputs]).sum()
    named = module.model.named_parameters()
    return float(loss), {name: p.grad.clone() for name, p in named if p.grad is not None}


def in_double(batch: Batch) -> Batch:
    return replace(batch, columns={name: column.double() for name, column in batch.columns.items()})


@pytest.fixture
def parts(make_recipe: Make, tmp_path: Path) -> Callable[..., tuple[ValueLearner, list[Batch]]]:
    """The module, and the micro-batches of a step."""

    def make(**changes: Any) -> tuple[ValueLearner, list[Batch]]:
        recipe = make_recipe(**changes)
        tokenizer, found = labelled(recipe, tmp_path)
        return learner(recipe, tokenizer), next(loader(recipe, found))

    return make


# --- the loss ----------------------------------------------------------------------------------------------


def documents_of(batch: Batch) -> list[tuple[Tensor, list[bool], float]]:
    """Tokens, which of them are supervised, and the reward of every document."""
    found = []
    for b in range(len(batch.ids)):
        for number in range(1, int(batch.document_ids[b].max()) + 1):
            places = (batch.document_ids[b] == number).nonzero().flatten()
            (reward,) = set(batch.columns["rewards"][b, places].tolist())
            found.append((batch.ids[b, places], batch.supervised[b, places].tolist(), reward))
    return found


def hidden_of(module: ValueLearner, ids: Tensor) -> Tensor:
    """[tokens, D] of a document that is alone in its row."""
    backbone: Any = module.model.backbone
    trunk = backbone.trunk(ids[None])
    return trunk.hidden_bsd[0] if module.model.reads_trunk else backbone.head(trunk, 0)[0]


def head_of(weights: dict[str, Tensor], hidden: Tensor, embeddings: Tensor) -> Tensor:
    """The formula of `ValueHead`; before the first token there was a state of zeros."""

    def layer(name: str, h: Tensor) -> Tensor:
        normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        scaled = normed * weights[f"{name}.0.weight"] + weights[f"{name}.0.bias"]
        return scaled @ weights[f"{name}.1.weight"].T + weights[f"{name}.1.bias"]

    inner = layer("body", hidden)
    values = (inner * inner.sigmoid()) @ weights["output.weight"][0] + weights["output.bias"]
    previous = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
    agreement = layer("surprise.expected", previous) * layer("surprise.token", embeddings)
    return values + agreement @ weights["surprise.output.weight"][0]


def generalised_returns(values: list[float], reward: float, gamma: float, lambda_: float) -> list[float]:
    """V_t + Σ_l (γλ)^l δ_{t+l}: appending the last token pays the reward and ends the episode."""
    last = len(values) - 1
    delta = [
        (reward if t + 1 == last else gamma * values[t + 1]) - values[t] for t in range(last)
    ]  # of appending the token at t + 1
    targets = [
        values[t] + sum((gamma * lambda_) ** (k - t) * delta[k] for k in range(t, last)) for t in range(last)
    ]
    return [*targets, reward]


def definition(module: ValueLearner, batch: Batch) -> Tensor:
    """The loss by loops, every document alone."""
    config = module.config
    copy = {name.removeprefix("target_head."): value for name, value in module.state().items()}
    terms, means, squares = [], [], []
    for ids, supervised, reward in documents_of(batch):
        hidden, last = hidden_of(module, ids), len(ids) - 1
        backbone: Any = module.model.backbone
        embeddings = backbone.get_input_embeddings().weight[ids]
        values = head_of(dict(module.model.head.named_parameters()), hidden, embeddings)
        learnt = [t for t in range(last + 1) if t == last or supervised[t + 1]]
        means.append(sum(values[t] for t in learnt) / len(learnt))
        squares.append(sum(values[t] ** 2 for t in learnt) / len(learnt))
        if config.objective == "monte-carlo":
            targets = [config.gamma ** (last - t) * reward for t in range(last + 1)]
        else:
            by_copy = head_of(copy, hidden.detach(), embeddings.detach()).tolist()
            targets = generalised_returns(by_copy, reward, config.gamma, config.gae_lambda)
        terms += [(values[t] - targets[t]) ** 2 for t in learnt]
    if config.objective == "pairwise":
        terms = [
            -(1 / (1 + (means[i + 1] - means[i]).exp())).log()
            + config.shrinkage * (squares[i] + squares[i + 1])
            for i in range(0, len(means), 2)
        ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_loss_and_gradients_are_those_of_the_definition(changes: dict[str, Any], parts: Any) -> None:
    module, (batch,) = parts(**changes)
    assert int(batch.document_ids.max()) > 2
    assert (batch.document_ids == 0).any()
    loss, gradients = forward_backward(module, [batch])
    module.zero_grad()
    expected = definition(module, in_double(batch))
    expected.backward()
    # The backbone's norms are computed in float32, of a document among others and of one alone.
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    wanted = {n: p.grad for n, p in module.model.named_parameters() if p.grad is not None}
    assert gradients.keys() == wanted.keys()
    is_trained = {"head"} if module.model.reads_trunk else {"head", "backbone"}
    assert {name.split(".")[0] for name in wanted} == is_trained
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("objective", ["gae", "monte-carlo", "pairwise"])
def test_micro_batches_give_the_step_of_one_batch(objective: str, parts: Any) -> None:
    changes = {"critic.objective": objective, **SEPARATE}
    whole_loss, whole = forward_backward(*parts(**changes))
    for micro in (1, 2, 4):
        module, batches = parts(**changes, **{"train.micro_batch_size": micro})
        assert len(batches) == 8 // micro
        loss, gradients = forward_backward(module, batches)
        assert loss == pytest.approx(whole_loss, rel=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-9, atol=1e-12)


def test_padding_is_never_read(parts: Any) -> None:
    module, (batch,) = parts(**{"critic.objective": "gae"})
    padding = batch.document_ids == 0
    other = replace(batch, ids=batch.ids.masked_fill(padding, 7))
    assert forward_backward(module, [other])[0] == forward_backward(module, [batch])[0]


def in_float32(recipe: Recipe, tmp_path: Path) -> tuple[ValueLearner, Batch]:
    """As training has it: V = 0 at first."""
    tokenizer, found = labelled(recipe, tmp_path)
    critic = untrained_critic(recipe, tokenizer, with_weights=True)
    return ValueLearner(critic, recipe, compute_dtype=torch.float32), next(loader(recipe, found))[0]


def test_float32_values_in_bf16_products_stay_close(make_recipe: Make, tmp_path: Path) -> None:
    module, batch = in_float32(make_recipe(), tmp_path)
    nn.init.normal_(module.model.head.output.weight)
    exact = module.values(batch)
    module.compute_dtype = torch.bfloat16
    low = module.values(batch)
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, rtol=0.1, atol=0.1)


RANKED: list[dict[str, Any]] = [
    {"critic.objective": "gae", **DISCOUNTED, **SEPARATE},
    {"critic.objective": "pairwise"},
]


def ranked_steps(
    group: ProcessGroup | None, rank: int, world_size: int, micro: int, cache: str
) -> list[tuple[float, dict[str, Tensor], dict[str, Any]]]:
    """Of each case: loss, gradients averaged as DDP and FSDP average them, figures of values and of held-out data."""
    torch.set_num_threads(1)
    found = []
    for changes in RANKED:
        plain = {"train.algo": "mtp-baseline", "train.micro_batch_size": micro, "data.sequence_length": 40}
        recipe = override(RECIPE, plain | changes, "test")
        tokenizer, data = labelled(recipe, Path(cache), 46)
        module = learner(recipe, tokenizer, group)
        batches = next(loader(recipe, data, rank, world_size))
        loss, gradients = forward_backward(module, batches)
        if group is not None:
            share = torch.tensor(loss, dtype=torch.float64)
            for tensor in [share, *gradients.values()]:
                dist.all_reduce(tensor)
                tensor /= world_size
            loss = float(share)
        with torch.no_grad():
            outputs = [module(batch, **module.prepare(batches, 1)[0]) for batch in batches]
        figures = module.validate(data, World(torch.device("cpu"), group=group), lambda: None)
        found.append((loss, gradients, figures | module.statistics(outputs)))
    return found


@pytest.mark.slow
def test_two_ranks_give_the_step_and_the_figures_of_one_process(tmp_path: Path) -> None:
    alone = ranked_steps(None, 0, 1, 8, str(tmp_path))
    assert [figures["explained_variance"] is None for _, _, figures in alone] == [False, True]
    for by_rank in run_on_ranks(ranked_steps, 2, 2, 2, str(tmp_path)):
        for (loss, gradients, figures), expected in zip(by_rank, alone, strict=True):
            assert loss == pytest.approx(expected[0], rel=1e-12)
            for name, gradient in gradients.items():
                torch.testing.assert_close(gradient, expected[1][name], rtol=1e-9, atol=1e-12)
            assert 0 < figures["auc"] < 1
            assert_alike(figures, expected[2], 1e-12)


def assert_alike(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=tolerance)), name


# --- where values are learnt -------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 7), max_size=3), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=63, max_size=63),
)
def test_positions_are_those_of_a_loop(rows: list[list[int]], supervised: list[bool]) -> None:
    lengths = [length for row in rows for length in row]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.int32)
    count = len(lengths)
    starts = np.zeros(count, dtype=np.int64)
    dataset = TokenDataset(
        tokens,
        np.array(supervised)[: len(tokens)],
        offsets,
        np.arange(count),
        starts,
        "tokenizer",
        Counts(count, 22),
    )
    numbers = iter(range(len(lengths)))
    batch = collate(dataset, [[next(numbers) for _ in row] for row in rows], 22)
    last, learnt = is_last(batch.document_ids), learnt_positions(batch)
    for b in range(len(rows)):
        ids = [*batch.document_ids[b].tolist(), 0]
        for s in range(22):
            at_end = ids[s] > 0 and ids[s + 1] != ids[s]
            follows = ids[s] > 0 and ids[s + 1] == ids[s] and bool(batch.supervised[b, s + 1])
            assert bool(last[b, s]) == at_end
            assert bool(learnt[b, s]) == (at_end or follows)


# --- the copy of the head ----------------------------------------------------------------------------------


def test_the_copy_is_refreshed_every_n_steps_exactly(make_recipe: Make, tmp_path: Path) -> None:
    module, batch = in_float32(make_recipe(**{"critic.refresh_every": 3}), tmp_path)
    for step in range(8):
        with torch.no_grad():
            for parameter in module.model.head.parameters():
                parameter.fill_(step + 0.5)
        module.prepare([batch], step)
        assert sorted(module.state()) == sorted(
            f"target_head.{name}" for name, _ in module.model.head.named_parameters()
        )
        for tensor in module.state().values():
            assert set(tensor.unique().tolist()) == {step // 3 * 3 + 0.5}


def test_the_copy_is_saved_and_what_is_restored_in_place_is_used(parts: Any) -> None:
    module, (batch,) = parts(**{"critic.objective": "gae", "critic.gae_lambda": 0.5})
    before, _ = forward_backward(module, [batch])
    remembered = {name: tensor.clone() for name, tensor in module.state().items()}
    forward_backward(module, [batch], step=0)  # a refresh
    assert forward_backward(module, [batch])[0] != before
    saved = memory_tensors(module)
    assert saved.keys() == {f"task.{name}" for name in remembered}
    for name, tensor in remembered.items():
        saved[f"task.{name}"].copy_(tensor)
    assert forward_backward(module, [batch])[0] == before
    assert not any(tensor.requires_grad for tensor in saved.values())


# --- explosions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["gae", "monte-carlo", "pairwise"])
@pytest.mark.parametrize("largest", [0.5, 30.0])
def test_values_far_beyond_the_rewards_make_the_loss_nan(
    objective: str, largest: float, make_recipe: Make, tmp_path: Path
) -> None:
    module, batch = in_float32(make_recipe(**{"critic.objective": objective}), tmp_path)
    rewards = batch.columns["rewards"]
    batch = replace(batch, columns={"rewards": rewards / rewards.nan_to_num().abs().max() * largest})
    limit = EXPLOSION * max(1.0, largest)
    for value, is_finite in ((0.99 * limit, True), (-0.99 * limit, True), (1.01 * limit, False)):
        nn.init.constant_(module.model.head.output.bias, value)
        (arguments,) = module.prepare([batch], 1)
        assert math.isfinite(module(batch, **arguments).loss.detach()) == is_finite


def test_exploded_values_tell_nothing(make_recipe: Make, tmp_path: Path) -> None:
    """Else the head of an explosion could be kept as the best one: AUC looks at the order of values alone."""
    recipe = make_recipe()
    module, _ = in_float32(recipe, tmp_path)
    found = labelled(recipe, tmp_path)[1]
    nn.init.normal_(module.model.head.output.weight)
    figures = module.validate(found, ALONE, lambda: None)
    assert figures["auc"] is not None
    assert module.criterion(figures) == 1 - figures["auc"]
    for bias in (1e6, math.nan):
        nn.init.constant_(module.model.head.output.bias, bias)
        figures = module.validate(found, ALONE, lambda: None)
        assert set(figures.values()) == {None}
        assert math.isnan(module.criterion(figures))


def test_an_explosion_ends_the_run_and_the_best_head_until_then_is_kept(
    make_recipe: Make, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wmtp.train.trainer.learning_rate", lambda step, _: 1e-3 if step < 4 else 1e6)
    recipe = make_recipe(
        **reading(tmp_path),
        **{
            "train.algo": "critic-wmtp",
            "train.steps": 40,
            "train.validate_every": 2,
            "train.max_bad_steps": 5,
            "critic.patience": 20,
        },
    )
    with pytest.raises(WMTPError) as caught:
        train(recipe, config, tmp_path / "run")
    best = tmp_path / "run" / "critic" / "best"
    validations = [r for r in MetricsLog(tmp_path / "run" / "critic") if r["kind"] == "validation"]
    assert [v["auc"] is None for v in validations[:3]] == [False, False, True]
    kept = max(validations[:2], key=lambda v: v["auc"])["step"]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("critic: 5 steps in a row (train.max_bad_steps) had a non-finite loss")
    assert message.endswith(
        f"the best head until then, of step {kept}, is in {best}: use it with critic.path={best}"
    )
    trained = [r for r in MetricsLog(tmp_path / "run" / "critic") if r["kind"] == "train"]
    assert [r["loss"] is None for r in trained] == [False] * 5 + [True] * (len(trained) - 5)
    assert trained[-1]["skipped_steps"] == 4  # the fifth ends the run
    head = load_value_head(best, 32)
    assert all(p.abs().max() < 10 for p in head.parameters())
    assert not (tmp_path / "run" / "checkpoints").exists()


# --- figures -----------------------------------------------------------------------------------------------


def test_figures_of_hand_made_values() -> None:
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    means = np.array([0.9, 0.1, 0.3, 0.3])  # of 4 comparisons 3 right and a tie
    lasts = np.array([1.4, -0.2, 0.25, 0.5])
    found = value_metrics(means, lasts, rewards, are_rewards=True)
    assert found["auc"] == pytest.approx(3.5 / 4)
    assert found["auc_last"] == pytest.approx(3 / 4)
    error = rewards - lasts
    assert found["explained_variance"] == pytest.approx(1 - error.var() / 0.25)
    # As chances 1, 0, 0.25 and 0.5, each in a bin of its own.
    assert found["calibration"] == pytest.approx((0 + 0 + 0.75 + 0.5) / 4)
    of_pairs = value_metrics(means, lasts, rewards, are_rewards=False)
    assert of_pairs == {**found, "explained_variance": None, "calibration": None}


def test_figures_of_rewards_that_are_no_chances_or_all_the_same() -> None:
    means = lasts = np.array([0.1, 0.2, 0.3])
    graded = value_metrics(means, lasts, np.array([-3.0, 5.0, 4.0]), are_rewards=True)
    assert graded["auc"] == 1.0  # the two above the mean, 2
    assert graded["calibration"] is None
    assert graded["explained_variance"] is not None
    average = value_metrics(np.array([0.3, 0.5, 0.1]), lasts, np.array([0.0, 1.0, 0.5]), are_rewards=True)
    assert average["auc"] == 1.0  # what lies at the mean is not above it
    same = value_metrics(means, lasts, np.ones(3), are_rewards=True)
    assert (same["auc"], same["auc_last"], same["explained_variance"]) == (None, None, None)


@pytest.mark.parametrize("objective", ["monte-carlo", "pairwise"])
def test_held_out_documents_are_judged_by_mean_and_last_value(
    objective: str, make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe(**{"critic.objective": objective, "train.micro_batch_size": 2})
    module, _ = in_float32(recipe, tmp_path)
    found = labelled(recipe, tmp_path)[1]
    nn.init.normal_(module.model.head.output.weight)
    means, lasts, rewards = [], [], []
    for batch in in_order(found.documents, recipe.data.sequence_length, 3, found.columns):
        values = module.values(batch)
        for b in range(len(batch.ids)):
            for number in range(1, int(batch.document_ids[b].max()) + 1):
                places = (batch.document_ids[b] == number).nonzero().flatten().tolist()
                learnt = [s for s in places if s == places[-1] or batch.supervised[b, s + 1]]
                means.append(sum(float(values[b, s]) for s in learnt) / len(learnt))
                lasts.append(float(values[b, places[-1]]))
                rewards.append(float(batch.columns["rewards"][b, places[0]]))
    expected = value_metrics(
        np.array(means), np.array(lasts), np.array(rewards), are_rewards=objective != "pairwise"
    )
    assert_alike(module.validate(found, ALONE, lambda: None), expected, 1e-5)
    assert module.training
