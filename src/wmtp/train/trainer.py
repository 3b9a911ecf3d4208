"""The one training loop."""

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import ReduceOp

from wmtp.checkpoint.writer import CheckpointWriter
from wmtp.config import to_dict
from wmtp.data.loader import Batch, Loader
from wmtp.distributed.parallel import accumulating, full
from wmtp.distributed.world import all_reduce
from wmtp.environment import dtype_name
from wmtp.errors import WMTPError, is_out_of_memory
from wmtp.metrics import MetricsLog, finite
from wmtp.progress import describe_step, progress
from wmtp.train.context import TrainContext, last_saved
from wmtp.train.optim import learning_rate, make_optimizer, set_learning_rate
from wmtp.train.rehearsal import Rehearsal
from wmtp.train.resume import Start
from wmtp.train.signals import STOPPING, Stopped
from wmtp.train.state import (
    Counters,
    memory_tensors,
    optimizer_tensors,
    restore_training,
    rng_tensors,
    trained_parameters,
)
from wmtp.train.trainable import Output, Trainable


class Trainer:
    """Trains a module and keeps a run directory.

    Args:
        parallel: what to call for a step: the module itself, sharded or not, or its replicas' wrapper.
        held_out: what the module validates on.
        write_configuration: writes config.json into a checkpoint's folder.
        on_best: called on every rank after a validation that is the best so far.
        patience: end after so many validations in a row that are not.
    """

    def __init__(
        self,
        module: Trainable,
        parallel: nn.Module,
        loader: Loader,
        held_out: Any,
        context: TrainContext,
        *,
        write_configuration: Callable[[Path], None],
        on_best: Callable[[], None] | None = None,
        patience: int | None = None,
    ) -> None:
        self.module = module
        self.parallel = parallel
        self.recipe = module.recipe
        self.loader = loader
        self.held_out = held_out
        self.context = context
        self.run = context.run
        self.world = context.world
        self.write_configuration = write_configuration
        self.on_best = on_best
        self.patience = patience
        train = self.recipe.train
        self.optimizer = make_optimizer(module.model, train)
        self.counters = Counters()
        self.metrics = MetricsLog(self.run)
        self.writer = CheckpointWriter(
            self.run,
            keep=train.keep_checkpoints,
            keep_every=train.keep_every,
            in_background=train.async_save,
            group=self.world.saving_group,
        )
        self.rehearsal = Rehearsal(
            self._attempt, self._release, train.rows_at_once, train.batch_size // self.world.size, self.world
        )

    def fit(self, title: str) -> None:
        """Train to the last step, saving and validating on the way.

        Raises:
            Stopped: by a signal to any rank, after saving.
            WMTPError: too many steps in a row with a non-finite loss or gradient.
        """
        steps = self.recipe.train.steps
        self.parallel.train()
        self._catch_up_validation()
        if not self._is_done:
            self.rehearsal.run()
        with progress(title, steps) as update:
            while not self._is_done:
                self._at("data")
                asked = time.perf_counter()
                batches = [batch.to(self.world.device) for batch in next(self.loader)]
                record, signum = self._step_in_memory(batches, time.perf_counter() - asked)
                if record is not None:
                    self._write(record)
                    update(self.counters.step, describe_step(record))
                if signum is not None:
                    self.context.stop.request(signum)
                    self.save()
                    raise Stopped(signum, str(self.writer.wait()))
                self._save_and_validate()
        self._at("save")
        self.writer.wait()

    @property
    def _is_done(self) -> bool:
        is_stale = self.patience is not None and self.counters.stale_validations >= self.patience
        return is_stale or self.counters.step >= self.recipe.train.steps

    def _save_and_validate(self) -> None:
        is_saved = self._is_due(self.recipe.train.save_every)
        if is_saved:
            self.save()
        if self._is_due(self.recipe.train.validate_every):
            self._validate()
        if self._is_done and not is_saved:
            self.save()

    def _is_due(self, every: int) -> bool:
        step = self.counters.step
        return step > 0 and (step % every == 0 or step == self.recipe.train.steps)

    def _validate(self) -> None:
        found = self.module.validate(self.held_out, self.world, lambda: self._at("validate"))
        self._take_note(self.module.criterion(found))
        self._write({"kind": "validation", **self._position(), **found})

    def _take_note(self, criterion: float) -> None:
        if self.counters.validated(criterion) and self.on_best is not None:
            self.on_best()

    def _catch_up_validation(self) -> None:
        """Validate where a run that was stopped between saving and validating goes on."""
        if not self._is_due(self.recipe.train.validate_every):
            return
        step = self.counters.step
        done = [r for r in self.metrics if r["kind"] == "validation" and r["step"] == step]
        found = (0.0, 0.0) if not done or not self.world.is_first else (1.0, self.module.criterion(done[-1]))
        is_done, criterion = all_reduce(torch.tensor(found, dtype=torch.float64), self.world.group).tolist()
        if is_done:
            self._take_note(criterion)
        else:
            self._validate()

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.is_first:
            self.metrics.write(record)

    def _at(self, phase: str) -> None:
        self.context.heartbeat.at(self.counters.step, phase)

    def save(self) -> None:
        """Write a checkpoint from which `begin_at` continues as if nothing had happened."""
        self._at("save")
        model = self.module.model
        self.writer.save(
            self.counters.step,
            model=trained_parameters(model),
            training=optimizer_tensors(model, self.optimizer)
            | memory_tensors(self.module)
            | rng_tensors(self.world),
            state={
                "counters": asdict(self.counters),
                "loader": self.loader.state_dict(),
                "recipe": to_dict(self.recipe),
                "world_size": self.world.size,
                "precision": dtype_name(self.module.compute_dtype),
                "mlflow_run_id": self.context.follower.run_id,
            },
            files=self._write_files,
        )

    def _write_files(self, folder: Path) -> None:
        self.write_configuration(folder)
        self.context.tokenizer.save_pretrained(folder)

    def begin_at(self, start: Start | None) -> None:
        """Begin, or continue from a checkpoint; the model's weights have been loaded already.

        The records of later steps are forgotten: they will be written again.
        """
        if start is not None:
            self.counters = Counters(**start.state["counters"])
            self.loader.load_state_dict(start.state["loader"])
            restore_training(start.path, self.module, self.optimizer, self.world)
        if self.world.is_first:
            self.metrics.rewind(self.counters.step)

    def _step_in_memory(
        self, batches: Sequence[Batch], data_seconds: float
    ) -> tuple[dict[str, Any] | None, int | None]:
        """A step; if memory runs out, an error that says what would fit."""
        try:
            return self._step(batches, data_seconds)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # which keeps the step's tensors alive
        raise self.rehearsal.advice(failure)

    def _attempt(self, rows: int, micro_batches: int) -> None:
        remembered = {name: tensor.clone() for name, tensor in self.module.state().items()}
        batch = self.loader.sample(rows).to(self.world.device)
        outputs = self._forward_backward([batch] * micro_batches)
        self.module.statistics(outputs)
        for name, tensor in self.module.state().items():
            tensor.copy_(remembered[name])

    def _release(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()

    def _step(
        self, batches: Sequence[Batch], data_seconds: float = 0.0
    ) -> tuple[dict[str, Any] | None, int | None]:
        """One optimiser step; a record of it when it is one to log, and a signal if any rank had one.

        Args:
            batches: its micro-batches.
            data_seconds: how long it waited for them.
        """
        started = time.perf_counter()
        self._at("forward")
        counters, train = self.counters, self.recipe.train
        lr = learning_rate(counters.step, train)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self._forward_backward(batches)
        self._at("optimizer")
        loss, tokens, nonfinite_scores, signum = self._agree(outputs, batches)
        norm = self._update(loss)
        counters.step += 1
        counters.tokens += tokens
        counters.nonfinite_scores += nonfinite_scores
        seconds = data_seconds + time.perf_counter() - started
        counters.seconds += seconds
        counters.data_seconds += data_seconds
        if counters.step % train.log_every and counters.step not in (1, train.steps):
            return None, signum
        record = {
            "kind": "train",
            **self._position(),
            "loss": finite(loss),
            **self.module.statistics(outputs),
            "grad_norm": finite(norm),
            "lr": lr,
            "tokens_per_second": tokens / seconds,
            "data_seconds": round(counters.data_seconds, 3),
            "memory_mib": self._memory_mib(),
            "skipped_steps": counters.skipped_steps,
            "nonfinite_scores": counters.nonfinite_scores,
        }
        return record, signum

    def _update(self, loss: float) -> float:
        """Change the parameters, unless the loss or a gradient is not finite; returns the gradient's norm."""
        parameters = list(self.module.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm_value = float(full(norm))
        if math.isfinite(loss) and math.isfinite(norm_value):
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.train.grad_clip, norm)
            self.optimizer.step()
            self.counters.bad_in_a_row = 0
        else:
            self._skip(loss)
        return norm_value

    def _agree(
        self, outputs: Sequence[Output], batches: Sequence[Batch]
    ) -> tuple[float, int, int, int | None]:
        """Of the whole step: loss, tokens, scores that are not finite, and a signal that any rank was sent.

        Every rank gets the same loss, and with it the same gradient norm, so all of them skip a step or none.
        """
        own = torch.stack(
            [
                torch.stack([o.loss.detach() for o in outputs]).sum().double() / self.world.size,
                torch.stack([o.nonfinite_scores for o in outputs]).sum().double(),
            ]
        )
        counts = [sum(b.tokens for b in batches), *(self.context.stop.signum == s for s in STOPPING)]
        rest = torch.tensor(counts, dtype=torch.float64, device=own.device)
        loss, nonfinite, tokens, *stops = all_reduce(torch.cat([own, rest]), self.world.group).tolist()
        signum = next((s for s, count in zip(STOPPING, stops, strict=True) if count), None)
        return loss, int(tokens), int(nonfinite), signum

    def _forward_backward(self, batches: Sequence[Batch]) -> list[Output]:
        outputs = []
        prepared = self.module.prepare(batches, self.counters.step)
        for number, (batch, arguments) in enumerate(zip(batches, prepared, strict=True), start=1):
            with accumulating(self.parallel, is_last=number == len(batches)):
                output: Output = self.parallel(batch, **arguments)
                output.loss.backward()
            outputs.append(output)
        return outputs

    def _skip(self, loss: float) -> None:
        counters, train = self.counters, self.recipe.train
        counters.skipped_steps += 1
        counters.bad_in_a_row += 1
        if counters.bad_in_a_row < train.max_bad_steps:
            return
        self.writer.wait()
        raise WMTPError(
            f"{counters.bad_in_a_row} steps in a row (train.max_bad_steps) had a non-finite loss or gradient, "
            f"the last at step {counters.step} with loss {loss}; {last_saved(self.run)}; try a lower train.lr"
        )

    def _position(self) -> dict[str, Any]:
        counters = self.counters
        return {"step": counters.step, "tokens": counters.tokens, "seconds": round(counters.seconds, 3)}

    def _memory_mib(self) -> float:
        """The peak of the process that had the highest."""
        if self.world.device.type == "cuda":
            own = torch.cuda.max_memory_allocated(self.world.device)
        else:
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
                1 if sys.platform == "darwin" else 2**10
            )
        return float(all_reduce(torch.tensor(own), self.world.group, ReduceOp.MAX)) / 2**20
