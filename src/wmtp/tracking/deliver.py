"""Deliver to MLflow what a directory holds and MLflow does not have yet."""

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wmtp.config import Config, recipe_from
from wmtp.errors import WMTPError
from wmtp.layout import (
    COMPARISON_FILE,
    ENVIRONMENT_FILE,
    EVALUATIONS,
    HEARTBEAT_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    SYSTEM_FILE,
)
from wmtp.storage import read_json, sha256_file
from wmtp.tracking import names
from wmtp.tracking.ledger import LOG_FILE, Ledger, Tail, run_directories, sole_deliverer, waiting_records
from wmtp.tracking.store import Store, refusals_as_one_line

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

REQUEST_TIMEOUT = 30
"""Seconds; somebody waits for this, and large files take a server some time."""
METRICS_PER_BATCH = 1000
ENTRIES_PER_BATCH = 100
KEY_TAG = "wmtp.key"
PARENT_TAG = "mlflow.parentRunId"
PARENT_LEVELS = 3
"""A comparison's runs are `arms/<arm>/seed-<n>` below it."""
CHANGED = "changed."
ARTIFACTS = ("[!.]*.yaml", "[!.]*.json", "[!.]*.html", "samples/*.jsonl")
NO_ARTIFACTS = (LEDGER_FILE, HEARTBEAT_FILE)
"""These change all the time."""


def deliver_all(directory: Path, config: Config) -> list[str]:
    """Deliver a run, or a comparison and the runs in it; returns a line about each.

    Raises:
        WMTPError: it is no run, or MLflow cannot be reached or refuses; what is not delivered stays on disk.
    """
    if not (directory / RECIPE_FILE).exists():
        raise WMTPError(f"{directory}: neither a run nor a comparison (no recipe.yaml)")
    store = Store(config, REQUEST_TIMEOUT)
    try:
        return [_deliver_alone(run, store) for run in run_directories(directory)]
    except WMTPError as error:
        waiting = waiting_records(directory)
        raise WMTPError(f"{error}; {waiting:,} records wait in {directory}") from error


def _deliver_alone(run: Path, store: Store) -> str:
    delivery = RunDelivery(run, store)
    with sole_deliverer(run) as alone:
        if not alone:
            return f"{run}: is being delivered by its own training"
        delivery.deliver()
    return f"{run}: delivered {delivery.records:,} records, {delivery.files:,} files"


