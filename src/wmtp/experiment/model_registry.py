"""Registers exported models in MLflow and chooses the champion."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp import __version__, tracking
from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.experiment.results import read_comparison
from wmtp.layout import COMPARISON_FILE, evaluation_files
from wmtp.records import read_evaluation
from wmtp.storage import sha256_file, sha256_text
from wmtp.tracking.deliver import REQUEST_TIMEOUT, deliver_all
from wmtp.tracking.ledger import Ledger
from wmtp.tracking.store import Store, has_code, refusals_as_one_line

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
EXAMPLE = "Write a function."
SERVED_MODEL = Path(tracking.__file__).with_name("served_model.py")
Export = Callable[[Path, Path], object]
"""Writes the model of a run (first) as a folder of transformers (second)."""


@dataclass(frozen=True)
class Candidate:
    """A run whose model may be registered, and its pass@1 (0..1) if it was evaluated."""

    run: Path
    pass_at_1: float | None = None
    task: str | None = None
    protocol: str | None = None

    def tags(self) -> dict[str, str]:
        """Tags kept with the model in the registry, to compare others with it."""
        known = {"pass_at_1": self.pass_at_1, "task": self.task, "protocol": self.protocol}
        return {key: str(value) for key, value in known.items() if value is not None}


@dataclass(frozen=True)
class Registration:
    """A model's version in the registry, whether it is now the champion, and why."""

    name: str
    version: str
    champion: bool
    reason: str

    def __str__(self) -> str:
        return f"registered {self.name} version {self.version}; {self.reason}"


def register(
    directory: Path, name: str, config: Config, export: Export, *, force: bool = False
) -> Registration:
    """Register a run's model, or that of a comparison's best arm, as `name`.

    A comparison's becomes the champion if there is none yet, or if its pass@1 on the same task and protocol is higher
    than the champion's. Repeated calls register the same model only once.

    Args:
        force: make it the champion in any case.

    Raises:
        WMTPError: there is nothing to register, or MLflow is unreachable or refuses.
    """
    is_comparison = (directory / COMPARISON_FILE).exists()
    candidate = best_of_comparison(directory) if is_comparison else evaluated_run(directory)
    deliver_all(directory, config)
    run_id = Ledger.of(candidate.run).run_id
    if run_id is None:
        raise WMTPError(f"{candidate.run}: has no MLflow run to register a model of")
    store = Store(config, REQUEST_TIMEOUT)
    with refusals_as_one_line(store.uri):
        with tempfile.TemporaryDirectory(dir=candidate.run, prefix=".register-") as scratch:
            folder = Path(scratch) / "model"
            export(candidate.run, folder)
            version = register_folder(folder, name, store, run_id, candidate.tags())
        if not is_comparison and not force:
            return Registration(name, version, False, "only a comparison's best arm becomes champion")
        return _crown(store, name, version, candidate, force)


def best_of_comparison(directory: Path) -> Candidate:
    """The run with the highest pass@1 of the arm with the highest mean pass@1."""
    comparison = read_comparison(directory)
    arm = max(comparison.arms, key=lambda arm: arm.pass_at_1.value)
    best = max(arm.by_seed, key=lambda seed: seed.pass_at_1)
    return Candidate(directory / best.run, best.pass_at_1, comparison.task, comparison.protocol)


def evaluated_run(run: Path) -> Candidate:
    """A run, with its evaluation if there is exactly one."""
    evaluations = evaluation_files(run)
    if len(evaluations) != 1:
        return Candidate(run)
    found = read_evaluation(evaluations[0])
    return Candidate(run, found.pass_at_1, found.task, found.protocol)


def register_folder(folder: Path, name: str, store: Store, run_id: str, tags: Mapping[str, str]) -> str:
    """Log an exported model as an artifact of an MLflow run and register it; returns its version."""
    checksum = sha256_text(*(sha256_file(file) for file in sorted(folder.iterdir()) if file.is_file()))
    for version in store.client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("sha256") == checksum and version.status == "READY":
            return _tagged(store, name, version, tags)
    artifact_path = f"models/{checksum[:12]}"
    packed = folder.with_name("pyfunc")
    _pack(folder, packed)
    store.client.log_artifacts(run_id, str(packed), artifact_path)
    try:
        store.client.create_registered_model(name)
    except Exception as error:
        if not has_code(error, "RESOURCE_ALREADY_EXISTS"):
            raise
    source = f"{store.client.get_run(run_id).info.artifact_uri}/{artifact_path}"
    created = store.client.create_model_version(
        name, source, run_id, tags={**tags, "sha256": checksum}, await_creation_for=0
    )
    return str(created.version)


def _tagged(store: Store, name: str, version: "ModelVersion", tags: Mapping[str, str]) -> str:
    for key, value in tags.items():
        if version.tags.get(key) != value:
            store.client.set_model_version_tag(name, str(version.version), key, value)
    return str(version.version)


def _pack(folder: Path, packed: Path) -> None:
    """The folder as an MLflow model: a table of prompts in, continuations out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about its own type hints, as it is imported
        import pandas
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

        from wmtp.tracking.served_model import MAX_NEW_TOKENS, MODEL_ARTIFACT

        pyfunc.save_model(
            str(packed),
            python_model=str(SERVED_MODEL),
            artifacts={MODEL_ARTIFACT: str(folder)},
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, "prompt")]),
                outputs=Schema([ColSpec(DataType.string)]),
                params=ParamSchema([ParamSpec("max_new_tokens", DataType.long, MAX_NEW_TOKENS)]),
            ),
            input_example=pandas.DataFrame({"prompt": [EXAMPLE]}),
            pip_requirements=[f"wmtp[mlflow]=={__version__}"],
        )


def _crown(store: Store, name: str, version: str, candidate: Candidate, force: bool) -> Registration:
    champion = _champion(store, name)
    if champion is None:
        wins, reason = True, "the first champion"
    elif str(champion.version) == version:
        wins, reason = True, "the champion already"
    else:
        wins, reason = _contest(candidate, champion)
    if force and not wins:
        wins, reason = True, f"champion by force: {reason}"
    if wins:
        store.client.set_registered_model_alias(name, CHAMPION, version)
    return Registration(name, version, wins, reason)


def _champion(store: Store, name: str) -> "ModelVersion | None":
    try:
        return store.client.get_model_version_by_alias(name, CHAMPION)
    except Exception as error:
        if has_code(error, "RESOURCE_DOES_NOT_EXIST") or has_code(error, "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _contest(candidate: Candidate, champion: "ModelVersion") -> tuple[bool, str]:
    """Whether a candidate replaces the champion, and why."""
    own, other = candidate.tags(), champion.tags
    if any(own.get(key) != other.get(key) for key in ("task", "protocol")) or not own.get("pass_at_1"):
        where = [f"{tags.get('task')} ({tags.get('protocol')})" for tags in (own, other)]
        return (
            False,
            f"evaluated on {where[0]}, champion version {champion.version} on {where[1]}: no comparison",
        )
    mine, theirs = float(own["pass_at_1"]), float(other["pass_at_1"])
    if mine > theirs:
        return True, f"champion: pass@1 {mine:.3f} beats {theirs:.3f} of version {champion.version}"
    return False, f"version {champion.version} stays champion: pass@1 {theirs:.3f}, this one {mine:.3f}"
