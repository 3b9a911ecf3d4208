"""Where MLflow keeps things, and a client of it that gives up soon."""

import importlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wmtp.config import Config
from wmtp.errors import WMTPError, joined_lines
from wmtp.lock import sole_holder

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
UNREACHABLE = ("failed with exception", "timeout exception", "Max retries")
REASON_LENGTH = 200

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""For MLflow's client, unless the user set them."""


def tracking_uri(config: Config) -> str:
    """`mlflow.tracking_uri`, where null is an SQLite file in `paths.runs`; paths are made absolute.

    Raises:
        WMTPError: MLflow cannot keep runs there, or the address holds a password.
    """
    uri = config.mlflow.tracking_uri
    if uri is None:
        return f"sqlite:///{Path(config.paths.runs).resolve() / 'mlflow.db'}"
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("")
    if parts.password is not None:
        raise WMTPError(
            "mlflow.tracking_uri: holds a password; leave it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (a database: its own, such as PGPASSWORD) in the environment"
        )
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite" and len(parts.path) > 1:
        return f"{parts.scheme}:///{Path(parts.path[1:]).resolve()}"
    is_server = uri == "databricks" or (scheme in ("http", "https") and parts.hostname)
    if is_server or (scheme in DATABASES[1:] and parts.path):
        return uri
    raise WMTPError(
        f"mlflow.tracking_uri {uri!r}: should be http(s)://HOST, a database such as sqlite:///mlflow.db, "
        f"or null for an SQLite file in paths.runs"
    )


def check_tracking(config: Config) -> str:
    """The tracking URI, when everything that it needs is installed; imports nothing of that.

    Raises:
        WMTPError: MLflow is not installed, or the URI is none.
    """
    uri = tracking_uri(config)
    for module in ("mlflow", "sqlalchemy", "alembic", "psutil", "pandas"):
        if find_spec(module) is None:
            raise WMTPError(f"mlflow: {module} is not installed; pip install 'wmtp[mlflow]'")
    return uri


class Store:
    """A tracking server or database, and the experiment that runs go to.

    Imports MLflow: silent, without telemetry, its requests limited in time, unless the user set these.

    Args:
        timeout: seconds that a request waits for an answer, where the user has not set MLFLOW_HTTP_REQUEST_TIMEOUT.
    """

    def __init__(self, config: Config, timeout: int) -> None:
        self.uri = check_tracking(config)
        self._config = config
        for name, value in (_ENVIRONMENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout)}).items():
            os.environ.setdefault(name, value)
        importlib.import_module("mlflow")

    @cached_property
    def client(self) -> "MlflowClient":
        """A client of it."""
        from mlflow import MlflowClient

        if self.uri.startswith("sqlite"):
            _prepare_sqlite(Path(urlsplit(self.uri).path[1:]))
        return MlflowClient(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment `mlflow.experiment`, created if there is none."""
        name = self._config.mlflow.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name, artifact_location=self._artifact_location())
            except Exception as error:
                if not has_code(error, "RESOURCE_ALREADY_EXISTS"):  # another process was faster
                    raise
            return self.experiment_id
        if found.lifecycle_stage == "deleted":
            raise WMTPError(
                f"mlflow.experiment {name!r}: is deleted in {self.uri}; restore it, or name another"
            )
        return found.experiment_id

    def _artifact_location(self) -> str | None:
        """A server has its own; a database's artifacts are beside an SQLite file, else in `paths.runs`."""
        if not self.uri.startswith(DATABASES):
            return None
        beside = Path(self._config.paths.runs).resolve()
        if self.uri.startswith("sqlite"):
            beside = Path(urlsplit(self.uri).path[1:]).parent
        return (beside / "mlartifacts").as_uri()


def _prepare_sqlite(path: Path) -> None:
    """See that there is a database, made aside: one whose making was killed or raced with another is beyond repair.

    Fails at once where MLflow would try to open it for minutes.
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_holder(path.with_name(f".{path.name}.lock"), wait=True):
        if not path.exists():
            aside = path.with_name(f".{path.name}.new")
            aside.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{aside}").get_experiment("0")
            aside.replace(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


def has_code(error: Exception, code: str) -> bool:
    """Whether an error is MLflow's of this code, such as RESOURCE_DOES_NOT_EXIST."""
    return getattr(error, "error_code", None) == code


@contextmanager
def refusals_as_one_line(uri: str) -> Iterator[None]:
    """For what asks MLflow.

    Raises:
        WMTPError: MLflow, its database, the network or the disk refused; a missing database driver is an ImportError.
    """
    try:
        yield
    except Exception as error:
        is_others = type(error).__module__.startswith(("mlflow.", "sqlalchemy.", "requests."))
        if not is_others and not isinstance(error, (OSError, ImportError, sqlite3.Error)):
            raise
        text = joined_lines(error)
        is_there = not any(sign in text for sign in UNREACHABLE)
        reason = f"refused: {text[:REASON_LENGTH]}" if is_there else "could not be reached"
        raise WMTPError(f"mlflow.tracking_uri {uri}: {reason}") from error
