"""Out of memory is answered with the micro-batch that fits."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wmtp.config import Config, Recipe, to_yaml
from wmtp.distributed.world import World
from wmtp.train.memory import Growth
from wmtp.train.rehearsal import Rehearsal

Make = Callable[..., Recipe]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_the_micro_batch_that_is_named_fits(make_recipe: Make, config: Config, tmp_path: Path) -> None:
    """The limit on address space stands in for a small machine."""
    big = {"train.batch_size": 256, "model.hidden_size": 256, "loss.chunk_size": 65536, "train.steps": 2}
    (tmp_path / "r.yaml").write_text(to_yaml(make_recipe(**big)))
    (tmp_path / "c.yaml").write_text(to_yaml(config))

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wmtp", "train", "r.yaml", *overrides, "--config", "c.yaml"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2_000 * 2**20, 2_000 * 2**20)),
        )

    failed = run()
    assert failed.returncode == 2, failed.stderr
    said = re.search(r"micro_batch_size 256: out of memory on rank 0 .* (\d+) fits: set (\S+)", failed.stderr)
    assert said is not None, failed.stderr
    assert failed.stderr.count("\n") == 1
    fitting = run(said[2], "name=fitting")
    assert fitting.returncode == 0, fitting.stderr


def test_several_ranks_get_an_estimate_below_what_failed() -> None:
    def nothing(*_: Any) -> None:
        pass

    rehearsal = Rehearsal(nothing, nothing, 12, 24, World(torch.device("cpu")))
    rehearsal._growth = Growth(one_row=10**6, two_rows=2 * 10**6)
    line = str(rehearsal.advice(RuntimeError("DefaultCPUAllocator: you tried to allocate 99 bytes")))
    assert "about 6 would fit, by an estimate from one row and two: set train.micro_batch_size=6" in line
    rehearsal._growth = Growth(one_row=10**15, two_rows=2 * 10**15)
    assert "not even one row would fit" in str(rehearsal.advice(MemoryError()))
