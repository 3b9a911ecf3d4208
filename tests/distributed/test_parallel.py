"""Every layout of the model over processes trains like one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ranks import RECIPE, run_on_ranks
from wmtp.config import Config, DevicesConfig, Recipe, override
from wmtp.data.dataset import Document, TokenDataset, tokenise
from wmtp.data.loader import BatchShape, Loader
from wmtp.data.tokenizer import train_tokenizer
from wmtp.distributed.parallel import is_sharded, replicate, shard
from wmtp.distributed.world import World
from wmtp.metrics import MetricsLog
from wmtp.model.build import build_model, empty_model, learner_config
from wmtp.tracking.tracker import Tracker
from wmtp.train.context import TrainContext
from wmtp.train.heartbeat import Heartbeat
from wmtp.train.module import WeightedMTP
from wmtp.train.run import train
from wmtp.train.signals import StopRequest
from wmtp.train.trainer import Trainer
from wmtp.train.validation import validation_ce

LAYOUTS: list[tuple[int, dict[str, Any]]] = [
    (2, {"parallel": "ddp"}),
    (2, {"parallel": "fsdp"}),
    (2, {"parallel": "fsdp", "reshard_after_forward": False}),
    (2, {"cpu_offload": True}),
    (4, {"mesh": {"replicate": 2, "shard": 2}}),
    (4, {"parallel": "ddp"}),
    (1, {"parallel": "fsdp"}),
]
RECIPES: list[dict[str, Any]] = [
    {},
    {"model.tie_embeddings": False, "loss.mode": "skip"},
    {"train.gradient_checkpointing": True, "train.control": "shuffled"},
]


def data(folder: str) -> tuple[Any, TokenDataset, np.ndarray]:
    documents = [Document(f"add {i}: ", f"{i} is {i + 1}" + " so" * (i % 5)) for i in range(80)]
    tokenizer = train_tokenizer([d.prompt + d.completion for d in documents], 300, Path(folder))
    dataset = tokenise(documents, tokenizer, 48, "error")
    return tokenizer, dataset, np.random.default_rng(0).exponential(2, len(dataset.tokens)).astype(np.float16)


def trained(
    group: ProcessGroup | None,
    rank: int,
    layout: dict[str, Any],
    changes: dict[str, Any],
    folder: str,
    steps: int,
    live_reference: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[list[float]], list[float], dict[str, torch.Tensor]]:
    """Losses and gradient norms of some steps, then the validation loss and the whole parameters."""
    torch.set_num_threads(1)
    recipe = override(RECIPE, changes, "test")
    tokenizer, dataset, scores = data(folder)
    world = World(torch.device("cpu"), group=group)
    model = build_model(recipe, tokenizer)
    reference = build_model(override(recipe, {"seed": 5, "model.heads": 1}, "test"), tokenizer)
    devices = DevicesConfig(**layout)
    sharded = is_sharded(devices, 1, world)
    if sharded and rank != 0:
        # Rank 0 hands out the weights: what the others have must not matter, so they have none.
        model, reference = empty_model(model.config), empty_model(reference.config)
    module = WeightedMTP(
        model,
        recipe,
        compute_dtype=dtype,
        reference=reference.eval().requires_grad_(False) if live_reference else None,
        group=group,
    )
    if sharded:
        shard(module, devices, world, compute_dtype=dtype, methods=("scores", "unweighted_ce"))
        assert isinstance(module, FSDPModule)
        assert all(isinstance(p, DTensor) for p in module.parameters())
    parallel = module if sharded else replicate(module, world)
    loader = Loader(
        dataset,
        BatchShape(48, 8, recipe.train.rows_at_once),
        seed=0,
        rank=rank,
        world_size=world.size,
        columns={} if live_reference else {"reference_ce": scores},
    )
    run = Path(folder)
    heartbeat = Heartbeat(None, rank, world.size, run, 600.0)
    stop, tracker = StopRequest(60.0, lambda: ""), Tracker(run, Config())
    trainer = Trainer(
        module,
        parallel,
        loader,
        dataset,
        TrainContext(run, world, tokenizer, heartbeat, stop, tracker),
        write_configuration=model.config.save_pretrained,
    )
    trajectory = []
    for _ in range(steps):
        record, _ = trainer._step(next(loader))
        assert record is not None
        trajectory.append([record["loss"], record["grad_norm"], *(ce or 0.0 for ce in record["ce"])])
    ce = validation_ce(module, dataset, world, lambda: None)
    whole = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach()
        for name, p in module.model.named_parameters()
    }
    return trajectory, ce, whole


def assert_alike(found: Any, expected: Any, tolerance: float) -> None:
    assert np.array(found[0]) == pytest.approx(np.array(expected[0]), rel=tolerance, abs=1e-9)
    assert found[1] == pytest.approx(expected[1], rel=tolerance)
    assert found[2].keys() == expected[2].keys()


@pytest.mark.slow
@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_sharded_and_replicated_training_is_that_of_one_process(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    alone = trained(None, 0, {}, changes, str(tmp_path), 10)
    for size, layout in LAYOUTS if not changes else LAYOUTS[:2]:
        micro = {"train.micro_batch_size": 2}
        for found in run_on_ranks(trained, size, layout, changes | micro, str(tmp_path), 10):
            assert_alike(found, alone, 1e-6)


@pytest.mark.slow
def test_a_frozen_reference_is_sharded_too(tmp_path: Path) -> None:
    alone = trained(None, 0, {}, {}, str(tmp_path), 4, True)
    for layout in ({"parallel": "fsdp"}, {"parallel": "ddp"}):
        for found in run_on_ranks(trained, 2, layout, {}, str(tmp_path), 4, True):
            assert_alike(found, alone, 1e-6)


@pytest.mark.slow
def test_bf16_products_see_the_same_weights_sharded_or_not(tmp_path: Path) -> None:
    """Sharded layers keep their norms' weights in bf16 while gathered, hence the tolerance."""
    alone = trained(None, 0, {}, {}, str(tmp_path), 4, False, torch.bfloat16)
    for found in run_on_ranks(trained, 2, {"parallel": "fsdp"}, {}, str(tmp_path), 4, False, torch.bfloat16):
        assert np.array(found[0]) == pytest.approx(np.array(alone[0]), rel=5e-3)


