"""What a stage of training has beside what it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.distributed_c10d import PrefixStore
from transformers import PreTrainedTokenizerFast

from wmtp.checkpoint.store import checkpoints
from wmtp.config import DevicesConfig
from wmtp.distributed.world import World
from wmtp.train.follower import Follower
from wmtp.train.heartbeat import Heartbeat
from wmtp.train.signals import StopRequest


@dataclass(frozen=True)
class TrainContext:
    """Where a stage writes, with which ranks it trains, and who watches it.

    Attributes:
        run: its directory.
        tokenizer: saved with every checkpoint.
        heartbeat: names the rank that stalls.
        stop: whether a signal asked to stop.
        follower: an experiment tracker, for example.
    """

    run: Path
    world: World
    tokenizer: PreTrainedTokenizerFast
    heartbeat: Heartbeat
    stop: StopRequest
    follower: Follower


@contextmanager
def training_in(
    run: Path, devices: DevicesConfig, world: World, tokenizer: PreTrainedTokenizerFast, follower: Follower
) -> Iterator[TrainContext]:
    """The context of one stage of training in the directory `run`."""
    store = None if world.store is None else PrefixStore(run.name, world.store)
    with (
        Heartbeat(store, world.rank, world.size, run, devices.collective_timeout) as heartbeat,
        StopRequest(devices.stop_timeout, lambda: last_saved(run)) as stop,
    ):
        yield TrainContext(run, world, tokenizer, heartbeat, stop, follower)


def last_saved(run: Path) -> str:
    """What an error says of the checkpoint to go on from."""
    saved = checkpoints(run)
    return f"the last checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
