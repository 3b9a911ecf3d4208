"""The model registry, with models small enough to make on the spot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow_runs import Database, MakeRun

from wmtp.config import Config
from wmtp.data.tokenizer import encode, load_tokenizer, train_tokenizer
from wmtp.errors import WMTPError
from wmtp.experiment.model_registry import best_of_comparison, register
from wmtp.experiment.results import ArmResult, Comparison, Difference, Interval, SeedResult, write_comparison
from wmtp.tracking.store import Store

pytestmark = [
    pytest.mark.slow,
    # MLflow's own modules: about their type hints, and what they use of pandas.
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
]


def export(run: Path, output: Path) -> None:
    """A tiny model; every run's is another one, and always the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(sum(run.as_posix().encode()))
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=280, num_attention_heads=2, **sizes))
    model.save_pretrained(output)
    train_tokenizer(["def f(x): return x"] * 9, 270, run.parent).save_pretrained(output)


def compare(
    directory: Path, make_run: MakeRun, *, protocol: str = "greedy", **pass_at_1: list[float]
) -> Path:
    """A finished comparison with these arms' results by seed; the first is the baseline."""
    arms = []
    for name, shares in pass_at_1.items():
        for seed in range(len(shares)):
            make_run(f"{directory.name}/arms/{name}/seed-{seed}", steps=10)
        mean = Interval(sum(shares) / len(shares), None, None)
        arms.append(
            ArmResult(
                name=name,
                description={},
                pass_at_1=mean,
                difference=Difference(0.1, 0.0, 0.2, 0.5) if arms else None,
                validation_ce=mean,
                tokens_per_forward=None,
                acceptance=None,
                training_tokens_per_second=1.0,
                training_seconds=1.0,
                training_tokens=1,
                by_seed=[
                    SeedResult(i, share, 1.0, f"arms/{name}/seed-{i}") for i, share in enumerate(shares)
                ],
            )
        )
    make_run(directory.name)
    (directory / "metrics.jsonl").unlink()
    comparison = Comparison(
        name=directory.name,
        task="tinycode",
        protocol=protocol,
        baseline=next(iter(pass_at_1)),
        seeds=[0],
        steps=10,
        problems=4,
        arms=arms,
    )
    write_comparison(comparison, directory)
    return directory


def test_the_best_arm_is_the_one_with_the_best_mean(make_run: MakeRun, config: Config) -> None:
    directory = Path(config.paths.runs) / "cmp"
    compare(directory, make_run, a=[0.9, 0.1], b=[0.5, 0.7])
    best = best_of_comparison(directory)
    assert (best.run.relative_to(directory).as_posix(), best.pass_at_1) == ("arms/b/seed-1", 0.7)


def test_the_champion_gives_way_only_to_a_better_one(
    make_run: MakeRun, config: Config, database: Database
) -> None:
    runs = Path(config.paths.runs)
    first = compare(runs / "first", make_run, uniform=[0.2], rho1=[0.5])
    worse = compare(runs / "worse", make_run, uniform=[0.4])
    better = compare(runs / "better", make_run, uniform=[0.6])
    other = compare(runs / "other", make_run, protocol="sampled", uniform=[0.9])
    client = Store(config, 5).client

    def champion() -> str:
        return str(client.get_model_version_by_alias("coder", "champion").version)

    found = register(first, "coder", config, export)
    assert (found.version, found.champion, found.reason) == ("1", True, "the first champion")
    version = client.get_model_version("coder", "1")
    assert {key: version.tags[key] for key in ("pass_at_1", "task", "protocol")} == {
        "pass_at_1": "0.5",
        "task": "tinycode",
        "protocol": "greedy",
    }
    names = {run_id: name for name, _, run_id in database.runs()}
    assert names[version.run_id] == "rho1/seed-0"

    found = register(worse, "coder", config, export)
    assert (found.version, found.champion, champion()) == ("2", False, "1")
    assert found.reason == "version 1 stays champion: pass@1 0.500, this one 0.400"
    found = register(better, "coder", config, export)
    assert (found.version, found.champion, champion()) == ("3", True, "3")
    assert found.reason == "champion: pass@1 0.600 beats 0.500 of version 1"
    found = register(other, "coder", config, export)
    assert (found.version, found.champion, champion()) == ("4", False, "3")
    assert "tinycode (sampled)" in found.reason
    found = register(other, "coder", config, export, force=True)
    assert (found.version, found.champion, champion()) == ("4", True, "4")  # the same model: no new version
    assert [path.name for path in (other / "arms/uniform/seed-0").glob(".register*")] == []


def test_a_registered_model_continues_texts_greedily(
    make_run: MakeRun, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow
    import pandas
    from transformers import AutoModelForCausalLM

    run = make_run("r", steps=10)
    found = register(run, "coder", config, export)
    assert (found.version, found.champion) == ("1", False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Store(config, 5).uri)
    served = mlflow.pyfunc.load_model("models:/coder/1")
    assert served.metadata.signature.inputs.input_names() == ["prompt"]
    assert served.input_example["prompt"].tolist() == ["Write a function."]

    export(run, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    prompts = ["def f(", "return x and more"]
    expected = []
    for prompt in prompts:
        ids = encode(tokenizer, [prompt])[0]
        length = len(ids)
        while len(ids) < length + 6 and tokenizer.eos_token_id not in ids[length:]:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids[length:], skip_special_tokens=True))
    table = pandas.DataFrame({"prompt": prompts})
    assert served.predict(table, params={"max_new_tokens": 6}) == expected


def test_what_cannot_be_registered_is_one_line(make_run: MakeRun, config: Config, tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match="neither a run nor a comparison"):
        register(tmp_path, "coder", config, export)
    mlflow = config.mlflow.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(WMTPError, match="could not be reached"):
        register(make_run("r", steps=1), "coder", config.model_copy(update={"mlflow": mlflow}), export)