def test_auto_replicates_what_is_small() -> None:
    alone = World(torch.device("cpu"))
    assert not is_sharded(DevicesConfig(), 10**12, alone)


def test_an_empty_model_has_shapes_ties_and_buffers_but_no_storage(tmp_path: Path) -> None:
    tokenizer, _, _ = data(str(tmp_path))
    real = build_model(RECIPE, tokenizer)
    empty = empty_model(learner_config(RECIPE, tokenizer))
    assert all(p.is_meta for p in empty.parameters())
    shapes = {name: p.shape for name, p in real.named_parameters()}
    assert {name: p.shape for name, p in empty.named_parameters()} == shapes
    assert empty.lm_head.weight is empty.model.embed_tokens.weight
    for (_, one), (_, other) in zip(real.named_buffers(), empty.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    later = torch.nn.Linear(2, 2)
    assert not later.weight.is_meta


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [{"parallel": "fsdp"}, {"cpu_offload": True, "parallel": "fsdp"}], ids=str)
def test_sharding_on_a_gpu_is_training_on_a_gpu(
    layout: dict[str, Any],
    make_recipe: Callable[..., Recipe],
    config: Config,
    gpu_device: str,
    tmp_path: Path,
) -> None:
    losses = []
    for name, changes in {"plain": {}, "sharded": layout}.items():
        devices = config.devices.model_copy(update={"device": gpu_device, **changes})
        train(make_recipe(), config.model_copy(update={"devices": devices}), tmp_path / name)
        losses.append([r["loss"] for r in MetricsLog(tmp_path / name) if r["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_one_process_may_shard_too(
    make_recipe: Callable[..., Recipe], config: Config, tmp_path: Path
) -> None:
    devices = config.devices.model_copy(update={"parallel": "fsdp"})
    sharded = config.model_copy(update={"devices": devices})
    train(make_recipe(), config, tmp_path / "plain")
    last = train(make_recipe(), sharded, tmp_path / "sharded")
    assert not torch.distributed.is_initialized()
    last.rename(tmp_path / "away")
    train(make_recipe(), sharded, tmp_path / "sharded", resume="auto")
    losses = [
        [r["loss"] for r in MetricsLog(tmp_path / name) if r["kind"] == "train"]
        for name in ("plain", "sharded")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
