"""Stage 1 of critic training: a value function learnt from the rewards of whole sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.func import functional_call

from wmtp.config import CriticConfig, Recipe
from wmtp.critic.model import Critic, head_inputs
from wmtp.critic.value_metrics import auc, expected_calibration_error, explained_variance
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch, Columns, in_order
from wmtp.data.targets import has_next, is_last, shift_left
from wmtp.distributed.parallel import full, reshard
from wmtp.distributed.world import World, all_gather_ragged, all_reduce, world_size
from wmtp.environment import autocast
from wmtp.metrics import finite
from wmtp.weighting.advantage import document_means, monte_carlo_targets, value_targets

EXPLOSION = 1e4
"""A value this many times the largest reward makes the step's loss NaN, so that the step is skipped."""


@dataclass(frozen=True)
class Labelled:
    """Documents with the reward of each.

    documents: the tokens; columns: `rewards` by token; pairs: [pairs, 2] documents, the better one first.
    """

    documents: TokenDataset
    columns: Columns
    pairs: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class ValueOutput:
    """Result of one micro-batch: its share of the loss, and its values where they are learnt, [n]."""

    loss: Tensor
    values: Tensor

    @property
    def nonfinite_scores(self) -> Tensor:
        """Values are no scores."""
        return torch.zeros((), device=self.values.device)


