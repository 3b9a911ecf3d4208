"""Where MLflow keeps things, and a client of it that gives up soon."""

import importlib
import os
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wmtp.config import Config
from wmtp.errors import WMTPError, joined_lines
from wmtp.lock import sole_holder

if TYPE_CHECKING:
    from mlflow.entities import Experiment

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
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
    if uri == "databricks":
        return uri
    mistake = WMTPError(
        f"mlflow.tracking_uri {uri!r}: should be http(s)://HOST, a database such as sqlite:///mlflow.db, "
        f"or null for an SQLite file in paths.runs"
    )
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise mistake from None
    scheme = parts.scheme.partition("+")[0]
    if parts.password is not None:
        raise WMTPError(
            "mlflow.tracking_uri: holds a password; leave it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (a database: its own, such as PGPASSWORD) in the environment"
        )
    if scheme == "sqlite" and len(parts.path) > 1:
        return f"{parts.scheme}:///{Path(parts.path[1:]).resolve()}"
    if (scheme in ("http", "https") and parts.hostname) or (scheme in DATABASES[1:] and parts.path):
        return uri
    raise mistake


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


def import_mlflow(timeout: int) -> None:
    """Import MLflow, silent, without telemetry, its requests limited to so many seconds, unless the user set these.

    A process with several threads does so in one before another needs it: two that import MLflow at once wait for
    each other's modules, Python breaks the tie, and MLflow stays half imported for good.
    """
    for name, value in (_ENVIRONMENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout)}).items():
        os.environ.setdefault(name, value)
    importlib.import_module("mlflow")


class Store:
    """A client of the tracking server or database, and the experiment that runs go to.

    Args:
        timeout: seconds that a request waits for an answer, where the user has not set MLFLOW_HTTP_REQUEST_TIMEOUT.
    """

    def __init__(self, config: Config, timeout: int) -> None:
        self.uri = check_tracking(config)
        self._config = config
        self._experiment_id: str | None = None
        import_mlflow(timeout)
        from mlflow import MlflowClient

        try:
            if self.uri.startswith("sqlite"):
                _prepare_sqlite(Path(urlsplit(self.uri).path[1:]))
            self.client = MlflowClient(self.uri)
        except Exception as error:
            if not is_refusal(error):
                raise
            raise WMTPError(f"mlflow.tracking_uri {self.uri}: {explain(error)}") from error

    @property
    def experiment_id(self) -> str:
        """The experiment `mlflow.experiment`, created if there is none."""
        if self._experiment_id is None:
            name = self._config.mlflow.experiment
            found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
            if found.lifecycle_stage == "deleted":
                raise WMTPError(
                    f"mlflow.experiment {name!r}: is deleted in {self.uri}; restore it, or name another"
                )
            self._experiment_id = found.experiment_id
        return self._experiment_id

    def _create_experiment(self, name: str) -> "Experiment":
        try:
            self.client.create_experiment(name, artifact_location=self._artifact_location())
        except Exception as error:
            if not has_code(error, "RESOURCE_ALREADY_EXISTS"):  # another process was faster
                raise
        created = self.client.get_experiment_by_name(name)
        assert created is not None
        return created

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


def is_refusal(error: Exception) -> bool:
    """Whether an error is MLflow's, its database's, the network's or the disk's, and none of this package.

    A missing database driver is an ImportError.
    """
    outside = type(error).__module__.startswith(("mlflow.", "sqlalchemy.", "requests."))
    return outside or isinstance(error, (OSError, ImportError, sqlite3.Error))


def explain(error: Exception) -> str:
    """Why MLflow did not do something, as a clause."""
    text = joined_lines(error)
    if any(sign in text for sign in ("failed with exception", "timeout exception", "Max retries")):
        return "could not be reached"
    return f"refused: {text[:REASON_LENGTH]}"


def milliseconds(seconds: Any) -> int:
    """MLflow's unit of time."""
    return round(float(seconds) * 1000)
