"""From the batch to the loss, in one module's forward."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel

from wmtp.config import Recipe
from wmtp.data.loader import Batch
from wmtp.data.targets import make_targets, shift_left
from wmtp.errors import WMTPError
from wmtp.loss import linear_cross_entropy_per_token, weighted_linear_cross_entropy
from wmtp.model.build import next_token_hidden
from wmtp.model.modeling import MTPForCausalLM, TrunkOutput, document_mask
from wmtp.train.distributed import world_size
from wmtp.weighting.controls import apply_control
from wmtp.weighting.scorers import SCORERS
from wmtp.weighting.scorers.base import ScoreInputs
from wmtp.weighting.weights import expand, normalise


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


class WeightedMTP(nn.Module):
    """Learner, scorer and weights: L = 1/N Σ w[b,s,h] CE(head h at s, ids[s+h+1]).

    Everything that needs parameters happens in `forward`, so that sharding and compilation see one root.
    A frozen reference, where the scorer asks for one and the batch does not carry its scores, is a child.
    """

    def __init__(
        self,
        model: MTPForCausalLM,
        recipe: Recipe,
        *,
        compute_dtype: torch.dtype,
        reference: PreTrainedModel | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.reference = reference
        self.recipe = recipe
        self.weight_config = recipe.weights
        self.scorer = SCORERS.create(recipe.train.scorer_name, recipe)
        self.compute_dtype = compute_dtype
        self.group = group

    @property
    def heads(self) -> int:
        """H."""
        return self.model.config.heads

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Targets and validity, [B, S, H]."""
        return make_targets(batch.ids, batch.document_ids, batch.supervised, self.heads)

    def forward(
        self,
        batch: Batch,
        *,
        step: int,
        valid_entries: Tensor,
        scores_bsh: Tensor | None = None,
        weights_bsh: Tensor | None = None,
    ) -> StepOutput:
        """The micro-batch's share of the step's loss.

        Args:
            batch: packed rows.
            step: of the optimiser, from 0.
            valid_entries: scalar, N of the whole optimiser step over all ranks and micro-batches.
            scores_bsh, weights_bsh: from `scores` and `weigh`, when a step has several micro-batches; without
                them this one is scored and weighed as the whole step.
        """
        targets_bsh, valid_bsh = self.targets(batch)
        with self._autocast(batch.ids.device):
            trunk = self._trunk(batch)
            hidden_0 = self.model.head(trunk, 0)
            if scores_bsh is None or weights_bsh is None:
                scores_bsh = self._scores(batch, hidden_0, targets_bsh, valid_bsh)
                weights_bsh = self.weigh([scores_bsh], [valid_bsh], [batch], step)[0]
            hidden_bshd = self._all_heads(trunk, hidden_0)
        loss_sum, ce = weighted_linear_cross_entropy(
            hidden_bshd.flatten(0, 2),
            self.model.unembedding,
            targets_bsh.flatten(),
            weights_bsh.flatten(),
            chunk_size=self.recipe.loss.chunk_size,
        )
        # Gradients are averaged over ranks, and the sum is wanted.
        loss = loss_sum * (world_size(self.group) / valid_entries)
        return StepOutput(loss, ce.view(valid_bsh.shape), scores_bsh, weights_bsh, valid_bsh)

    @torch.no_grad()
    def scores(self, batch: Batch) -> Tensor:
        """[B, S, H] scores of a micro-batch, by a forward of trunk and head 0 where the scorer needs one."""
        targets_bsh, valid_bsh = self.targets(batch)
        hidden_0 = None
        if self.scorer.needs_learner:
            with self._autocast(batch.ids.device):
                hidden_0 = self.model.head(self._trunk(batch), 0)
        return self._scores(batch, hidden_0, targets_bsh, valid_bsh)

    @torch.no_grad()
    def weigh(
        self, scores: Sequence[Tensor], valid: Sequence[Tensor], batches: Sequence[Batch], step: int
    ) -> list[Tensor]:
        """Weights [B, S, H] of all micro-batches of a step, normalised together and over all ranks."""
        sizes = [len(s) for s in scores]
        valid_all = torch.cat(list(valid))
        weights = normalise(torch.cat(list(scores)), valid_all, self.weight_config, self.group)
        control = self.recipe.train.control
        if control is not None:
            keys = torch.cat([b.token_keys for b in batches])
            weights = apply_control(
                control, weights, valid_all, keys, seed=self.recipe.seed, step=step, group=self.group
            )
        return list(weights.split(sizes))

    @torch.no_grad()
    def unweighted_ce(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, S, H] cross-entropy of every head, NaN where not valid, and validity."""
        targets_bsh, valid_bsh = self.targets(batch)
        with self._autocast(batch.ids.device):
            trunk = self._trunk(batch)
            hidden_bshd = self._all_heads(trunk, self.model.head(trunk, 0))
        return self._ce(hidden_bshd, self.model.unembedding, targets_bsh, valid_bsh), valid_bsh

    @torch.no_grad()
    def _scores(
        self, batch: Batch, hidden_0: Tensor | None, targets_bsh: Tensor, valid_bsh: Tensor
    ) -> Tensor:
        targets_bs, valid_bs = targets_bsh[..., 0], valid_bsh[..., 0]
        learner_ce = None
        if self.scorer.needs_learner:
            assert hidden_0 is not None
            learner_ce = self._ce(hidden_0, self.model.unembedding, targets_bs, valid_bs)
        reference_ce = None
        if self.scorer.needs_reference:
            reference_ce = self._reference_ce(batch, targets_bs, valid_bs)
        scores = self.scorer(ScoreInputs(learner_ce, reference_ce, valid_bs))
        if scores.ndim == 2:
            scores = expand(scores, self.heads, self.weight_config.decay)
        return scores

    def _reference_ce(self, batch: Batch, targets_bs: Tensor, valid_bs: Tensor) -> Tensor:
        if batch.reference_ce is not None:
            return shift_left(batch.reference_ce)
        if self.reference is None:
            raise WMTPError(
                f"scorer {self.recipe.train.scorer_name!r} needs a reference: set model.ref_id or "
                f"data.reference_scores"
            )
        with self._autocast(batch.ids.device):
            hidden = next_token_hidden(self.reference, batch)
        return self._ce(hidden, self.reference.get_output_embeddings().weight, targets_bs, valid_bs)

    def _ce(self, hidden: Tensor, unembedding: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        ce = linear_cross_entropy_per_token(
            hidden.to(self.compute_dtype).flatten(0, -2),
            unembedding,
            targets.flatten(),
            where=valid.flatten(),
            chunk_size=self.recipe.loss.chunk_size,
        )
        return ce.view(targets.shape)

    def _all_heads(self, trunk: TrunkOutput, hidden_0: Tensor) -> Tensor:
        heads = [hidden_0, *(self.model.head(trunk, h) for h in range(1, self.heads))]
        return torch.stack(heads, dim=2).to(self.compute_dtype)

    def _trunk(self, batch: Batch) -> TrunkOutput:
        return self.model.trunk(
            batch.ids, mask=document_mask(batch.document_ids), position_ids=batch.position_ids
        )

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.compute_dtype is torch.bfloat16)