class ValueLearner(nn.Module):
    """Learns V(h_t) where it is used: after the prompt, and after every token of the completion.

    gae          (V - V̂)² with V̂ = Â + V' of a copy V' of the head, refreshed every `critic.refresh_every` steps
    monte-carlo  (V - γ^n R)² with n the tokens still to come
    pairwise     -log σ(m⁺ - m⁻) + c (m⁺ + m⁻)² with the mean values of a better and a worse answer to one prompt
                 (Bradley and Terry 1952; centred as in Eisenstein et al. 2023, so that answers to other prompts
                 compare too)

    The mean over positions, or pairs, of all ranks and micro-batches of the step. With a backbone that is trained
    too, the copy is of the head alone and reads the present hidden states.
    """

    def __init__(
        self, critic: Critic, recipe: Recipe, *, compute_dtype: torch.dtype, group: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.model = critic
        self.recipe = recipe
        self.compute_dtype = compute_dtype
        self.group = group
        self._target_head = self._head_copy()

    @property
    def config(self) -> CriticConfig:
        """`critic:` in the recipe."""
        return self.recipe.critic

    def prepare(self, batches: Sequence[Batch], step: int) -> list[dict[str, Any]]:
        """Count the step's positions, or pairs, and renew the copy of the head when it is due."""
        if self.config.objective == "gae" and step % self.config.refresh_every == 0:
            for name, value in self._head_copy().items():
                self._target_head[name] = value
        counts = torch.stack([self._terms(batch) for batch in batches]).sum()
        terms = all_reduce(counts, self.group).clamp(min=1)
        return [{"terms": terms}] * len(batches)

    def forward(self, batch: Batch, *, terms: Tensor) -> ValueOutput:
        """The micro-batch's share of the step's loss; `terms` is the number of positions or pairs of all of them."""
        learnt_bs = learnt_positions(batch)
        with autocast(batch.ids.device, self.compute_dtype):
            inputs = head_inputs(batch, self.model.hidden(batch), self.model.embeddings(batch))
            values_bs = self.model.head(*inputs)
        if self.config.objective == "pairwise":
            means, squares = (
                document_means(x_bs, batch.document_ids, learnt_bs)[0]
                for x_bs in (values_bs, values_bs.square())
            )
            better, worse = means[::2], means[1::2]
            loss = nn.functional.softplus(worse - better).sum() + self.config.shrinkage * squares.sum()
        else:
            targets_bs = self._targets(batch, inputs)
            loss = (values_bs - targets_bs).square().where(learnt_bs, 0.0).sum()
        values = values_bs.detach()[learnt_bs]
        largest_reward = batch.columns["rewards"].nan_to_num().abs().amax().clamp(min=1)
        exploded = (values.abs() > EXPLOSION * largest_reward).any()
        loss = loss * (world_size(self.group) / terms)
        return ValueOutput(loss.where(~exploded, torch.nan), values)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """[B, S] float32."""
        with autocast(batch.ids.device, self.compute_dtype):
            found: Tensor = self.model(batch)
        return found

    @torch.no_grad()
    def statistics(self, outputs: Sequence[ValueOutput]) -> dict[str, Any]:
        """Mean and standard deviation of the values."""
        values = torch.cat([o.values for o in outputs]).double()
        sums = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
        count, total, squares = all_reduce(sums, self.group).tolist()
        mean = total / max(count, 1.0)
        deviation = max(squares / max(count, 1.0) - mean**2, 0.0) ** 0.5
        return {"value_mean": finite(mean), "value_std": finite(deviation)}

    def validate(self, held_out: Labelled, world: World, alive: Callable[[], None]) -> dict[str, Any]:
        """How well values of held-out documents separate good ones from bad: `value_metrics`."""
        means, lasts, rewards = self._by_document(held_out, world, alive)
        if not (np.abs([means, lasts]) <= EXPLOSION * max(1.0, np.abs(rewards).max())).all():
            # Their order may still look good by chance, and the head is of no use.
            means = lasts = np.full_like(rewards, np.nan)
        return value_metrics(means, lasts, rewards, are_rewards=self.config.objective != "pairwise")

    def criterion(self, validation: dict[str, Any]) -> float:
        """1 - AUC."""
        found = validation["auc"]
        return float("nan") if found is None else 1.0 - float(found)

    def state(self) -> dict[str, Tensor]:
        """The copy of the head."""
        return {f"target_head.{name}": value for name, value in self._target_head.items()}

    @torch.no_grad()
    def _by_document(
        self, held_out: Labelled, world: World, alive: Callable[[], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[documents] each: values on average and at the end, and rewards."""
        self.eval()
        length, rows = self.recipe.data.sequence_length, self.recipe.train.rows_at_once
        found = [torch.zeros(0, 3, dtype=torch.float64, device=world.device)]
        for batch in in_order(held_out.documents, length, rows, held_out.columns, world.rank, world.size):
            alive()
            batch = batch.to(world.device)
            values_bs, learnt_bs = self.values(batch), learnt_positions(batch)
            last_bs, rewards_bs = is_last(batch.document_ids), batch.columns["rewards"]
            chosen = [(values_bs, learnt_bs), (values_bs, last_bs), (rewards_bs, last_bs)]
            columns = [document_means(x_bs, batch.document_ids, where_bs)[0] for x_bs, where_bs in chosen]
            found.append(torch.stack(columns, dim=1).double())
        reshard(self)
        self.train()
        gathered = torch.cat(all_gather_ragged(torch.cat(found), world.group))
        means, lasts, rewards = gathered.cpu().numpy().T
        return means, lasts, rewards

    def _targets(self, batch: Batch, inputs: tuple[Tensor, ...]) -> Tensor:
        rewards_bs, config = batch.columns["rewards"], self.config
        if config.objective == "monte-carlo":
            return monte_carlo_targets(rewards_bs, batch.document_ids, gamma=config.gamma)
        head = {name: value.to(batch.ids.device) for name, value in self._target_head.items()}
        with torch.no_grad():
            values_bs = functional_call(self.model.head, head, inputs)
        return value_targets(
            rewards_bs, values_bs, batch.document_ids, gamma=config.gamma, gae_lambda=config.gae_lambda
        )

    def _terms(self, batch: Batch) -> Tensor:
        if self.config.objective == "pairwise":
            return is_last(batch.document_ids).sum() / 2
        return learnt_positions(batch).sum().float()

    def _head_copy(self) -> dict[str, Tensor]:
        return {name: full(p.detach()).clone() for name, p in self.model.head.named_parameters()}


def learnt_positions(batch: Batch) -> Tensor:
    """[B, S] bool: where a supervised token of the same document follows, and each document's last token."""
    is_next_learnt = has_next(batch.document_ids) & shift_left(batch.supervised)
    return is_next_learnt | is_last(batch.document_ids)


def value_metrics(
    means: np.ndarray, lasts: np.ndarray, rewards: np.ndarray, *, are_rewards: bool
) -> dict[str, float | None]:
    """Of held-out documents; good ones are those whose reward lies above the mean. None where it is undefined.

    auc, auc_last: chance that a good document has a higher mean, or last, value than a bad one; explained_variance,
    calibration (expected calibration error): of the last values as predictions of the reward.

    Args:
        means, lasts, rewards: [documents].
        are_rewards: whether the values are on the rewards' scale; else the last two are undefined.
    """
    good = rewards > rewards.mean()
    are_chances = are_rewards and bool(((rewards >= 0) & (rewards <= 1)).all())
    found = {
        "auc": auc(means, good),
        "auc_last": auc(lasts, good),
        "explained_variance": explained_variance(lasts, rewards) if are_rewards else np.nan,
        "calibration": expected_calibration_error(lasts.clip(0, 1), rewards) if are_chances else np.nan,
    }
    return {name: finite(value) for name, value in found.items()}
