"""From the batch to the loss, in one module's forward."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel

from wmtp.config import Recipe
from wmtp.critic.model import Critic
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch
from wmtp.data.targets import make_targets, shift_left
from wmtp.distributed.world import World, all_reduce, world_size
from wmtp.environment import autocast
from wmtp.errors import WMTPError
from wmtp.loss import TokenStatistics, choose_kernel
from wmtp.metrics import finite
from wmtp.model.heads import TrunkOutput
from wmtp.model.modeling import MTPForCausalLM
from wmtp.model.packed import next_token_hidden, packed_trunk
from wmtp.train.validation import validation_ce
from wmtp.weighting.controls import apply_control
from wmtp.weighting.needs import LEARNER, NEEDS, Sources, sources_of
from wmtp.weighting.schedule import WeightSchedule
from wmtp.weighting.scorers import scorer_of
from wmtp.weighting.scorers.base import ScoreInputs, StepInfo, checked_call, checked_complete
from wmtp.weighting.weights import normalise, weight_statistics


@dataclass(frozen=True)
class StepOutput:
    """What one micro-batch contributes to the step.

    loss: differentiable scalar, this micro-batch's share of the step's loss; ce_bsh: [B, S, H], NaN where it was
    not computed (skipped) or not valid; scores_bsh, weights_bsh, valid_bsh: [B, S, H].
    """

    loss: Tensor
    ce_bsh: Tensor
    scores_bsh: Tensor
    weights_bsh: Tensor
    valid_bsh: Tensor

    @property
    def nonfinite_scores(self) -> Tensor:
        """How many entries got weight 1 for want of a finite score."""
        return (self.valid_bsh & ~self.scores_bsh.float().isfinite()).sum()


class WeightedMTP(nn.Module):
    """Learner, scorer and weights: L = 1/N Σ w[b,s,h] CE(head h at s, ids[s+h+1]).

    Everything that needs parameters happens in `forward`, so that sharding and compilation see one root.
    A frozen reference or critic, where the scorer asks for one, is a child.

    Args:
        clean: the rows of known quality of a step, the same on every rank, for a scorer that learns from them.
    """

    def __init__(
        self,
        model: MTPForCausalLM,
        recipe: Recipe,
        *,
        compute_dtype: torch.dtype,
        reference: PreTrainedModel | None = None,
        critic: Critic | None = None,
        clean: Callable[[int], Batch] | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.reference = reference
        self.critic = critic
        self.recipe = recipe
        self.scorer_name = recipe.scorer.name
        self.scorer = scorer_of(recipe)
        weights = recipe.loss.model_copy(update={"mode": recipe.loss.mode or self.scorer.mode})
        wanted = recipe.loss.schedule.temperature or recipe.loss.schedule.effective_share
        if wanted and weights.mode != "soft" and self.scorer_name != "blend":  # whose parts may be soft
            raise WMTPError(
                f"loss.schedule: scorer {self.scorer_name!r} has mode {weights.mode}, which has no temperature; "
                f"set loss.mode to soft"
            )
        self.kernel = choose_kernel(recipe.loss)
        self.schedule = WeightSchedule(weights, recipe.loss, recipe.train.steps)
        self.clean = clean
        self.compute_dtype = compute_dtype
        self.group = group

    @property
    def heads(self) -> int:
        """H."""
        return self.model.config.heads

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Targets and validity, [B, S, H]."""
        return make_targets(batch.ids, batch.document_ids, batch.supervised, self.heads)

    def train(self, mode: bool = True) -> "WeightedMTP":
        """As every module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for frozen in (self.reference, self.critic):
            if frozen is not None:
                frozen.eval()
        return self

    def prepare(self, batches: Sequence[Batch], step: int) -> list[dict[str, Any]]:
        """What `forward` takes beside each micro-batch of a step, from all of them and all ranks."""
        valid = [self.targets(b)[1] for b in batches]
        count = torch.stack([v.sum() for v in valid]).sum()
        common: dict[str, Any] = {"step": step, "valid_entries": all_reduce(count, self.group).clamp(min=1)}
        gradient = self._clean_gradient_of(step, batches[0].ids.device)
        if len(batches) == 1:
            return [common | {"clean_gradient": gradient}]
        # Weights are normalised over the whole step, so all of it is scored before any of it is learnt.
        raw = [self.scores(b, gradient) for b in batches]
        weighed = self.weigh(raw, valid, batches, step)
        return [common | {"scores_bsh": s, "weights_bsh": w} for s, w in weighed]

    def forward(
        self,
        batch: Batch,
        *,
        step: int,
        valid_entries: Tensor,
        clean_gradient: Tensor | None = None,
        scores_bsh: Tensor | None = None,
        weights_bsh: Tensor | None = None,
    ) -> StepOutput:
        """The micro-batch's share of the step's loss.

        Args:
            batch: packed rows.
            step: of the optimiser, from 0.
            valid_entries: scalar, N of the whole optimiser step over all ranks and micro-batches.
            clean_gradient: [V, D], where the scorer aligns gradients.
            scores_bsh, weights_bsh: from `weigh`, when a step has several micro-batches; without them this one is
                scored and weighed as the whole step.
        """
        targets_bsh, valid_bsh = self.targets(batch)
        with autocast(batch.ids.device, self.compute_dtype):
            trunk = packed_trunk(self.model, batch)
            hidden_0 = self.model.head(trunk, 0)
            if scores_bsh is None or weights_bsh is None:
                raw = self._scores(batch, trunk, hidden_0, targets_bsh, valid_bsh, clean_gradient)
                ((scores_bsh, weights_bsh),) = self.weigh([raw], [valid_bsh], [batch], step)
            hidden_bshd = self._all_heads(trunk, hidden_0)
        loss_sum, ce = self.kernel.weighted_cross_entropy(
            hidden_bshd.flatten(0, 2), self.model.unembedding, targets_bsh.flatten(), weights_bsh.flatten()
        )
        # Gradients are averaged over ranks, and the sum is wanted.
        loss = loss_sum * (world_size(self.group) / valid_entries)
        return StepOutput(loss, ce.view(valid_bsh.shape), scores_bsh, weights_bsh, valid_bsh)

    @torch.no_grad()
    def scores(self, batch: Batch, clean_gradient: Tensor | None = None) -> Tensor:
        """What the scorer gives for a micro-batch, by a forward of trunk and head 0 where it needs one."""
        targets_bsh, valid_bsh = self.targets(batch)
        trunk = hidden_0 = None
        with autocast(batch.ids.device, self.compute_dtype):
            if self._reads_trunk:
                trunk = packed_trunk(self.model, batch)
            if trunk is not None and self._sources & LEARNER:
                hidden_0 = self.model.head(trunk, 0)
        return self._scores(batch, trunk, hidden_0, targets_bsh, valid_bsh, clean_gradient)

    @torch.no_grad()
    def weigh(
        self, raw: Sequence[Tensor], valid: Sequence[Tensor], batches: Sequence[Batch], step: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Scores and weights [B, S, H] of all micro-batches of a step, normalised together and over all ranks."""
        sizes = [len(scores) for scores in raw]
        valid_all = torch.cat(list(valid))
        config = self.schedule.at(step)
        info = StepInfo(valid_all, step, self.recipe.train.steps, config, self.training, self.group)
        scores = checked_complete(self.scorer_name, self.scorer, torch.cat(list(raw)), info)
        weights = normalise(scores, valid_all, config, self.group)
        if self.schedule.is_controlled and self.training:
            found = weight_statistics(weights, valid_all, self.group)
            self.schedule.observe(float(found["effective"]))
        control = self.recipe.train.control
        if control is not None:
            keys = torch.cat([b.token_keys for b in batches])
            weights = apply_control(
                control, weights, valid_all, keys, seed=self.recipe.seed, step=step, group=self.group
            )
        return list(zip(scores.split(sizes), weights.split(sizes), strict=True))

    def state(self) -> dict[str, Tensor]:
        """What scorer and schedule remember of earlier steps; saved, and restored in place."""
        return self.scorer.state() | {f"schedule.{k}": v for k, v in self.schedule.state().items()}

    @torch.no_grad()
    def statistics(self, outputs: Sequence[StepOutput]) -> dict[str, Any]:
        """Over all ranks: weights, and cross-entropy by head (None unless computed and finite everywhere)."""
        ce, valid, weights = (
            torch.cat([getattr(o, name) for o in outputs]) for name in ("ce_bsh", "valid_bsh", "weights_bsh")
        )
        computed = valid & ~ce.isnan()
        sums = torch.stack(
            [
                torch.where(computed, ce, 0).sum((0, 1), dtype=torch.float64),
                computed.sum((0, 1)).double(),
                valid.sum((0, 1)).double(),
            ]
        )
        totals = all_reduce(sums, self.group).T.tolist()
        found = weight_statistics(weights, valid, self.group)
        return {
            "ce": [finite(total / n) if n == wanted > 0 else None for total, n, wanted in totals],
            **{f"weight_{name}": float(value) for name, value in found.items()},
        }

    def validate(self, dataset: TokenDataset, world: World, alive: Callable[[], None]) -> dict[str, Any]:
        """Unweighted cross-entropy of each head on held-out documents."""
        return {"ce": validation_ce(self, dataset, world, alive)}

    def criterion(self, validation: dict[str, Any]) -> float:
        """Head 0's cross-entropy."""
        ce = validation["ce"][0]
        return math.nan if ce is None else float(ce)

    @torch.no_grad()
    def unweighted_ce(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, S, H] cross-entropy of every head, NaN where not valid, and validity."""
        targets_bsh, valid_bsh = self.targets(batch)
        with autocast(batch.ids.device, self.compute_dtype):
            trunk = packed_trunk(self.model, batch)
            hidden_bshd = self._all_heads(trunk, self.model.head(trunk, 0))
        statistics = self._token_statistics(hidden_bshd, self.model.unembedding, targets_bsh, valid_bsh)
        return statistics.ce.view(valid_bsh.shape), valid_bsh

    def clean_gradient(self, batch: Batch) -> Tensor:
        """[V, D]: gradient of the mean cross-entropy of head 0 on a batch with respect to the unembedding."""
        targets_bsh, valid_bsh = self.targets(batch)
        with torch.no_grad(), autocast(batch.ids.device, self.compute_dtype):
            hidden_bsd = next_token_hidden(self.model, batch).to(self.compute_dtype)
        valid_bs = valid_bsh[..., 0]
        with torch.enable_grad():
            unembedding = self.model.unembedding.detach().requires_grad_()
            loss, _ = self.kernel.weighted_cross_entropy(
                hidden_bsd.flatten(0, 1),
                unembedding,
                targets_bsh[..., 0].flatten(),
                (valid_bs / valid_bs.sum().clamp(min=1)).flatten(),
            )
            (gradient,) = torch.autograd.grad(loss, unembedding)
        return gradient

    def _clean_gradient_of(self, step: int, device: torch.device) -> Tensor | None:
        if "alignment" not in self._sources:
            return None
        if self.clean is None:
            raise WMTPError(f"scorer {self.scorer_name!r} needs clean rows (scorer.clean)")
        return self.clean_gradient(self.clean(step).to(device))

    @property
    def _sources(self) -> frozenset[str]:
        return sources_of(self.scorer.needs)

    @property
    def _reads_trunk(self) -> bool:
        own_trunk = self.critic is not None and self.critic.backbone is None
        return bool(self._sources & LEARNER) or own_trunk

    @torch.no_grad()
    def _scores(
        self,
        batch: Batch,
        trunk: TrunkOutput | None,
        hidden_0: Tensor | None,
        targets_bsh: Tensor,
        valid_bsh: Tensor,
        clean_gradient: Tensor | None,
    ) -> Tensor:
        targets_bs, valid_bs = targets_bsh[..., 0], valid_bsh[..., 0]

        @cache
        def statistics() -> TokenStatistics:
            assert hidden_0 is not None
            return self._token_statistics(
                hidden_0,
                self.model.unembedding,
                targets_bs,
                valid_bs,
                entropy="entropy" in self._sources,
                gradient_norm="gradient_norm" in self._sources,
                clean_gradient=clean_gradient,
            )

        sources = Sources(
            learner=lambda name: getattr(statistics(), name),
            reference_ce=lambda: self._reference_ce(batch, targets_bs, valid_bs),
            values=lambda: self._values(batch, trunk),
            column=lambda name: self._column(batch, name),
        )
        needs = [name for name in NEEDS if name in self.scorer.needs]  # in the same order on every rank
        known = {f"{name}_bs": NEEDS[name].read(sources).view(valid_bs.shape) for name in needs}
        return checked_call(self.scorer_name, self.scorer, ScoreInputs(batch, valid_bs, **known))

    def _values(self, batch: Batch, trunk: TrunkOutput | None) -> Tensor:
        if self.critic is None:
            raise WMTPError(f"scorer {self.scorer_name!r} needs a critic: set critic.path to a trained one")
        with autocast(batch.ids.device, self.compute_dtype):
            if self.critic.backbone is None:
                assert trunk is not None
                embeddings_bsd = self.model.get_input_embeddings()(batch.ids)
                values: Tensor = self.critic(batch, trunk.hidden_bsd, embeddings_bsd)
            else:
                values = self.critic(batch)
        return values

    def _column(self, batch: Batch, name: str) -> Tensor:
        if name not in batch.columns:
            raise WMTPError(
                f"scorer {self.scorer_name!r} needs the rewards of the training rows (critic.reward)"
            )
        return batch.columns[name]

    def _reference_ce(self, batch: Batch, targets_bs: Tensor, valid_bs: Tensor) -> Tensor:
        if "reference_ce" in batch.columns:
            return shift_left(batch.columns["reference_ce"])
        if self.reference is None:
            raise WMTPError(
                f"scorer {self.scorer_name!r} needs a reference: set model.ref_id or data.reference_scores"
            )
        with autocast(batch.ids.device, self.compute_dtype):
            hidden = next_token_hidden(self.reference, batch)
        unembedding = self.reference.get_output_embeddings().weight
        return self._token_statistics(hidden, unembedding, targets_bs, valid_bs).ce

    def _token_statistics(
        self, hidden: Tensor, unembedding: Tensor, targets: Tensor, valid: Tensor, **wanted: Any
    ) -> TokenStatistics:
        return self.kernel.token_statistics(
            hidden.to(self.compute_dtype).flatten(0, -2),
            unembedding,
            targets.flatten(),
            where=valid.flatten(),
            **wanted,
        )

    def _all_heads(self, trunk: TrunkOutput, hidden_0: Tensor) -> Tensor:
        heads = [hidden_0, *(self.model.head(trunk, h) for h in range(1, self.heads))]
        return torch.stack(heads, dim=2).to(self.compute_dtype)
