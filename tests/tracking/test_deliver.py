"""Delivery to a database, in this process: what arrives, once, whatever happened in between."""

import json
import os
import time
from pathlib import Path

import pytest
from mlflow_runs import Database, MakeRun, train_record, write_steps

from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.metrics import MetricsLog
from wmtp.storage import write_json
from wmtp.tracking.deliver import RunDelivery, deliver_all
from wmtp.tracking.ledger import Ledger, sole_deliverer, waiting_records
from wmtp.tracking.store import Store


def evaluation(passed: int) -> dict[str, object]:
    """What `wmtp evaluate` writes about four problems."""
    return {
        "task": "tinycode",
        "protocol": "tinycode-greedy",
        "pass_at": {"1": {"value": passed / 4, "stderr": 0.1}},
        "by_problem": [{"task_id": str(i), "samples": 1, "passed": int(i < passed)} for i in range(4)],
        "checkpoint": "step-00000010",
    }


def test_everything_of_a_run_arrives(make_run: MakeRun, config: Config, database: Database) -> None:
    changes = {"train.algo": "rho1-wmtp", "train.control": "shuffled", "seed": 7}
    run = make_run("mine", steps=10, **changes)
    (run / "samples").mkdir()
    (run / "samples" / "tinycode.jsonl").write_text("{}\n")
    write_json(run / "evaluation-tinycode.json", evaluation(passed=3))
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "recipe.yaml").write_text("not an artifact")
    (run / "heartbeat.json").write_text("{}")  # nor is this

    assert deliver_all(run, config) == [f"{run}: delivered 10 records, 5 files"]

    [(name, status, run_id)] = database.runs()
    assert (name, status) == ("mine", "FINISHED")
    assert database.steps(run_id) == list(range(1, 11))
    assert database.values(run_id, "train/ce_head_0") == {s: 1.0 + s for s in range(1, 11)}
    assert database.steps(run_id, "train/ce_head_1") == [1, 3, 5, 7, 9]
    assert database.values(run_id, "evaluation/tinycode/pass_at_1") == {10: 0.75}
    params = database.params(run_id)
    assert params["train.control"] == "shuffled"
    assert params["loss.lambda"] == "1.0"
    assert params["model.base_id"] == "null"
    tags = database.tags(run_id)
    assert {key: tags[key] for key in ("scorer", "control", "seed")} == {
        "scorer": "rho1-excess-v1",
        "control": "shuffled",
        "seed": "7",
    }
    assert (tags["environment.device"], tags["environment.world_size"]) == ("cpu", "2")
    stored = Path(config.paths.runs) / "mlartifacts" / run_id / "artifacts"
    assert sorted(p.relative_to(stored).as_posix() for p in stored.rglob("*") if p.is_file()) == [
        "config.yaml",
        "environment.json",
        "evaluation-tinycode.json",
        "recipe.yaml",
        "samples/tinycode.jsonl",
    ]
    assert (stored / "recipe.yaml").read_bytes() == (run / "recipe.yaml").read_bytes()


def test_what_is_there_is_not_delivered_again(make_run: MakeRun, config: Config, database: Database) -> None:
    run = make_run("r", steps=3)
    deliver_all(run, config)
    assert deliver_all(run, config) == [f"{run}: delivered 0 records, 0 files"]
    write_steps(run, range(4, 6))
    (run / "environment.json").write_text('{"device": "gpu"}')
    assert deliver_all(run, config) == [f"{run}: delivered 2 records, 1 files"]
    [(_, status, run_id)] = database.runs()
    assert status == "KILLED"
    assert database.steps(run_id) == [1, 2, 3, 4, 5]
    assert database.tags(run_id)["environment.device"] == "gpu"