class RunDelivery:
    """Delivers a run, or a comparison without the runs below it.

    `deliver` may fail or be killed at any point: whoever calls it next, in this process or another, goes on from what
    MLflow has. The caller holds `sole_deliverer`.
    """

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory = directory
        self._store = store
        self._ledger = Ledger()
        self._run_id = ""
        self.records = 0
        self.files = 0

    def deliver(self, status: str | None = None) -> None:
        """Deliver what is new.

        Args:
            status: of the MLflow run; None finds it out from the files.

        Raises:
            WMTPError: MLflow cannot be reached or refuses.
        """
        self._ledger = Ledger.of(self._directory)
        try:
            with refusals_as_one_line(self._store.uri):
                if self._ledger.run_id != self._run_id:
                    self._attach()
                self._join_parent()
                self._send_records()
                self._send_status(status or self._settled_status())
                self._send_files()
        except Exception:
            self._run_id = ""  # what MLflow has now is to be found out
            raise

    def _attach(self) -> None:
        """Find the MLflow run, or create it; learn what it has."""
        self._save()  # the key, before a run with it can exist
        self._client = self._store.client
        run = self._find() or self._create()
        if self._ledger.run_id != run.info.run_id:
            self._ledger.run_id, self._ledger.files = run.info.run_id, {}
        self._ledger.steps = _last_steps(run)
        self._save()
        self._run_id = run.info.run_id
        self._status = run.info.status
        self._parent_id = run.data.tags.get(PARENT_TAG)
        self._tails = [Tail(self._directory / name) for name in (METRICS_FILE, SYSTEM_FILE)]

    def _find(self) -> "Run | None":
        """The run of the ledger's id, or that of its key; none that was deleted."""
        ledger = self._ledger
        for condition in (f"attributes.run_id = '{ledger.run_id}'", f"tags.`{KEY_TAG}` = '{ledger.key}'"):
            found = self._client.search_runs([self._store.experiment_id], condition, max_results=1)
            if found:
                return found[0]
        return None

    def _create(self) -> "Run":
        first = next(Tail(self._directory / METRICS_FILE).read(), {})
        tags = {KEY_TAG: self._ledger.key}
        if self._ledger.commit is not None:
            tags["mlflow.source.git.commit"] = self._ledger.commit
        return self._client.create_run(
            self._store.experiment_id,
            start_time=round(1000 * first.get("time", time.time())),
            tags=tags,
            run_name=self._directory.resolve().name,
        )

    def _save(self) -> None:
        self._ledger.save(self._directory)

    def _join_parent(self) -> None:
        """Nest the run below that of the directory above it, as soon as there is one."""
        path = self._directory.resolve()
        above = [folder for folder in list(path.parents)[:PARENT_LEVELS] if (folder / LEDGER_FILE).exists()]
        parent_id = Ledger.of(above[0]).run_id if above else None
        if parent_id in (None, self._parent_id):
            return
        name = path.relative_to(above[0]).as_posix().removeprefix("arms/")
        self._client.update_run(self._run_id, name=name)
        self._client.set_tag(self._run_id, PARENT_TAG, parent_id)
        self._parent_id = parent_id

    def _send_records(self) -> None:
        """Send new records; one never stands in two batches, so that its kind's last step stands for all of it."""
        before = self.records
        batch: list[Metric] = []
        for record in chain.from_iterable(tail.read() for tail in self._tails):
            if not self._ledger.lacks(record):
                continue
            metrics = _metrics(names.record_metrics(record), record["step"], record.get("time", time.time()))
            if len(batch) + len(metrics) > METRICS_PER_BATCH:
                self._send_batch(batch)
                batch = []
            self._ledger.steps[record["kind"]] = record["step"]
            self.records += 1
            batch += metrics
        if self.records > before:
            self._send_batch(batch)

    def _send_batch(self, batch: "list[Metric]") -> None:
        self._client.log_batch(self._run_id, metrics=batch)
        self._save()

    def _send_status(self, status: str) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
        else:
            paths = [
                path for path in self._directory.glob("[!.]*") if path.name not in (LEDGER_FILE, LOG_FILE)
            ]
            last_change = max(path.stat().st_mtime for path in paths)
            self._client.set_terminated(self._run_id, status, round(1000 * last_change))
        self._status = status

    def _settled_status(self) -> str:
        """Of a training that nobody vouches for: it is complete, or it said how it ended, or it was killed."""
        if (self._directory / METRICS_FILE).exists():
            steps = _read_recipe(self._directory / RECIPE_FILE)["train"]["steps"]
            is_complete = self._ledger.steps.get("train", 0) >= steps
        else:
            is_complete = (self._directory / COMPARISON_FILE).exists()
        return "FINISHED" if is_complete else self._ledger.outcome or "KILLED"

    def _send_files(self) -> None:
        """Send what the files that changed say, then these files."""
        paths = [path for pattern in ARTIFACTS for path in sorted(self._directory.glob(pattern))]
        found = {
            path.relative_to(self._directory): sha256_file(path)
            for path in paths
            if path.name not in NO_ARTIFACTS
        }
        changed = [name for name, checksum in found.items() if self._ledger.files.get(str(name)) != checksum]
        for name in changed:
            self._send_content(self._directory / name)
        for name in changed:
            folder = None if name.parent == Path() else str(name.parent)
            self._client.log_artifact(self._run_id, str(self._directory / name), folder)
            self._ledger.files[str(name)] = found[name]
            self._save()
            self.files += 1

    def _send_content(self, path: Path) -> None:
        if path.name == RECIPE_FILE:
            self._send_recipe(_read_recipe(path))
        elif path.name == ENVIRONMENT_FILE:
            self._send_tags({f"environment.{key}": str(value) for key, value in read_json(path).items()})
        elif path.name == COMPARISON_FILE:
            result = read_json(path)
            values = names.comparison_metrics(result)
            self._send("metrics", _metrics(values, result["steps"], path.stat().st_mtime))
        elif path.match(EVALUATIONS):
            result = read_json(path)
            digits = result.get("checkpoint", "").rpartition("-")[2]
            step = int(digits) if digits.isdigit() else 0
            self._send("metrics", _metrics(names.evaluation_metrics(result), step, path.stat().st_mtime))

    def _send_recipe(self, recipe: dict[str, Any]) -> None:
        """Send parameters; MLflow's are immutable, so what a resumed run has changed becomes a tag."""
        from mlflow.entities import Param

        wanted = names.flatten(recipe)
        known = self._client.get_run(self._run_id).data
        self._send("params", [Param(key, wanted[key]) for key in wanted.keys() - known.params.keys()])
        latest = wanted | {key: known.tags.get(CHANGED + key, value) for key, value in known.params.items()}
        changed = {CHANGED + key: value for key, value in wanted.items() if latest[key] != value}
        found = recipe_from(recipe, "recipe.yaml")
        own = {"scorer": found.scorer.name, "control": found.train.control or "none", "seed": str(found.seed)}
        self._send_tags(changed | own)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._send("tags", [RunTag(names.clean(key), tags[key][: names.TAG_LENGTH]) for key in tags])

    def _send(self, kind: str, entries: Sequence[Any]) -> None:
        for start in range(0, len(entries), ENTRIES_PER_BATCH):
            batch: dict[str, Any] = {kind: entries[start : start + ENTRIES_PER_BATCH]}
            self._client.log_batch(self._run_id, **batch)


def _read_recipe(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _metrics(values: Mapping[str, float], step: int, seconds: float) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(name, value, round(1000 * seconds), step) for name, value in values.items()]


def _last_steps(run: "Run") -> dict[str, int]:
    """The last step that MLflow has of each kind of record."""
    steps: dict[str, int] = {}
    for metric in run.to_proto().data.metrics:
        kind = metric.key.partition("/")[0]
        steps[kind] = max(steps.get(kind, -1), metric.step)
    return steps
