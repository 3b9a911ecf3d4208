"""Delivery to a real tracking server, which is killed and comes back."""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow_runs import Database, MakeRun, is_delivered, wait_until, write_steps

from wmtp.config import Config
from wmtp.tracking.deliver import deliver_all
from wmtp.tracking.ledger import Ledger, waiting_records
from wmtp.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

START_SECONDS = 120


class Server:
    """An `mlflow server` with SQLite and artifacts of its own, on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.database = Database(folder / "server.db")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = {
            "--backend-store-uri": f"sqlite:///{self._folder / 'server.db'}",
            "--artifacts-destination": str(self._folder / "server-artifacts"),
            "--host": "127.0.0.1",
            "--port": str(self._port),
            "--workers": "1",
        }
        arguments = [word for option in options.items() for word in option]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *arguments],
                stdout=log,
                stderr=log,
                env=os.environ
                | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL it and its children."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def artifacts(self, run_id: str) -> list[str]:
        """The artifacts of a run that the server has on disk."""
        root = next((self._folder / "server-artifacts").glob(f"*/{run_id}/artifacts"))
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """It is not started yet."""
    server = Server(tmp_path)
    yield server
    server.kill()


def test_a_server_killed_and_restarted_in_the_middle_has_every_record_once(
    server: Server, make_run: MakeRun, config: Config
) -> None:
    run = make_run("r")
    (run / "samples").mkdir()
    (run / "samples" / "tinycode.jsonl").write_text("{}\n" * 1000)
    (run / "report.html").write_text("<p>")
    mlflow = config.mlflow.model_copy(update={"tracking_uri": server.uri})
    config = config.model_copy(update={"mlflow": mlflow})
    chance = random.Random(0)
    steps = itertools.count(1)
    is_over = threading.Event()

    def train() -> None:
        while not is_over.wait(0.02):
            step = next(steps)
            write_steps(run, range(step, step + 1))

    training = threading.Thread(target=train, daemon=True)
    with Tracker(run, config, every=0.2, seconds=60):
        training.start()
        server.start()
        for _ in range(2):
            known = Ledger.of(run).steps.get("train", 0)
            wait_until(lambda known=known: is_delivered(run, known + 1))
            time.sleep(chance.uniform(0, 1))  # in the middle of a request or not
            server.kill()
            server.start()
        is_over.set()
        training.join()
    last = next(steps) - 1
    log = (run / "mlflow.log").read_text()
    assert "could not be reached" in log
    assert "delivering again" in log
    deliver_all(run, config)

    [(name, status, run_id)] = server.database.runs()
    assert (name, status) == ("r", "FINISHED")
    assert waiting_records(run) == 0
    for key in ("train/tokens", "train/loss", "train/ce_head_0"):
        assert server.database.steps(run_id, key) == list(range(1, last + 1))
    assert server.database.steps(run_id, "train/ce_head_1") == list(range(1, last + 1, 2))
    assert server.database.params(run_id)["train.steps"] == "10"
    expected = ["config.yaml", "environment.json", "recipe.yaml", "report.html", "samples/tinycode.jsonl"]
    assert server.artifacts(run_id) == expected


def test_what_waited_for_a_server_is_delivered_when_it_is_back(
    server: Server, make_run: MakeRun, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    mlflow = config.mlflow.model_copy(update={"tracking_uri": server.uri})
    config = config.model_copy(update={"mlflow": mlflow})
    run = make_run("r")
    with Tracker(run, config, every=0.1) as tracking:
        write_steps(run, range(1, 11))
        assert tracking.run_id is None
    assert f"10 records wait in {run}; deliver with: wmtp mlflow {run}" in capfd.readouterr().err
    server.start()
    deliver_all(run, config)
    [(_, status, run_id)] = server.database.runs()
    assert status == "FINISHED"
    assert server.database.steps(run_id) == list(range(1, 11))
