"""What a run ran on."""

from importlib.metadata import PackageNotFoundError, version

import pytest

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
    assert found["torch"] == version("torch")
