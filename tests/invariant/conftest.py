"""One folder for all tests of a session: a run that nothing happened to is needed by many of them."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Training, prepare

Shared = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def folder(shared: Shared) -> Path:
    """Where runs find data, a reference, recipe.yaml and config.yaml."""

    def written(path: Path) -> Path:
        prepare(path)
        return path

    return shared("invariant", written)


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
def whole(folder: Path, shared: Shared) -> Callable[..., Path]:
    """`whole(2, "devices.parallel=fsdp")`: the directory of a run in this layout to which nothing happened."""

    def uninterrupted(nproc: int | None = None, *settings: str) -> Path:
        name = "whole-" + hashlib.sha256(repr((nproc, *settings)).encode()).hexdigest()[:16]

        def train(_: Path) -> Path:
            training = Training(folder, name, *settings, nproc=nproc)
            ended = training.end()
            assert ended.status == 0, ended.errors
            return training.run

        return shared(name, train)

    return uninterrupted
