"""Trainers on random tokens, for benchmarks of the step."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from wmtp.config import Recipe, override
from wmtp.data.dataset import Counts, TokenDataset
from wmtp.data.loader import BatchShape, Columns, Loader
from wmtp.distributed.parallel import replicate
from wmtp.distributed.world import World
from wmtp.environment import processor_name
from wmtp.train.context import TrainContext
from wmtp.train.follower import Nobody
from wmtp.train.heartbeat import Heartbeat
from wmtp.train.module import WeightedMTP
from wmtp.train.signals import StopRequest
from wmtp.train.trainer import Trainer


def step_arguments(description: str | None, repeats: int) -> argparse.Namespace:
    """The shapes of a step, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.hidden_size, arguments.layers, arguments.vocab_size = 32, 2, 300
        arguments.batch_size, arguments.sequence_length, arguments.repeats = 2, 32, 2
    return arguments


def step_recipe(arguments: argparse.Namespace) -> Recipe:
    """A recipe of these shapes that neither logs nor ends."""
    shapes = {
        "model.hidden_size": arguments.hidden_size,
        "model.layers": arguments.layers,
        "model.heads": arguments.heads,
        "model.attention_heads": max(2, arguments.hidden_size // 64),
        "data.sequence_length": arguments.sequence_length,
        "train.batch_size": arguments.batch_size,
        "train.steps": 1_000_000,
        "train.log_every": 1_000_000,
    }
    return override(Recipe(), shapes, "benchmark")


def card_name(device: torch.device) -> str:
    """What the device is called: the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def step_title(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> str:
    """What was measured, on what."""
    name = str(dtype).removeprefix("torch.")
    return (
        f"{card_name(device)}, {torch.get_num_threads()} threads, {name}, torch {torch.__version__}: "
        f"D={arguments.hidden_size} L={arguments.layers} V={arguments.vocab_size} H={arguments.heads}, "
        f"{arguments.batch_size}×{arguments.sequence_length} tokens"
    )


def random_documents(count: int, length: int, vocab_size: int) -> TokenDataset:
    """Documents that fill their rows, all supervised."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, length * count, dtype=np.int32)
    offsets = np.arange(0, len(tokens) + 1, length, dtype=np.int64)
    starts, supervised = np.zeros(count, dtype=np.int64), np.ones(len(tokens), dtype=np.bool_)
    counts = Counts(count, length)
    return TokenDataset(tokens, supervised, offsets, np.arange(count), starts, "random", counts)


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
    columns: Columns | None = None,
) -> Trainer:
    """The real trainer, in this process alone."""
    recipe = module.recipe
    loader = Loader(
        dataset,
        BatchShape(recipe.data.sequence_length, recipe.train.batch_size, recipe.train.rows_at_once),
        seed=0,
        columns=columns,
    )
    world = World(device)
    return Trainer(
        module,
        replicate(module, world),
        loader,
        dataset,
        TrainContext(
            folder,
            world,
            tokenizer,
            Heartbeat(None, 0, 1, folder, 600.0),
            StopRequest(60.0, lambda: ""),
            Nobody(),
        ),
        write_configuration=module.model.config.save_pretrained,
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
