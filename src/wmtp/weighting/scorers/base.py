"""What a scorer is given, and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from pydantic import Field
from torch import Tensor
from torch.distributed import ProcessGroup

from wmtp.config import Mode, Recipe, Section, WeightConfig
from wmtp.config.base import Positive
from wmtp.data.loader import Batch
from wmtp.errors import WMTPError, is_out_of_memory, type_and_message
from wmtp.weighting.needs import NEEDS
from wmtp.weighting.weights import expand


class ScoreInputs:
    """What is known of a micro-batch when its tokens are scored, [B, S] each, float32 and without gradient.

    Entry [b, s] is about the token at s + 1, except in the batch and in the last three. Beside `batch` and `valid_bs`
    there is only what the scorer needs. Where `valid_bs` is false anything may stand, usually NaN.

    Attributes:
        batch: the packed rows themselves.
        valid_bs: bool, whether the token at s + 1 is a target of head 0.
        learner_ce_bs: cross-entropy in nats by the learner's head 0.
        entropy_bs: of the learner's distribution over that token, in nats.
        gradient_norm_bs: of the cross-entropy with respect to the unembedding's input, ‖Wᵀ(p - onehot)‖₂.
        alignment_bs: inner product of the cross-entropy's gradient with that of a clean batch, both with respect to
            the unembedding: above 0 where learning the token lowers the clean batch's loss.
        reference_ce_bs: cross-entropy in nats by the reference.
        values_bs: V(h_s), the critic's value after the token at s.
        rewards_bs: reward of the whole document of position s.
        advantages_bs: that reward, standardised among the completions of the same prompt.
    """

    def __init__(self, batch: Batch, valid_bs: Tensor, **known: Tensor) -> None:
        self.batch = batch
        self.valid_bs = valid_bs
        vars(self).update(known)

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"{name} is not known; add {name.removesuffix('_bs')!r} to the scorer's needs")


@dataclass(frozen=True)
class StepInfo:
    """The optimiser step whose scores are completed.

    Attributes:
        valid_bsh: [B, S, H] bool, of all micro-batches of this rank.
        step, steps: of the optimiser, from 0, and how many there will be.
        config: λ, temperature and the like of this step.
        is_training: whether the scorer may learn from the step.
        group: the ranks that share the step; None for a single process.
    """

    valid_bsh: Tensor
    step: int
    steps: int
    config: WeightConfig
    is_training: bool
    group: ProcessGroup | None = None


class CleanRowsConfig(Section):
    """Settings of a scorer that needs `alignment`: `clean` selects training rows as `data.where` does, `rows` packed
    ones are read for every step."""

    clean: dict[str, Any] = Field(default={"curated": True})
    rows: Positive = 4


class Scorer(ABC):
    """Gives tokens importance.

    Attributes:
        Config: its settings, those beside `name` in the recipe's `scorer`; a class of fields with defaults.
        needs: what it reads of `ScoreInputs` beside the batch, some of `NEEDS`.
        mode: how its scores become weights unless `loss.mode` says otherwise: "soft" where only differences between
            scores mean something, "proportional" where they are weights up to a factor.
        config: the settings of this one.
    """

    Config: ClassVar[type[Section]] = Section
    needs: frozenset[str] = frozenset()
    mode: Mode = "soft"
    config: Any = None

    def __init__(self, config: Any, recipe: Recipe) -> None:  # noqa: ARG002
        """With settings, a `Config`, and the recipe they are from, which may name a seed or a critic."""
        self.config = config

    @abstractmethod
    def __call__(self, inputs: ScoreInputs) -> Tensor:
        """Importance of the token at s + 1, [B, S], or of every (s, h), [B, S, H]: no gradient.

        It may not depend on how a step is split into micro-batches. A score that is not finite gives weight 1.
        """

    def complete(self, scores: Tensor, info: StepInfo) -> Tensor:  # noqa: ARG002
        """Scores of the whole step, [B, S] or [B, S, H], where that takes statistics over it.

        Args:
            scores: what `__call__` gave for all micro-batches of this rank, one after the other.
        """
        return scores

    @property
    def clean_rows(self) -> CleanRowsConfig:
        """The rows that `alignment` is with."""
        return self.config if isinstance(self.config, CleanRowsConfig) else CleanRowsConfig()

    def state(self) -> dict[str, Tensor]:
        """The tensors in which it remembers earlier steps, the same on every rank; saved, and restored in place."""
        return {}


def checked_call(name: str, scorer: Scorer, inputs: ScoreInputs) -> Tensor:
    """The scorer's answer.

    Raises:
        WMTPError: it failed, or what it gave is not [B, S, …] without gradient.
    """
    with errors_as_one_line(f"scorer {name!r} failed"):
        scores = scorer(inputs)
    shape = tuple(inputs.valid_bs.shape)
    _check_constant(name, scores, shape)
    if scores.shape[:2] != shape or scores.ndim > 3:
        raise WMTPError(
            f"scorer {name!r} gave scores of shape {list(scores.shape)}; it should be {list(shape)}, "
            f"or that and the heads"
        )
    return scores.to(torch.float32)


def checked_complete(name: str, scorer: Scorer, scores: Tensor, info: StepInfo) -> Tensor:
    """[B, S, H]: its scores of the whole step, those of tokens handed to the heads.

    Raises:
        WMTPError: it failed, or what it gave is neither [B, S] nor [B, S, H] without gradient.
    """
    shape = tuple(info.valid_bsh.shape)
    with errors_as_one_line(f"scorer {name!r} failed", info.group):
        scores = scorer.complete(scores, info)
    _check_constant(name, scores, shape)
    if scores.shape not in (shape, shape[:2]):
        raise WMTPError(
            f"scorer {name!r} gave scores of shape {list(scores.shape)} for a model of {shape[2]} heads; "
            f"it should be {list(shape)}, or that without the heads"
        )
    return expand(scores, shape[2], info.config.decay) if scores.ndim == 2 else scores


def _check_constant(name: str, scores: object, shape: tuple[int, ...]) -> None:
    if not isinstance(scores, Tensor):
        raise WMTPError(
            f"scorer {name!r} gave a {type(scores).__name__}; it should give a tensor {list(shape)}"
        )
    if scores.requires_grad:
        raise WMTPError(f"scorer {name!r} gave scores with gradient; weights are constants: detach them")


@contextmanager
def errors_as_one_line(what: str, group: ProcessGroup | None = None) -> Iterator[None]:
    """Makes one line of what a scorer raises.

    Not of what may not be its fault: no memory, or, with a group, a collective that another rank broke.
    """
    try:
        yield
    except WMTPError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or (group is not None and isinstance(error, RuntimeError)):
            raise
        raise WMTPError(f"{what}: {type_and_message(error)}") from error


def checked_scorer(name: str, scorer: object) -> Scorer:
    """The scorer, if it is one.

    Raises:
        WMTPError: it is no Scorer, asks for something unknown, or has an unknown mode.
    """
    if not isinstance(scorer, Scorer):
        raise WMTPError(
            f"scorer {name!r} is a {type(scorer).__name__}; derive it from {Scorer.__module__}:Scorer"
        )
    if not isinstance(scorer.needs, set | frozenset):
        raise WMTPError(
            f"scorer {name!r} gives its needs as a {type(scorer.needs).__name__}; it should be a set"
        )
    unknown = sorted(map(str, scorer.needs - NEEDS.keys()))
    if unknown:
        raise WMTPError(f"scorer {name!r} needs {unknown[0]!r}; there is {', '.join(NEEDS)}")
    if scorer.mode not in get_args(Mode):
        raise WMTPError(f"scorer {name!r} has the mode {scorer.mode!r}; there is {', '.join(get_args(Mode))}")
    return scorer
