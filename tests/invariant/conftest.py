"""One folder for all tests of a session: a run that nothing happened to is needed by many of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Training, prepare


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs find data, a reference, recipe.yaml and config.yaml."""
    path = tmp_path_factory.mktemp("invariant")
    prepare(path)
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Training]]:
    """`start(name, "key=value", nproc=2)`: a `Training`, which does not outlive the test."""
    started = []

    def begin(name: str, *settings: str, folder: Path = folder, **options: Any) -> Training:
        started.append(Training(folder, name, *settings, **options))
        return started[-1]

    yield begin
    for training in started:
        training.kill()


@pytest.fixture(scope="session")
def whole(folder: Path) -> Callable[..., Path]:
    """`whole(2, "devices.parallel=fsdp")`: the directory of a run in this layout to which nothing happened."""
    runs: dict[tuple[Any, ...], Path] = {}

    def uninterrupted(nproc: int | None = None, *settings: str) -> Path:
        layout = (nproc, *settings)
        if layout not in runs:
            training = Training(folder, f"whole-{len(runs)}", *settings, nproc=nproc)
            ended = training.end()
            assert ended.status == 0, ended.errors
            runs[layout] = training.run
        return runs[layout]

    return uninterrupted
