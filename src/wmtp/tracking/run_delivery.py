"""One directory's delivery to its MLflow run: whatever is there and MLflow does not have yet."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wmtp.layout import (
    COMPARISON_FILE,
    CONFIG_FILE,
    CRITIC_FILE,
    DATA_FILE,
    DIAGNOSIS_FILE,
    ENVIRONMENT_FILE,
    EVALUATIONS,
    HEATMAP_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    SYSTEM_FILE,
)
from wmtp.storage import read_json, sha256_file
from wmtp.tracking import names
from wmtp.tracking.ledger import (
    Ledger,
    Tail,
    is_new,
    load_ledger,
    parent_of,
    run_id_of,
    save_ledger,
)
from wmtp.tracking.store import Store, has_code, milliseconds

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

METRICS_PER_BATCH = 1000
ENTRIES_PER_BATCH = 100
KEY_TAG = "wmtp.key"
CHANGED = "changed."

ARTIFACTS = (
    RECIPE_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    DATA_FILE,
    REPORT_FILE,
    COMPARISON_FILE,
    HEATMAP_FILE,
    CRITIC_FILE,
    DIAGNOSIS_FILE,
    EVALUATIONS,
    "samples/*.jsonl",
)
READ = (RECIPE_FILE, ENVIRONMENT_FILE, COMPARISON_FILE, EVALUATIONS)
"""Files whose content becomes parameters, tags or metrics."""


class RunDelivery:
    """Delivers a run, or a comparison without the runs below it.

    `deliver` may fail or be killed at any point: whoever calls it next, in this process or another, goes on from what
    MLflow has. The caller holds `sole_deliverer`.

    Args:
        run_id: MLflow run to continue where the directory does not say.
        commit: git commit for a run that is created.
    """

    def __init__(
        self, directory: Path, store: Store, run_id: str | None = None, commit: str | None = None
    ) -> None:
        self._directory = directory
        self._store = store
        self._client = store.client
        self._given_run_id = run_id
        self._commit = commit
        self._ledger = Ledger()
        self._attached = False
        self._tails = [Tail(directory / METRICS_FILE), Tail(directory / SYSTEM_FILE)]
        self.records = 0
        self.files = 0

    def deliver(self, status: str | None = None) -> None:
        """Deliver what is new.

        Args:
            status: of the MLflow run; None finds it out from the files.
        """
        self._ledger = load_ledger(self._directory) or Ledger(run_id=self._given_run_id, commit=self._commit)
        try:
            if not self._attached or self._ledger.run_id is None:
                self._attach()
            self._join_parent()
            self._read_files()
            self._send_records()
            self._send_status(status or self._settled_status())
            self._upload_files()
        except Exception:
            self._attached = False
            for tail in self._tails:
                tail.rewind()
            raise

    @property
    def _run_id(self) -> str:
        assert self._ledger.run_id is not None
        return self._ledger.run_id

    def _save(self) -> None:
        save_ledger(self._directory, self._ledger)

    def _attach(self) -> None:
        """Find the MLflow run, or create it; learn which steps it has."""
        found = self._find()
        if found is None:
            if self._ledger.run_id is not None:
                self._ledger = self._ledger.undelivered()
            self._save()  # the key, before a run with it can exist
            found = self._create()
        self._ledger.run_id = found.info.run_id
        self._ledger.steps = _last_steps(found)
        self._save()
        self._attached = True

    def _find(self) -> "Run | None":
        if self._ledger.run_id is not None:
            try:
                found = self._client.get_run(self._ledger.run_id)
            except Exception as error:
                if not has_code(error, "RESOURCE_DOES_NOT_EXIST"):
                    raise
                return None
            return found if found.info.lifecycle_stage == "active" else None
        same_key = f"tags.`{KEY_TAG}` = '{self._ledger.key}'"
        matching = self._client.search_runs([self._store.experiment_id], same_key, max_results=1)
        return matching[0] if matching else None

    def _create(self) -> "Run":
        first = next(Tail(self._directory / METRICS_FILE).read(), {})
        tags = {KEY_TAG: self._ledger.key}
        if self._ledger.commit is not None:
            tags["mlflow.source.git.commit"] = self._ledger.commit
        return self._client.create_run(
            self._store.experiment_id,
            start_time=milliseconds(first.get("time", time.time())),
            tags=tags,
            run_name=self._directory.resolve().name,
        )

    def _join_parent(self) -> None:
        parent = parent_of(self._directory)
        parent_id = run_id_of(parent) if parent else None
        if parent is None or parent_id is None or parent_id == self._ledger.parent_id:
            return
        name = self._directory.resolve().relative_to(parent).as_posix().removeprefix("arms/")
        self._client.update_run(self._run_id, name=name)
        self._client.set_tag(self._run_id, "mlflow.parentRunId", parent_id)
        self._ledger.parent_id = parent_id
        self._save()

    def _send_records(self) -> None:
        steps = dict(self._ledger.steps)
        batch: list[Metric] = []
        count = 0
        for record in (record for tail in self._tails for record in tail.read()):
            if not is_new(record, steps):
                continue
            metrics = self._metrics(names.record_metrics(record), record["step"], record.get("time"))
            if len(batch) + len(metrics) > METRICS_PER_BATCH:
                self._send_batch(batch, steps, count)
                batch, count = [], 0
            steps[record["kind"]] = record["step"]
            batch += metrics
            count += 1
        self._send_batch(batch, steps, count)

    def _send_batch(self, batch: "list[Metric]", steps: Mapping[str, int], count: int) -> None:
        if count:
            self._client.log_batch(self._run_id, metrics=batch)
            self._ledger.steps = dict(steps)
            self._save()
            self.records += count

    def _metrics(self, values: Mapping[str, float], step: int, seconds: float | None) -> "list[Metric]":
        from mlflow.entities import Metric

        timestamp = milliseconds(time.time() if seconds is None else seconds)
        return [Metric(name, value, timestamp, step) for name, value in values.items()]

    def _read_files(self) -> None:
        for name, path, checksum in self._changed(READ, self._ledger.read):
            if name == RECIPE_FILE:
                self._send_recipe(yaml.safe_load(path.read_text(encoding="utf-8")))
            elif name == ENVIRONMENT_FILE:
                self._send_tags({f"environment.{key}": str(value) for key, value in read_json(path).items()})
            else:
                self._send_results(path)
            self._ledger.read[name] = checksum
            self._save()

    def _send_recipe(self, recipe: dict[str, Any]) -> None:
        """Log parameters; MLflow's are immutable, so what a resumed run has changed becomes a tag."""
        from mlflow.entities import Param

        wanted = names.flatten(recipe)
        known = self._client.get_run(self._run_id).data
        fresh = [Param(key, value) for key, value in wanted.items() if key not in known.params]
        for start in range(0, len(fresh), ENTRIES_PER_BATCH):
            self._client.log_batch(self._run_id, params=fresh[start : start + ENTRIES_PER_BATCH])
        latest = {key: known.tags.get(CHANGED + key, value) for key, value in known.params.items()}
        self._send_tags(
            {CHANGED + key: value for key, value in wanted.items() if latest.get(key, value) != value}
            | _recipe_tags(recipe)
        )

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(names.clean(key), value[: names.TAG_LENGTH]) for key, value in tags.items()]
        for start in range(0, len(entries), ENTRIES_PER_BATCH):
            self._client.log_batch(self._run_id, tags=entries[start : start + ENTRIES_PER_BATCH])

    def _send_results(self, path: Path) -> None:
        result = read_json(path)
        is_comparison = path.name == "comparison.json"
        values = names.comparison_metrics(result) if is_comparison else names.evaluation_metrics(result)
        step = result["steps"] if is_comparison else _checkpoint_step(result.get("checkpoint", ""))
        metrics = self._metrics(values, step, path.stat().st_mtime)
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_PER_BATCH])

    def _upload_files(self) -> None:
        for name, path, checksum in self._changed(ARTIFACTS, self._ledger.uploaded):
            folder = Path(name).parent.as_posix()
            self._client.log_artifact(self._run_id, str(path), None if folder == "." else folder)
            self._ledger.uploaded[name] = checksum
            self._save()
            self.files += 1

    def _changed(
        self, patterns: Iterable[str], delivered: Mapping[str, str]
    ) -> Iterator[tuple[str, Path, str]]:
        """Name, path and checksum of the files that differ from what was delivered."""
        for pattern in patterns:
            for path in sorted(self._directory.glob(pattern)):
                name = path.relative_to(self._directory).as_posix()
                checksum = sha256_file(path)
                if delivered.get(name) != checksum:
                    yield name, path, checksum

    def _send_status(self, status: str) -> None:
        if status == self._ledger.status:
            return
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
        else:
            self._client.set_terminated(self._run_id, status, milliseconds(self._last_change()))
        self._ledger.status = status
        self._save()

    def _settled_status(self) -> str:
        """Of a training that nobody vouches for: it is complete, or it said how it ended, or it was killed."""
        return "FINISHED" if self._is_complete() else self._ledger.outcome or "KILLED"

    def _is_complete(self) -> bool:
        if not (self._directory / METRICS_FILE).exists():
            return (self._directory / "comparison.json").exists()
        recipe = yaml.safe_load((self._directory / RECIPE_FILE).read_text(encoding="utf-8"))
        return bool(self._ledger.steps.get("train", 0) >= recipe["train"]["steps"])

    def _last_change(self) -> float:
        return max(
            path.stat().st_mtime for path in self._directory.iterdir() if not path.name.startswith(".")
        )


def _last_steps(run: "Run") -> dict[str, int]:
    """The last step that MLflow has of each kind of record; a record never stands in two batches."""
    steps: dict[str, int] = {}
    for metric in run.to_proto().data.metrics:
        kind = metric.key.partition("/")[0]
        steps[kind] = max(steps.get(kind, -1), metric.step)
    return steps


def _recipe_tags(recipe: Mapping[str, Any]) -> dict[str, str]:
    from wmtp.config import ALGORITHMS

    train = recipe["train"]
    return {
        "algo": train["algo"],
        "scorer": train.get("scorer") or ALGORITHMS[train["algo"]],
        "control": train.get("control") or "none",
        "seed": str(recipe["seed"]),
    }


def _checkpoint_step(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
