"""Steps small enough to go through every scorer: a module in float64, and documents packed in any way."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ranks import RECIPE
from wmtp.config import Recipe, override
from wmtp.critic.model import Critic
from wmtp.critic.value_head import ValueHead
from wmtp.data.dataset import Document, TokenDataset, tokenise
from wmtp.data.loader import Batch, Columns, collate
from wmtp.data.tokenizer import train_tokenizer
from wmtp.model.build import build_model
from wmtp.model.modeling import MTPForCausalLM
from wmtp.train.module import StepOutput, WeightedMTP

LENGTH = 48
STEPS = 3
COLUMNS = ("reference_ce", "rewards", "advantages")
BLEND = {
    "rho1-excess-v1": 1.0,
    "entropy-v1": {"start": 0.0, "end": 2.0},
    "critic-gae-v1": 0.5,
    "learned-v1": {"start": 1.0, "end": 0.1, "kind": "cosine"},
}

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Small:
    """Documents with something known of each token, a model that was drawn at random, and clean rows."""

    recipe: Recipe
    documents: TokenDataset
    columns: Columns
    model: MTPForCausalLM
    critic: Critic
    clean: Batch

    def batch(self, rows: Rows, length: int = LENGTH) -> Batch:
        """These rows, of these documents each."""
        return collate(self.documents, rows, length, self.columns)

    def module(
        self,
        scorer: str,
        *,
        group: ProcessGroup | None = None,
        own_model: bool = False,
        blend: Mapping[str, Any] = BLEND,
        **changes: Any,
    ) -> WeightedMTP:
        """A new module, training; with a model of its own if that will learn."""
        named = {"name": scorer} | ({"parts": blend} if scorer == "blend" else {})
        settings = {"scorer": named, "train.steps": STEPS, **changes}
        module = WeightedMTP(
            copy.deepcopy(self.model) if own_model else self.model,
            override(self.recipe, settings, "test"),
            compute_dtype=torch.float64,
            critic=self.critic,
            clean=lambda _: self.clean,
            group=group,
        )
        assert module.training
        return module

    def by_token(self, values: Tensor, batches: Sequence[Batch], valid: Tensor | None = None) -> Tensor:
        """Values [B, S, …] of all micro-batches to [tokens, …], NaN where a token has none or is not valid."""
        keys = torch.cat([b.token_keys for b in batches])
        out = values.new_full((len(self.documents.tokens), *values.shape[2:]), torch.nan)
        out[keys[keys >= 0]] = (values if valid is None else values.where(valid, torch.nan))[keys >= 0]
        return out


def make_small(cache: Path, seed: int = 0) -> Small:
    """The same on every process that has this cache."""
    rng = np.random.default_rng(seed)
    texts = [
        Document(f"add {i}: " if i % 4 else "", f"{i} is {i + 1}" + " so" * int(rng.integers(0, 9)))
        for i in range(30)
    ]
    tokenizer = train_tokenizer([d.prompt + d.completion for d in texts], 300, cache)
    documents = tokenise(texts, tokenizer, LENGTH, "error")
    lengths, tokens = documents.lengths, len(documents.tokens)
    columns = {
        "reference_ce": rng.exponential(2, tokens).astype(np.float16),
        "rewards": np.repeat(rng.integers(0, 2, len(lengths)), lengths).astype(np.float32),
        "advantages": np.repeat(rng.normal(0, 1.5, len(lengths)), lengths).astype(np.float32),
    }
    recipe = override(RECIPE, {"data.sequence_length": LENGTH}, "test")
    head = ValueHead(recipe.model.hidden_size, seed)
    torch.nn.init.normal_(head.output.weight, generator=torch.Generator().manual_seed(seed))
    return Small(
        recipe,
        documents,
        columns,
        build_model(recipe, tokenizer).double(),
        Critic(head, None, reads_trunk=True).eval().requires_grad_(False),
        collate(documents, [[3, 5], [11]], LENGTH),
    )


def run_step(module: WeightedMTP, batches: Sequence[Batch], step: int = 0) -> list[StepOutput]:
    """As the trainer goes through the micro-batches of a step, up to the loss."""
    prepared = module.prepare(batches, step)
    return [module(batch, **arguments) for batch, arguments in zip(batches, prepared, strict=True)]


def together(outputs: Sequence[StepOutput], name: str) -> Tensor:
    """A field of all micro-batches."""
    return torch.cat([getattr(o, name) for o in outputs])


def learn(module: WeightedMTP, outputs: Sequence[StepOutput], lr: float = 0.5) -> None:
    """Gradient descent, gradients averaged over ranks."""
    module.zero_grad()
    for output in outputs:
        output.loss.backward()
    with torch.no_grad():
        for parameter in module.model.parameters():
            if parameter.grad is None:
                continue
            if module.group is not None:
                dist.all_reduce(parameter.grad, group=module.group)
                parameter.grad /= dist.get_world_size(module.group)
            parameter -= lr * parameter.grad


def weights_of(small: Small, module: WeightedMTP, batches: Sequence[Batch], step: int = 0) -> Tensor:
    """[tokens, H]: by the token at s and the head, NaN where not valid."""
    outputs = run_step(module, batches, step)
    return small.by_token(together(outputs, "weights_bsh"), batches, together(outputs, "valid_bsh"))


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state as it is now."""
    return {name: tensor.clone() for name, tensor in state.items()}
