"""Trainers on random tokens, for benchmarks of the step."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from wmtp.config import Config
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Loader
from wmtp.tracking.tracker import Tracker
from wmtp.train.distributed import World
from wmtp.train.heartbeat import Heartbeat
from wmtp.train.module import WeightedMTP
from wmtp.train.parallel import replicate
from wmtp.train.signals import StopRequest
from wmtp.train.trainer import Trainer


def random_documents(count: int, length: int, vocab_size: int) -> TokenDataset:
    """Documents that fill their rows, all supervised."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, length * count, dtype=np.int32)
    offsets = np.arange(0, len(tokens) + 1, length, dtype=np.int64)
    return TokenDataset(tokens, np.ones(len(tokens), dtype=np.bool_), offsets, np.arange(count), "random")


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of that many words."""
    words = Tokenizer(WordLevel({f"token {i}": i for i in range(vocab_size)}))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="token 0", pad_token="token 1")


def lone_trainer(
    module: WeightedMTP,
    dataset: TokenDataset,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    device: torch.device,
    reference_ce: NDArray[np.float16] | None = None,
) -> Trainer:
    """The real trainer, in this process alone."""
    recipe = module.recipe
    loader = Loader(
        dataset,
        sequence_length=recipe.data.sequence_length,
        batch_size=recipe.train.batch_size,
        micro_batch_size=recipe.train.rows_at_once,
        seed=0,
        reference_ce=reference_ce,
    )
    world = World(device)
    return Trainer(
        module,
        replicate(module, world),
        loader,
        dataset,
        tokenizer,
        folder,
        world,
        Heartbeat(None, 0, 1, folder, 600.0),
        StopRequest(60.0, lambda: ""),
        Tracker(folder, Config()),
    )


def step_seconds(trainer: Trainer) -> float:
    """The time of one optimiser step, without collating its batch."""
    device = trainer.world.device
    batches = [batch.to(device) for batch in next(trainer.loader)]
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    trainer._step(batches)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