def test_times_are_the_records_own_even_when_the_clock_went_backwards(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r")
    times = [5000.25, 4000.0, 4001.0]
    with (run / "metrics.jsonl").open("a") as file:
        for step, seconds in enumerate(times, 1):
            file.write(json.dumps({**train_record(step), "time": seconds}) + "\n")
        file.write(json.dumps(train_record(4)) + "\n")  # written before records had times
    deliver_all(run, config)
    run_id = database.runs()[0][2]
    rows = database.rows("SELECT step, timestamp FROM metrics WHERE key = 'train/loss' ORDER BY step")
    assert rows[:3] == [(1, 5000250), (2, 4000000), (3, 4001000)]
    assert abs(rows[3][1] / 1000 - time.time()) < 60
    assert database.rows("SELECT step FROM latest_metrics WHERE key = 'train/loss'") == [(4,)]
    assert database.rows("SELECT start_time FROM runs WHERE run_uuid = ?", run_id) == [(5000250,)]


def test_a_run_that_is_delivered_late_ended_when_it_was_last_written_to(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=10)
    for path in run.iterdir():
        os.utime(path, (5000.0, 5000.0))
    os.utime(run / "metrics.jsonl", (6000.0, 6000.0))
    (run / "mlflow.log").touch()
    deliver_all(run, config)
    assert database.rows("SELECT end_time FROM runs") == [(6000000,)]


def test_thousands_of_records_arrive_in_order(make_run: MakeRun, config: Config, database: Database) -> None:
    run = make_run("r")
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(1, 2501):
            file.write(json.dumps({**train_record(step), "time": 1.0 * step}) + "\n")
            if step % 100 == 0:
                file.write(
                    json.dumps({"kind": "validation", "step": step, "ce": [1.0], "time": 1.0 * step}) + "\n"
                )
    assert "2,525 records" in deliver_all(run, config)[0]
    run_id = database.runs()[0][2]
    assert database.steps(run_id) == list(range(1, 2501))
    assert database.steps(run_id, "validation/ce_head_0") == list(range(100, 2501, 100))


def test_a_resumed_run_repeats_nothing_and_continues(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=5)
    deliver_all(run, config)
    MetricsLog(run).rewind(3)
    write_steps(run, range(4, 8))
    deliver_all(run, config)
    MetricsLog(run).rewind(6)
    write_steps(run, range(7, 11))
    deliver_all(run, config)
    [(_, status, run_id)] = database.runs()
    assert database.steps(run_id) == list(range(1, 11))
    assert status == "FINISHED"


def test_a_lost_acknowledgement_duplicates_nothing_even_after_a_resumption(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=5)
    deliver_all(run, config)
    ledger = Ledger.of(run)
    ledger.steps["train"] = 2  # as if killed between the server's answer and writing it down
    ledger.save(run)
    MetricsLog(run).rewind(1)
    time.sleep(0.01)
    write_steps(run, range(2, 8))  # the same steps, at other times
    deliver_all(run, config)
    assert database.steps(database.runs()[0][2]) == list(range(1, 8))


def test_a_run_whose_creation_was_not_answered_is_found_again(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=2)
    deliver_all(run, config)
    ledger = Ledger.of(run)
    Ledger(key=ledger.key).save(run)
    deliver_all(run, config)
    assert [run_id for _, _, run_id in database.runs()] == [ledger.run_id]
    assert database.steps(str(ledger.run_id)) == [1, 2]


def test_without_its_file_a_run_continues_by_its_id(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=4)
    deliver_all(run, config)
    [(_, _, run_id)] = database.runs()
    Ledger(run_id=run_id).save(run)  # what a worker makes of a checkpoint's
    write_steps(run, range(5, 7))
    RunDelivery(run, Store(config, 5)).deliver("RUNNING")
    assert [(status, found) for _, status, found in database.runs()] == [("RUNNING", run_id)]
    assert database.steps(run_id) == [1, 2, 3, 4, 5, 6]


def test_a_ledger_of_an_earlier_version_still_names_the_run(tmp_path: Path) -> None:
    write_json(tmp_path / "mlflow.json", {"key": "k", "run_id": "r", "training": "t", "uploaded": {"a": "1"}})
    assert Ledger.of(tmp_path) == Ledger(key="k", run_id="r")
    (tmp_path / "mlflow.json").write_text("damaged")
    assert Ledger.of(tmp_path).run_id is None


def test_what_was_refused_once_is_sent_again(make_run: MakeRun, config: Config, database: Database) -> None:
    run = make_run("r", steps=2)
    store = Store(config, 5)
    delivery = RunDelivery(run, store)
    delivery.deliver("RUNNING")
    run_id = database.runs()[0][2]
    write_steps(run, range(3, 5))
    store.client.delete_run(run_id)
    with pytest.raises(WMTPError, match="must be in the 'active' state"):
        delivery.deliver("RUNNING")
    store.client.restore_run(run_id)
    write_steps(run, range(5, 7))
    delivery.deliver("RUNNING")
    assert database.steps(run_id) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("how", ["deleted", pytest.param("another database", marks=pytest.mark.slow)])
def test_a_run_that_mlflow_does_not_have_is_delivered_anew(
    how: str, make_run: MakeRun, config: Config, database: Database, tmp_path: Path
) -> None:
    run = make_run("r", steps=4)
    deliver_all(run, config)
    old = database.runs()[0][2]
    if how == "deleted":
        Store(config, 5).client.delete_run(old)
    else:
        uri = f"sqlite:///{tmp_path / 'other.db'}"
        config = config.model_copy(update={"mlflow": config.mlflow.model_copy(update={"tracking_uri": uri})})
        database = Database(tmp_path / "other.db")
    assert "4 records" in deliver_all(run, config)[0]
    new = database.runs()[-1][2]
    assert new != old
    assert database.steps(new) == [1, 2, 3, 4]
    assert "scorer.name" in database.params(new)


def test_what_a_resumed_run_changed_becomes_a_tag(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    run = make_run("r", steps=1, **{"train.log_every": 10})
    deliver_all(run, config)
    run_id = database.runs()[0][2]
    found = []
    for value in (20, 30, 10):
        make_run("r", steps=1, **{"train.log_every": value})
        deliver_all(run, config)
        assert database.params(run_id)["train.log_every"] == "10"
        found.append(database.tags(run_id)["changed.train.log_every"])
    assert found == ["20", "30", "10"]


def test_a_comparison_has_its_runs_nested(make_run: MakeRun, config: Config, database: Database) -> None:
    directory = make_run("cmp")
    (directory / "metrics.jsonl").unlink()
    runs = [make_run(f"cmp/{name}", steps=10) for name in ("reference", "arms/a/seed-0", "arms/b/seed-0")]
    assert len(deliver_all(runs[1], config)) == 1  # before the comparison itself
    assert len(deliver_all(directory, config)) == 4
    by_name = {name: (status, run_id) for name, status, run_id in database.runs()}
    assert set(by_name) == {"cmp", "reference", "a/seed-0", "b/seed-0"}
    parent = by_name["cmp"][1]
    for name, (_, run_id) in by_name.items():
        assert database.tags(run_id).get("mlflow.parentRunId") == (None if name == "cmp" else parent)
    assert by_name["cmp"][0] == "KILLED"  # it has not come to its table

    interval = {"value": 0.5, "low": None, "high": None}
    arm = {"name": "a", "pass_at_1": interval, "difference": None, "validation_ce": interval}
    write_json(directory / "comparison.json", {"steps": 10, "arms": [arm]})
    deliver_all(directory, config)
    assert database.values(parent, "arms/a/pass_at_1") == {10: 0.5}
    assert {status for _, status, _ in database.runs()} == {"FINISHED"}


def test_a_run_that_its_training_delivers_is_left_to_it(make_run: MakeRun, config: Config) -> None:
    run = make_run("r", steps=3)
    with sole_deliverer(run) as alone:
        assert alone
        assert deliver_all(run, config) == [f"{run}: is being delivered by its own training"]
    assert deliver_all(run, config) == [f"{run}: delivered 3 records, 3 files"]


def test_a_server_that_is_not_there_is_one_line(make_run: MakeRun, config: Config) -> None:
    run = make_run("r", steps=3)
    mlflow = config.mlflow.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(WMTPError) as caught:
        deliver_all(run, config.model_copy(update={"mlflow": mlflow}))
    assert str(caught.value) == (
        f"mlflow.tracking_uri http://127.0.0.1:9: could not be reached; 3 records wait in {run}"
    )
    assert waiting_records(run) == 3
    assert "3 records" in deliver_all(run, config)[0]
    assert waiting_records(run) == 0


def test_what_is_no_run_is_refused(tmp_path: Path, config: Config) -> None:
    with pytest.raises(WMTPError, match="neither a run nor a comparison"):
        deliver_all(tmp_path, config)


def test_a_deleted_experiment_is_one_line(make_run: MakeRun, config: Config) -> None:
    Store(config, 5).client.delete_experiment("1")
    with pytest.raises(WMTPError, match=r"mlflow\.experiment 'wmtp': is deleted"):
        deliver_all(make_run("r", steps=1), config)


def test_delivering_leaves_nothing_in_the_working_directory(make_run: MakeRun, config: Config) -> None:
    before = sorted(os.listdir())
    deliver_all(make_run("r", steps=1), config)
    assert sorted(os.listdir()) == before
