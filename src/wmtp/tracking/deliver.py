"""`wmtp mlflow`: deliver to MLflow what a directory holds and MLflow does not have yet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.layout import RECIPE_FILE
from wmtp.tracking.ledger import run_directories, sole_deliverer, waiting_records
from wmtp.tracking.run_delivery import RunDelivery
from wmtp.tracking.store import Store, explain, is_refusal

REQUEST_TIMEOUT = 30
"""Seconds; somebody waits for this, and large files take a server some time."""


@dataclass
class Summary:
    """What was delivered where; `busy` are runs that another process, their training, is delivering."""

    uri: str
    records: int = 0
    files: int = 0
    runs: int = 0
    busy: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.uri}: delivered {self.records:,} records and {self.files:,} files of {self.runs:,} runs"
        )
        return text + "".join(f"\n{run}: is being delivered by its own training" for run in self.busy)


def deliver_all(directory: Path, config: Config, say: Callable[[str], None] | None = None) -> Summary:
    """Deliver a run, or a comparison and the runs in it.

    Args:
        say: gets a line for each run.

    Raises:
        WMTPError: it is no run, or MLflow cannot be reached or refuses; what is not delivered stays on disk.
    """
    if not (directory / RECIPE_FILE).exists():
        raise WMTPError(f"{directory}: neither a run nor a comparison (no recipe.yaml)")
    store = Store(config, REQUEST_TIMEOUT)
    summary = Summary(store.uri)
    for run in run_directories(directory):
        delivery = RunDelivery(run, store)
        with sole_deliverer(run) as alone:
            if not alone:
                summary.busy.append(run)
                continue
            try:
                delivery.deliver()
            except Exception as error:
                if not is_refusal(error):
                    raise
                raise WMTPError(
                    f"mlflow.tracking_uri {store.uri}: {explain(error)}; "
                    f"{waiting_records(directory):,} records wait in {directory}"
                ) from error
        summary.runs += 1
        summary.records += delivery.records
        summary.files += delivery.files
        if say is not None:
            say(f"{run}: {delivery.records:,} records, {delivery.files:,} files")
    return summary
