"""What a run ran on."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from wmtp import __version__, environment
from wmtp.config import DevicesConfig


def test_a_checkout_that_is_not_installed_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str) -> str:
        if name == "wmtp":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(environment, "version", lookup)
    found = environment.describe(DevicesConfig(device="cpu"))
    assert found["wmtp"] == __version__
    assert found["transformers"] == version("transformers")


def test_torch_is_named_with_its_build() -> None:
    assert environment.describe(DevicesConfig(device="cpu"))["torch"] == torch.__version__
