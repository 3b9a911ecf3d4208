"""The step's loss against loops over its definition, in float64."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wmtp.config import Recipe
from wmtp.data.corpus import load_data
from wmtp.data.loader import Batch, BatchShape, Loader
from wmtp.distributed.world import World
from wmtp.errors import WMTPError
from wmtp.model.build import build_model
from wmtp.train.module import WeightedMTP
from wmtp.train.state import Counters
from wmtp.train.trainer import Trainer

Make = Callable[..., Recipe]


@pytest.fixture
def parts(make_recipe: Make, config: Any) -> Callable[..., tuple[WeightedMTP, list[Batch]]]:
    """Module in float64 and the micro-batches of its first step, with random reference scores."""

    def make(**changes: Any) -> tuple[WeightedMTP, list[Batch]]:
        recipe = make_recipe(**changes)
        data = load_data(recipe, Path(config.paths.cache))
        ce = np.random.default_rng(0).exponential(2, len(data.train.tokens)).astype(np.float16)
        loader = Loader(
            data.train,
            BatchShape(recipe.data.sequence_length, recipe.train.batch_size, recipe.train.rows_at_once),
            seed=recipe.seed,
            columns={"reference_ce": ce},
        )
        model = build_model(recipe, data.tokenizer).double()
        return WeightedMTP(model, recipe, compute_dtype=torch.float64), next(loader)

    return make


def definition(module: WeightedMTP, batch: Batch, weigh: Callable[[list[float]], list[float]]) -> Tensor:
    """1/N Σ w CE by loops: every document alone, logits in full; weights of token-level signed excess."""
    entries: list[tuple[Tensor, float]] = []
    model, heads = module.model, module.heads
    for b in range(len(batch.ids)):
        for document in range(1, int(batch.document_ids[b].max()) + 1):
            places = (batch.document_ids[b] == document).nonzero().flatten()
            ids, supervised = batch.ids[b, places], batch.supervised[b, places]
            reference = batch.columns["reference_ce"][b, places]
            trunk = model.trunk(ids[None])
            logprobs = [(model.head(trunk, h)[0] @ model.unembedding.T).log_softmax(-1) for h in range(heads)]
            for s in range(len(ids)):
                for h in range(heads):
                    there = s + h + 1
                    if there < len(ids) and supervised[there]:
                        ce = -logprobs[h][s, ids[there]]
                        by_head_0 = -logprobs[0][there - 1, ids[there]].detach()
                        entries.append((ce, float(by_head_0) - float(reference[there])))
    weights = weigh([score for _, score in entries])
    return torch.stack([w * ce for (ce, _), w in zip(entries, weights, strict=True)]).sum() / len(entries)


def soft_without_clipping(temperature: float) -> Callable[[list[float]], list[float]]:
    def weigh(scores: list[float]) -> list[float]:
        mean = sum(scores) / len(scores)
        std = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
        u = [math.exp((s - mean) / std / temperature) for s in scores]
        return [x * len(u) / sum(u) for x in u]

    return weigh


def top_fraction(keep: float) -> Callable[[list[float]], list[float]]:
    def weigh(scores: list[float]) -> list[float]:
        threshold = sorted(scores, reverse=True)[math.ceil(keep * len(scores)) - 1]
        above = sum(s > threshold for s in scores)
        tied = sum(s == threshold for s in scores)
        share = (keep * len(scores) - above) / tied
        return [(1.0 if s > threshold else share if s == threshold else 0.0) / keep for s in scores]

    return weigh


def loss_and_gradients(module: WeightedMTP, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    module.zero_grad()
    loss.backward()
    named = module.model.named_parameters()
    return float(loss.detach()), {name: p.grad.clone() for name, p in named if p.grad is not None}


CASES = {
    "uniform": ({}, lambda scores: [1.0] * len(scores)),
    "soft": (
        {"train.algo": "rho1-wmtp", "loss.temperature": 3.0, "loss.epsilon": 0.0, "loss.max_weight": 1e6},
        soft_without_clipping(3.0),
    ),
    "skip": ({"train.algo": "rho1-wmtp", "loss.mode": "skip", "loss.top_p": 0.37}, top_fraction(0.37)),
    "half lambda": (
        {"train.algo": "rho1-wmtp", "loss.mode": "skip", "loss.top_p": 0.5, "loss.lambda": 0.25},
        lambda scores: [0.75 + 0.25 * w for w in top_fraction(0.5)(scores)],
    ),
    "lambda 0 is the baseline": (
        {"train.algo": "rho1-wmtp", "loss.lambda": 0.0},
        lambda scores: [1.0] * len(scores),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_the_definition(name: str, parts: Any, device: str) -> None:
    changes, weigh = CASES[name]
    module, (batch,) = parts(**changes)
    module, batch = module.to(device), batch.to(torch.device(device))
    valid = module.targets(batch)[1]
    output = module(batch, step=0, valid_entries=valid.sum())
    loss, gradients = loss_and_gradients(module, output.loss)
    expected, expected_gradients = loss_and_gradients(module, definition(module, batch, weigh))
    # Scores are float32: the weights carry its rounding, and with it the loss.
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[key], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.algo": "rho1-wmtp"},
        {"train.algo": "rho1-wmtp", "loss.mode": "skip"},
        {"train.algo": "rho1-wmtp", "loss.mode": "emphasis", "loss.decay": 0.3},
        {"train.algo": "rho1-wmtp", "train.control": "shuffled"},
        {"train.algo": "rho1-wmtp", "train.control": "matched-random"},
    ],
)
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_give_the_step_of_one_batch(changes: dict[str, Any], micro: int, parts: Any) -> None:
    whole, (batch,) = parts(**changes)
    split, batches = parts(**changes, **{"train.micro_batch_size": micro})
    assert len(batches) == 8 // micro
    step = object.__new__(Trainer)
    step.world = World(torch.device("cpu"))
    results = []
    for module, own in ((whole, [batch]), (split, batches)):
        step.module = step.parallel = module
        step.counters = Counters(step=3)
        outputs = step._forward_backward(own)
        gradients = [p.grad for p in module.model.parameters()]
        results.append((sum(float(o.loss.detach()) for o in outputs), gradients))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for one, several in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, several, rtol=1e-9, atol=1e-12)


def test_the_last_micro_batch_is_the_last_even_if_all_are_the_same(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batches = parts(**{"train.micro_batch_size": 4})
    last = []

    def watched(_: Any, is_last: bool) -> Any:
        last.append(is_last)
        return nullcontext()

    monkeypatch.setattr("wmtp.train.trainer.accumulating", watched)
    step = object.__new__(Trainer)
    step.module = step.parallel = module
    step.counters = Counters()
    step._forward_backward(batches[:1] * 3)
    assert last == [False, False, True]


def test_scores_and_weights_carry_no_gradient_and_skipped_rows_no_cost(parts: Any) -> None:
    module, (batch,) = parts(**{"train.algo": "rho1-wmtp", "loss.mode": "skip"})
    output = module(batch, step=0, valid_entries=module.targets(batch)[1].sum())
    assert not output.scores_bsh.requires_grad
    assert not output.weights_bsh.requires_grad
    skipped = output.valid_bsh & (output.weights_bsh == 0)
    assert skipped.any()
    assert output.ce_bsh[skipped].isnan().all()
    assert output.ce_bsh[output.weights_bsh > 0].isfinite().all()


def test_a_live_reference_gives_what_its_scores_give(parts: Any) -> None:
    changes = {"train.algo": "rho1-wmtp"}
    cached, (batch,) = parts(**changes)
    reference = parts(seed=9)[0].model
    trunk_ce, valid = WeightedMTP(reference, cached.recipe, compute_dtype=torch.float64).unweighted_ce(batch)
    ce = torch.nn.functional.pad(trunk_ce[:, :-1, 0], (1, 0), value=math.nan)
    live = WeightedMTP(cached.model, cached.recipe, compute_dtype=torch.float64, reference=reference)
    n = valid.sum()
    one = cached(replace(batch, columns={"reference_ce": ce}), step=0, valid_entries=n)
    other = live(replace(batch, columns={}), step=0, valid_entries=n)
    torch.testing.assert_close(one.weights_bsh, other.weights_bsh)
    assert not any(p.requires_grad and p.grad is not None for p in reference.parameters())


def test_a_scorer_without_its_reference_says_what_to_set(parts: Any) -> None:
    module, (batch,) = parts(**{"train.algo": "rho1-wmtp"})
    with pytest.raises(WMTPError, match=r"needs a reference: set model\.ref_id or data\.reference_scores"):
        module(replace(batch, columns={}), step=0, valid_entries=torch.tensor(1))


def test_bf16_stays_close_to_fp32(parts: Any, device: str) -> None:
    module, (batch,) = parts()
    module, batch = module.to(device), batch.to(torch.device(device))
    n = module.targets(batch)[1].sum()
    exact = float(module(batch, step=0, valid_entries=n).loss.detach())
    low = WeightedMTP(module.model.float(), module.recipe, compute_dtype=torch.bfloat16)
    assert float(low(batch, step=0, valid_entries=n).loss.detach()) == pytest.approx(exact, rel=2e-2)
