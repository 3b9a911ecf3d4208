"""The one training loop."""

import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from wmtp.config import to_dict
from wmtp.data.dataset import TokenDataset
from wmtp.data.loader import Batch, Loader
from wmtp.errors import WMTPError
from wmtp.progress import describe_step, progress
from wmtp.tracking import MetricsLog
from wmtp.train import checkpoint
from wmtp.train.distributed import all_reduce, world_size
from wmtp.train.module import StepOutput, WeightedMTP
from wmtp.train.optim import learning_rate, make_optimizer, set_learning_rate
from wmtp.train.signals import Stopped, StopRequest
from wmtp.train.validation import validation_ce
from wmtp.weighting.weights import weight_statistics

_STATISTICS = {
    "mean": "weight_mean",
    "entropy": "weight_entropy",
    "effective": "weight_effective",
    "nonfinite_scores": "nonfinite_scores",
}


@dataclass
class Counters:
    """What a run has done so far; saved with it.

    seconds: of training alone, without validation and saving; tokens: without padding, over all ranks.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    bad_in_a_row: int = 0


class Trainer:
    """Trains a `WeightedMTP` module and keeps a run directory."""

    def __init__(
        self,
        module: WeightedMTP,
        loader: Loader,
        validation: TokenDataset,
        tokenizer: PreTrainedTokenizerFast,
        run: Path,
        device: torch.device,
    ) -> None:
        self.module = module.to(device)
        self.recipe = module.recipe
        self.loader = loader
        self.validation = validation
        self.tokenizer = tokenizer
        self.run = run
        self.device = device
        self.group = module.group
        if self.recipe.train.gradient_checkpointing:
            module.model.enable_checkpointing()
        self.optimizer = make_optimizer(module.model, self.recipe.train)
        self.counters = Counters()
        self.metrics = MetricsLog(run)

    def fit(self, title: str) -> None:
        """Train to the last step, saving and validating on the way.

        Raises:
            Stopped: by SIGINT or SIGTERM, after saving.
            WMTPError: too many steps in a row with a non-finite loss or gradient.
        """
        train = self.recipe.train
        self.module.train()
        self._catch_up_validation()
        with StopRequest() as stop, progress(title, train.steps) as update:
            while self.counters.step < train.steps:
                record = self._step([batch.to(self.device) for batch in next(self.loader)])
                if record is not None:
                    self.metrics.write(record)
                    update(self.counters.step, describe_step(record))
                if stop.signum is not None:
                    raise Stopped(stop.signum, str(self.save()))
                self._save_and_validate()

    def _save_and_validate(self) -> None:
        if self._is_due(self.recipe.train.save_every):
            self.save()
        if self._is_due(self.recipe.train.validate_every):
            self._validate()

    def _is_due(self, every: int) -> bool:
        step = self.counters.step
        return step > 0 and (step % every == 0 or step == self.recipe.train.steps)

    def _validate(self) -> None:
        ce = validation_ce(self.module, self.validation, self.device)
        self.metrics.write({"kind": "validation", **self._position(), "ce": ce})

    def _catch_up_validation(self) -> None:
        """Validate where a run that was stopped between saving and validating goes on."""
        done = any(r["kind"] == "validation" and r["step"] == self.counters.step for r in self.metrics)
        if self._is_due(self.recipe.train.validate_every) and not done:
            self._validate()

    def save(self) -> Path:
        """Write a checkpoint from which `restore` continues as if nothing had happened."""
        state = {
            "counters": asdict(self.counters),
            "loader": self.loader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "recipe": to_dict(self.recipe),
        }
        keep = self.recipe.train.keep_checkpoints
        return checkpoint.save(self.run, self.counters.step, self.module.model, self.tokenizer, state, keep)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; the model's weights have been loaded already."""
        self.counters = Counters(**state["counters"])
        self.loader.load_state_dict(state["loader"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.metrics.rewind(self.counters.step)

    def _step(self, batches: Sequence[Batch]) -> dict[str, Any] | None:
        """One optimiser step; a record of it when it is one to log."""
        started = time.perf_counter()
        counters, train = self.counters, self.recipe.train
        lr = learning_rate(counters.step, train)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self._forward_backward(batches)
        loss = all_reduce(torch.stack([o.loss.detach() for o in outputs]).sum(), self.group)
        loss_value = float(loss) / world_size(self.group)
        gradients = [p.grad for p in self.module.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm_value = float(norm)
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            torch.nn.utils.clip_grads_with_norm_(self.module.model.parameters(), train.grad_clip, norm)
            self.optimizer.step()
            counters.bad_in_a_row = 0
        else:
            self._skip(loss_value)
        tokens = int(all_reduce(torch.tensor(sum(b.tokens for b in batches)), self.group))
        counters.step += 1
        counters.tokens += tokens
        seconds = time.perf_counter() - started
        counters.seconds += seconds
        if counters.step % train.log_every and counters.step not in (1, train.steps):
            return None
        return {
            "kind": "train",
            **self._position(),
            "loss": _finite(loss_value),
            **self._statistics(outputs),
            "grad_norm": _finite(norm_value),
            "lr": lr,
            "tokens_per_second": tokens / seconds,
            "memory_mib": self._memory_mib(),
            "skipped_steps": counters.skipped_steps,
        }

    def _forward_backward(self, batches: Sequence[Batch]) -> list[StepOutput]:
        step = self.counters.step
        valid = [self.module.targets(b)[1] for b in batches]
        count = torch.stack([v.sum() for v in valid]).sum()
        valid_entries = all_reduce(count, self.group).clamp(min=1)
        scores: Sequence[Tensor | None] = [None]
        weights: Sequence[Tensor | None] = [None]
        if len(batches) > 1:
            # Weights are normalised over the whole step, so all of it is scored before any of it is learnt.
            found = [self.module.scores(b) for b in batches]
            scores, weights = found, self.module.weigh(found, valid, batches, step)
        outputs = []
        for batch, scores_bsh, weights_bsh in zip(batches, scores, weights, strict=True):
            output: StepOutput = self.module(
                batch,
                step=step,
                valid_entries=valid_entries,
                scores_bsh=scores_bsh,
                weights_bsh=weights_bsh,
            )
            output.loss.backward()
            outputs.append(output)
        return outputs

    def _skip(self, loss: float) -> None:
        counters, train = self.counters, self.recipe.train
        counters.skipped_steps += 1
        counters.bad_in_a_row += 1
        if counters.bad_in_a_row < train.max_bad_steps:
            return
        saved = checkpoint.checkpoints(self.run)
        good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        raise WMTPError(
            f"{counters.bad_in_a_row} steps in a row (train.max_bad_steps) had a non-finite loss or gradient, "
            f"the last at step {counters.step} with loss {loss}; {good}; try a lower train.lr"
        )

    def _position(self) -> dict[str, Any]:
        counters = self.counters
        return {"step": counters.step, "tokens": counters.tokens, "seconds": round(counters.seconds, 3)}

    @torch.no_grad()
    def _statistics(self, outputs: Sequence[StepOutput]) -> dict[str, Any]:
        """Cross-entropy per head (None where not every valid entry was computed) and weights, over all ranks."""
        ce, valid, scores, weights = (
            torch.cat([getattr(o, name) for o in outputs])
            for name in ("ce_bsh", "valid_bsh", "scores_bsh", "weights_bsh")
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
        found = weight_statistics(weights, valid, scores, self.group)
        return {
            "ce": [total / n if n == wanted > 0 else None for total, n, wanted in totals],
            **{_STATISTICS[k]: float(v) for k, v in found.items()},
        }

    def _memory_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
