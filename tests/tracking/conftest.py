"""Run directories with made-up records, and MLflow databases to deliver them to."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import Database, MakeRun, write_steps

from wmtp.config import Config, Recipe, override, to_yaml
from wmtp.metrics import MetricsLog


@pytest.fixture(scope="session")
def _empty_database(shared: Callable[..., Path]) -> Path:
    """MLflow takes two seconds to create its tables; once is enough."""
    pytest.importorskip("mlflow")
    from wmtp.tracking.store import Store

    def create(folder: Path) -> Path:
        store = Store(Config.model_validate({"paths": {"runs": str(folder)}}), timeout=5)
        assert store.experiment_id == "1"
        return folder / "mlflow.db"

    return shared("mlflow", create)


@pytest.fixture
def config(tmp_path: Path, _empty_database: Path) -> Config:
    """MLflow switched on, with its default: a database in the runs' folder."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(_empty_database, runs / "mlflow.db")
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", [(runs / "mlartifacts").as_uri()])
    return Config.model_validate({"paths": {"runs": str(runs)}, "mlflow": {"enabled": True}})


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("name", steps=5, **{"train.steps": 9})`: a run directory with so many records and this recipe."""

    def make(name: str, steps: int = 0, **changes: Any) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True, exist_ok=True)
        recipe = override(Recipe(), {"train.steps": 10, **changes}, "test recipe")
        (run / "recipe.yaml").write_text(to_yaml(recipe))
        (run / "config.yaml").write_text("paths: {}\n")
        (run / "environment.json").write_text(
            json.dumps({"torch": "2.13.0", "device": "cpu", "world_size": 2})
        )
        MetricsLog(run).rewind(-1)
        write_steps(run, range(1, steps + 1))
        return run

    return make


@pytest.fixture
def database(config: Config) -> Iterator[Database]:
    """The default database."""
    return Database(Path(config.paths.runs) / "mlflow.db")
