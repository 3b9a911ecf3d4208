"""A training run and what it has left behind. Opening one is quick: torch is imported by what needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp.config import Config, Recipe, load
from wmtp.errors import WMTPError
from wmtp.layout import CONFIG_FILE, RECIPE_FILE, evaluation_files
from wmtp.records import (
    CriticResult,
    Evaluation,
    Metrics,
    read_critic,
    read_evaluation,
    read_metrics,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from wmtp.model.modeling import MTPForCausalLM


@dataclass(frozen=True)
class Run:
    """A run directory. Whatever lies in it is read when asked for, and verified as far as its use needs.

    Attributes:
        directory: where it is.
        recipe: the run's own, with the changes that it was opened with.
        config: the environment in which it is used.
    """

    directory: Path
    recipe: Recipe
    config: Config

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = (), config: Path | None = None) -> "Run":
        """Read the run's recipe, and its environment unless `config` names another file; `overrides` go to both.

        Raises:
            WMTPError: not a run directory, or a file or an override is wrong.
        """
        recipe = path / RECIPE_FILE
        if not recipe.exists():
            raise WMTPError(f"{path}: not a run directory (no {RECIPE_FILE})")
        return cls(path, *load(recipe, config or path / CONFIG_FILE, overrides))

    @cached_property
    def checkpoint(self) -> Path:
        """The newest checkpoint, once the checksums of all but the state of training are right.

        Raises:
            WMTPError: there is none, or it is damaged.
        """
        from wmtp.checkpoint.store import resolve_model, verify

        location = Path(resolve_model(str(self.directory), "run"))
        verify(location, without="training")
        return location

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The checkpoint's tokenizer."""
        from wmtp.data.tokenizer import load_tokenizer

        return load_tokenizer(str(self.checkpoint))

    @cached_property
    def model(self) -> "MTPForCausalLM":
        """The checkpoint's model on the device and in the dtype that the environment has it decode in.

        Gives this process the environment's threads and determinism.
        """
        from wmtp.environment import choose_device, configure_torch, decoding_dtype
        from wmtp.model.loading import load_mtp

        devices = self.config.devices
        configure_torch(devices)
        model = load_mtp(str(self.checkpoint), "checkpoint")
        model.to(choose_device(devices), decoding_dtype(devices))
        return model

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations that hold pass@k, by name of their files."""
        return [read_evaluation(path) for path in evaluation_files(self.directory)]

    @property
    def metrics(self) -> Metrics:
        """What was recorded of training and validation.

        Raises:
            WMTPError: nothing was, or not as metrics.
        """
        return read_metrics(self.directory)

    @property
    def critic(self) -> CriticResult | None:
        """What came of the run's own critic; None if it has none that is finished."""
        return read_critic(self.directory)
