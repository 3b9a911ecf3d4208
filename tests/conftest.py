"""Small real things to test with: data, a tokenizer, recipes, models."""

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Of the processes that tests start, too: as many of them run at once as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# torch reads it once in a process, at the first product on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Where tests marked `gpu` run: cpu rehearses them.
GPU_DEVICE = os.environ.get("WMTP_GPU_DEVICE", "cuda")
# A busy machine is no failure, and CI should not fail by luck.
settings.register_profile("wmtp", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("wmtp")
# A shell's background jobs ignore Ctrl-C, and nohup's a hang-up; so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none, unless they are rehearsed."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    if not on_gpu or GPU_DEVICE == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


Shared = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """`shared(name, make)`: what `make(folder)` gives, made once for all of pytest's processes; picklable."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, make: Callable[[Path], Any]) -> Any:
        folder, result = root / name, root / f"{name}.pickle"
        with FileLock(root / f"{name}.lock"):
            if not result.exists():
                folder.mkdir()
                result.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(result.read_bytes())

    return made


@pytest.fixture
def gpu_device() -> str:
    """The device of tests marked `gpu`."""
    return GPU_DEVICE


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn: the processor and, in tests then marked `gpu`, the GPU."""
    return GPU_DEVICE if request.param == "gpu" else request.param


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A JSONL file of prompts and completions of uneven length."""
    import json

    path = tmp_path / "sums.jsonl"
    rows = [
        {
            "prompt": f"add {i} to {i % 7}: ",
            "completion": f"{i} + {i % 7} = {i + i % 7}" + " done" * (i % 4),
            "clean": i % 2 == 0,
        }
        for i in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_recipe(sums: Path) -> Callable[..., Any]:
    """`make_recipe(**{"train.steps": 5})`: a tiny recipe over the sums, with dotted changes."""
    from wmtp.config import Recipe, override

    small = {
        "data.source": str(sums),
        "data.fields": {"prompt": "prompt", "completion": "completion", "text": None},
        "data.validation": 0.2,
        "data.vocab_size": 300,
        "data.sequence_length": 64,
        "model.hidden_size": 32,
        "model.layers": 2,
        "model.heads": 3,
        "model.attention_heads": 2,
        "model.init_std": 0.1,
        "train.steps": 6,
        "train.batch_size": 8,
        "train.warmup_steps": 2,
        "train.log_every": 1,
        "train.validate_every": 3,
        "train.save_every": 3,
        "train.lr": 0.003,
    }
    return lambda **changes: override(Recipe(), small | changes, "test recipe")


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """An environment that keeps everything in the test's folder, in float32 on the CPU."""
    from wmtp.config import Config

    return Config.model_validate(
        {
            "paths": {"runs": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")},
            "devices": {"device": "cpu", "precision": "fp32"},
        }
    )
