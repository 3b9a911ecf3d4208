"""The process that delivers beside a training: it never gets in the training's way, and dies with it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import Database, MakeRun, is_delivered, train_record, wait_until, write_steps

from wmtp.cli.options import track
from wmtp.config import Config, to_dict
from wmtp.errors import WMTPError
from wmtp.lock import run_lock
from wmtp.metrics import MetricsLog
from wmtp.rank import OWN_TURN_SECONDS
from wmtp.tracking import tracker
from wmtp.tracking.deliver import deliver_all
from wmtp.tracking.ledger import sole_deliverer, waiting_records
from wmtp.tracking.tracker import Tracker
from wmtp.train.signals import Stopped


def at(config: Config, **mlflow: Any) -> Config:
    """With other MLflow settings."""
    return config.model_copy(update={"mlflow": config.mlflow.model_copy(update=mlflow)})


def told(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Lines printed, without the progress that shows where delivering the rest takes more than a moment."""
    output, errors = capfd.readouterr()
    return [line for line in (output + errors).splitlines() if not line.startswith("deliver to MLflow: ")]


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_records_arrive_while_training_goes_on_and_the_rest_at_its_end(
    make_run: MakeRun, config: Config, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run("r")
    with Tracker(run, config, every=0.1, seconds=60) as tracking:
        write_steps(run, range(1, 6))
        wait_until(lambda: is_delivered(run, 5))
        assert [status for _, status, _ in database.runs()] == ["RUNNING"]
        wait_until(lambda: (run / "system.jsonl").exists())
        write_steps(run, range(6, 8))
    [(name, status, run_id)] = database.runs()
    assert (name, status, run_id) == ("r", "FINISHED", tracking.run_id)
    assert database.steps(run_id) == [1, 2, 3, 4, 5, 6, 7]
    used = database.values(run_id, "system/system_memory_usage_percentage")
    assert used
    assert all(0 < value < 100 for value in used.values())
    assert told(capfd) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status"), [(Stopped(signal.SIGTERM, "there"), "KILLED"), (ValueError("broken"), "FAILED")]
)
def test_how_a_training_ended(
    error: Exception, status: str, make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r")
    with suppress(type(error)), Tracker(run, config, seconds=60):
        write_steps(run, range(1, 3))
        raise error
    assert [(found, database.steps(run_id)) for _, found, run_id in database.runs()] == [(status, [1, 2])]


def test_a_server_that_hangs_costs_training_nothing_and_its_end_the_deadline(
    make_run: MakeRun,
    config: Config,
    hanging_server: str,
    capfd: pytest.CaptureFixture[str],
    database: Database,
) -> None:
    run = make_run("r")
    log = MetricsLog(run)
    latencies = []
    started = time.monotonic()
    hanging = at(config, tracking_uri=hanging_server, system_metrics=False)
    with Tracker(run, hanging, every=0.1, seconds=2) as tracking:
        entering = time.monotonic() - started
        for step in range(1, 201):
            before = time.monotonic()
            log.write(train_record(step))
            latencies.append(time.monotonic() - before)
            time.sleep(0.01)
        assert tracking.run_id is None
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 8  # a request is given up after 10 s
    assert entering < 8
    assert sorted(latencies)[100] < 0.02  # of 200; on a busy machine some are slow
    assert told(capfd) == [
        f"mlflow: 200 records wait in {run}; deliver with: wmtp mlflow {run} (the reason is in {run / 'mlflow.log'})"
    ]
    assert "200 records" in deliver_all(run, config)[0]
    assert [status for _, status, _ in database.runs()] == ["FINISHED"]  # all of its steps


@pytest.mark.slow
def test_the_reason_is_in_the_log(
    make_run: MakeRun, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run("r", steps=2)
    tracker = Tracker(run, at(config, tracking_uri="http://127.0.0.1:9"), every=0.1, seconds=30)
    with tracker, suppress(AssertionError):
        wait_until(lambda: "could not be reached" in (run / "mlflow.log").read_text())
    assert "could not be reached" in (run / "mlflow.log").read_text()
    assert "2 records wait" in capfd.readouterr().err


@pytest.mark.slow
def test_the_worker_starts_mlflow_without_telemetry(
    make_run: MakeRun, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "PYTEST_CURRENT_TEST"):  # of this test run
        monkeypatch.delenv(name, raising=False)
    asked = """
from pathlib import Path
from wmtp.config import Config
from wmtp.tracking.worker import Rounds
Rounds(Path("."), Config())
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client())
"""
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["None"]


def test_what_a_killed_worker_left_is_said_at_the_end_and_delivered_later(
    make_run: MakeRun, config: Config, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run("r")
    with suppress(ValueError), Tracker(run, config, fresh=True) as tracking:
        assert tracking._worker is not None
        os.kill(tracking._worker.pid, signal.SIGKILL)
        tracking._worker.wait()
        write_steps(run, range(1, 6))
        raise ValueError("broken")
    assert f"mlflow: 5 records wait in {run}; deliver with: wmtp mlflow {run}" in told(capfd)[-1]
    deliver_all(run, config)
    [(_, status, run_id)] = database.runs()
    assert status == "FAILED"
    assert (run_id, database.steps(run_id)) == (tracking.run_id, [1, 2, 3, 4, 5])


@pytest.mark.slow
def test_signals_to_a_whole_job_leave_the_worker_at_work(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r")
    with Tracker(run, config, fresh=True, seconds=60) as tracking:
        assert tracking._worker is not None
        wait_until(lambda: (run / "mlflow.json").exists())
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            os.kill(tracking._worker.pid, signum)
        write_steps(run, range(1, 6))
    [(_, status, run_id)] = database.runs()
    assert status == "FINISHED"
    assert database.steps(run_id) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_workers_killed_at_random_moments_lose_and_repeat_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    config = Config.model_validate({"paths": {"runs": str(tmp_path / "runs")}, "mlflow": {"enabled": True}})
    run = make_run("r")
    (run / "report.html").write_text("<p>")
    chance = random.Random(1)
    for kill in range(12):
        write_steps(run, range(100 * kill + 1, 100 * kill + 101))
        with Tracker(run, config, every=0.01, seconds=60) as tracking:
            worker = tracking._worker
            assert worker is not None
            time.sleep(chance.uniform(0.5, 3.5))
            os.kill(worker.pid, signal.SIGKILL)
    deliver_all(run, config)
    database = Database(tmp_path / "runs" / "mlflow.db")
    [(_, status, run_id)] = database.runs()
    assert status == "FINISHED"
    assert database.steps(run_id) == list(range(1, 1201))
    systems = database.steps(run_id, "system/cpu_utilization_percentage")
    assert systems == list(range(len(systems)))


@pytest.mark.slow
def test_several_runs_make_one_database(make_run: MakeRun, tmp_path: Path) -> None:
    config = Config.model_validate({"paths": {"runs": str(tmp_path / "runs")}, "mlflow": {"enabled": True}})
    runs = [make_run(name, steps=10) for name in "abc"]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(Tracker(run, config, seconds=60))
    complaints = [line for run in runs for line in (run / "mlflow.log").read_text().splitlines()]
    assert [line for line in complaints if "locked" not in line and "again" not in line] == []
    found = Database(tmp_path / "runs" / "mlflow.db").runs()
    assert sorted((name, status) for name, status, _ in found) == [(name, "FINISHED") for name in "abc"]


TRAINING = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mlflow_runs import write_steps
from wmtp.config import Config
from wmtp.tracking.tracker import Tracker
from wmtp.lock import run_lock
run = Path(sys.argv[1])
with run_lock(run), Tracker(run, Config.model_validate_json(sys.argv[2]), every=0.1, seconds=20):
    if sys.argv[4] == "fork" and os.fork() == 0:
        time.sleep(60)  # it has the worker's standard input open, too
    write_steps(run, range(1, 6))
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("children", ["none", "fork"])
def test_the_worker_outlives_a_killed_training_only_to_deliver(
    children: str, make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r")
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, run, json.dumps(to_dict(config)), Path(__file__).parent, children],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with training:
        assert training.stdout is not None
        training.stdout.readline()
        wait_until(lambda: is_delivered(run, 3))
        write_steps(run, range(6, 8))
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
        if children == "none":
            with run_lock(run):  # the worker does not keep it
                pass

        def worker_is_gone() -> bool:
            with sole_deliverer(run) as alone:
                return alone

        wait_until(worker_is_gone)
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
    [(_, status, run_id)] = database.runs()
    assert status == "KILLED"
    assert database.steps(run_id) == list(range(1, 8))


@pytest.mark.slow
def test_two_resumptions_continue_and_a_fresh_start_does_not(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r")
    with Tracker(run, config, fresh=True, seconds=60) as tracking:
        assert tracking.run_id is None
        write_steps(run, range(1, 5))
    first = tracking.run_id
    assert first is not None
    for step in (3, 6):
        MetricsLog(run).rewind(step)
        with Tracker(run, config, run_id=first, seconds=60) as tracking:
            assert tracking.run_id == first
            write_steps(run, range(step + 1, step + 5))
    assert database.steps(first) == list(range(1, 11))

    (run / "mlflow.json").unlink()
    with Tracker(run, config, run_id=first, seconds=60) as tracking:
        write_steps(run, range(11, 13))
    assert tracking.run_id == first
    assert database.steps(first) == list(range(1, 13))

    MetricsLog(run).rewind(-1)
    with Tracker(run, config, fresh=True, seconds=60) as tracking:
        assert tracking.run_id is None
        write_steps(run, range(1, 3))
    other = tracking.run_id
    assert other is not None
    assert [run_id for _, _, run_id in database.runs()] == [first, other]
    assert database.steps(other) == [1, 2]


@pytest.mark.slow
def test_a_comparison_and_its_arms(make_run: MakeRun, config: Config, database: Database) -> None:
    directory = make_run("cmp")
    (directory / "metrics.jsonl").unlink()
    with Tracker(directory, config, every=0.1, seconds=60) as whole:
        wait_until(lambda: whole.run_id)
        run = make_run("cmp/arms/a/seed-0")
        with Tracker(run, config, every=0.1, seconds=60):
            write_steps(run, range(1, 4))
        (run / "report.html").write_text("<p>")  # comes after the arm's own training
    by_name = {name: (status, run_id) for name, status, run_id in database.runs()}
    assert {name: status for name, (status, _) in by_name.items()} == {
        "cmp": "FINISHED",
        "a/seed-0": "FINISHED",
    }
    child = by_name["a/seed-0"][1]
    assert database.tags(child)["mlflow.parentRunId"] == by_name["cmp"][1]
    assert database.steps(child) == [1, 2, 3]
    assert (Path(config.paths.runs) / "mlartifacts" / child / "artifacts" / "report.html").exists()


def test_what_a_command_adds_is_delivered_or_a_line_says_why_not(
    make_run: MakeRun, config: Config, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run("r", steps=10)
    track(run, at(config, enabled=False))
    assert not (run / "mlflow.json").exists()
    dead = "http://127.0.0.1:9"
    track(run, at(config, tracking_uri=dead))
    assert told(capfd) == [
        f"mlflow.tracking_uri {dead}: could not be reached; 10 records wait in {run}; "
        f"deliver with: wmtp mlflow {run}"
    ]
    track(run, config)
    assert [status for _, status, _ in database.runs()] == ["FINISHED"]
    assert (waiting_records(run), told(capfd)) == (0, [])


def test_switched_off_it_leaves_no_trace(make_run: MakeRun, config: Config) -> None:
    run = make_run("r", steps=1)
    before = sorted(run.iterdir())
    with Tracker(run, at(config, enabled=False)) as tracking:
        assert tracking.run_id is None
    assert sorted(run.iterdir()) == before


def test_a_mistake_in_the_settings_ends_the_run_before_it_begins(make_run: MakeRun, config: Config) -> None:
    with (
        pytest.raises(WMTPError, match=r"mlflow\.tracking_uri 's3://b'"),
        Tracker(make_run("r"), at(config, tracking_uri="s3://b")),
    ):
        raise AssertionError


def test_after_an_error_the_end_is_over_before_another_rank_speaks() -> None:
    assert tracker.SECONDS_AT_END["FAILED"] < OWN_TURN_SECONDS
