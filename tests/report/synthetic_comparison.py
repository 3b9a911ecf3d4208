"""A comparison directory as `wmtp compare` leaves it, small and made from a seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from wmtp.experiment.results import (
    ArmResult,
    Comparison,
    ReferenceResult,
    SeedResult,
    TokenSample,
    write_comparison,
    write_heatmap,
)
from wmtp.experiment.statistics import interval, mean_interval, paired_difference

# name: (chance to solve an easy problem, heads, seconds per step, last validation CE)
ARMS = {
    "uniform": (0.30, 4, 0.21, 0.61),
    "next-token": (0.33, 1, 0.10, 0.60),
    "rho1": (0.75, 4, 0.22, 0.52),
    "shuffled": (0.29, 4, 0.22, 0.63),
}
FAMILIES = ("arithmetic", "branch", "list", "string")
STEPS, EVERY, PROBLEMS = 400, 20, 80
ATTACK = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def write_run(
    run: Path, rng: np.random.Generator, arm: str, seed: int, steps: int = STEPS
) -> tuple[np.ndarray, float, dict[str, int]]:
    """One arm's run; returns passes by problem, the last validation CE and the verdicts."""
    chance, heads, per_step, last_ce = ARMS[arm]
    (run / "samples").mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        tokens, seconds = step * 2048, step * per_step * (1 + 0.02 * seed)
        curve = last_ce + 3.2 * np.exp(-step / 90)
        if step % 5 == 0:
            ce = [round(curve * (1 + 0.25 * h) + 0.05 * rng.standard_normal(), 4) for h in range(heads)]
            lines.append({
                "kind": "train", "step": step, "tokens": tokens, "seconds": seconds, "loss": sum(ce) / heads,
                "ce": ce, "weight_mean": 1.0, "weight_entropy": 0.97, "weight_effective": 0.6,
                "grad_norm": float(1 + rng.random()), "lr": 0.003 * min(1, step / 20),
                "tokens_per_second": 2048 / per_step, "memory_mib": 800.0, "skipped_steps": 0, "nonfinite_scores": 0,
            })  # fmt: skip
        if step % EVERY == 0:
            ce = [round(curve * (1 + 0.25 * h) + 0.02 * rng.standard_normal(), 4) for h in range(heads)]
            lines.append({"kind": "validation", "step": step, "tokens": tokens, "seconds": seconds, "ce": ce})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    passes, problems, samples = [], [], []
    for i in range(PROBLEMS):
        operations = 1 + i % 4
        passed = bool(rng.random() < chance * (1.3 - 0.25 * operations))
        verdict = "passed" if passed else "timeout" if i % 11 == 0 else "failed"
        passes.append(float(passed))
        problems.append({
            "task_id": f"tinycode/{i}", "samples": 1, "passed": int(passed), "verdict": verdict,
            "operations": operations, "family": FAMILIES[(i // 4) % 4],
        })  # fmt: skip
        code = f"def solve(xs):\n    ys = [x * {i} for x in xs]\n    return sorted(ys)[:{operations}]\n"
        samples.append({
            "task_id": f"tinycode/{i}", "sample": 0, "completion": ATTACK if i == 0 else code, "verdict": verdict,
            "message": "" if passed else f"AssertionError: solve([3, {i}]) == [{i}] \x1b[31m",
        })  # fmt: skip
    verdicts: dict[str, int] = {}
    for problem in problems:
        verdicts[problem["verdict"]] = verdicts.get(problem["verdict"], 0) + 1
    evaluation = {
        "task": "tinycode", "protocol": "tinycode-greedy", "problems": PROBLEMS, "samples_per_problem": 1,
        "pass_at": {"1": {"value": float(np.mean(passes)), "stderr": 0.03}}, "verdicts": verdicts,
        "by_problem": problems,
        "decoding": None if heads == 1 else {"tokens": 9, "tokens_per_forward": 2.25, "acceptance": [0.8, 0.6, 0.4]},
         "sandbox": {"isolation": "process"},
    }  # fmt: skip
    (run / "evaluation-tinycode.json").write_text(json.dumps(evaluation))
    (run / "samples" / "tinycode.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    final = [line for line in lines if line["kind"] == "validation"][-1]["ce"][0]
    return np.array(passes), final, verdicts


def write_critic(run: Path) -> dict[str, Any]:
    """The critic of a run's stage 1; returns its result."""
    aucs = {10: 0.61, 20: 0.94, 30: 0.875}
    lines = [{"kind": "train", "step": 10, "tokens": 9, "seconds": 0.1, "loss": 0.2, "value_mean": 0.0}]
    lines += [
        {"kind": "validation", "step": step, "tokens": 9, "seconds": 0.1, "auc": auc}
        for step, auc in aucs.items()
    ]
    result = {
        "objective": "gae", "backbone": "learner", "trunk": "frozen", "documents": 1080, "held_out": 120,
        "pairs": None, "steps": 30, "seconds": 12.34, "best_step": 20, "auc": 0.94, "auc_last": 0.95,
        "explained_variance": 0.512, "calibration": 0.0625,
    }  # fmt: skip
    (run / "critic").mkdir()
    (run / "critic" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "critic" / "critic.json").write_text(json.dumps(result))
    return result


def token_samples(count: int = 2) -> list[TokenSample]:
    """Documents with a planted wrong line; rho1 gives it little weight, shuffled anything, uniform 1."""
    rng = np.random.default_rng(5)
    prompt = ["Double", " every", " number", " and", " sort", ".", "\n"]
    code = [
        "def", " solve", "(", "xs", "):", "\n", "    ", "ys", " =", " [", "x", " *", " ", "3", " for", " x", " in",
        " xs", "]", "\n", "    ", "return", " sorted", "(", "ys", ")", "\n", "<eos>",
    ]  # fmt: skip
    tokens = prompt + code
    planted = [token == "3" for token in tokens]
    supervised = [i >= len(prompt) for i in range(len(tokens))]
    samples = []
    for n in range(count):
        rho1 = [
            0.05 if p else float(w) for p, w in zip(planted, rng.uniform(0.6, 2.6, len(tokens)), strict=True)
        ]
        weights = {
            "uniform": [1.0] * len(tokens),
            "rho1": rho1,
            "shuffled": [float(w) for w in rng.permutation(rho1)],
        }
        samples.append(
            TokenSample(
                title=f"tinycode/train/{n}: wrong constant (2 became 3)",
                prompt_tokens=len(prompt),
                tokens=tokens,
                supervised=supervised,
                planted=planted,
                weights={
                    arm: [w if s else None for w, s in zip(row, supervised, strict=True)]
                    for arm, row in weights.items()
                },
            )
        )
    return samples


def build(directory: Path, seeds: int = 3, steps: int = STEPS) -> Comparison:
    """Write a whole comparison."""
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {}
    for arm in ARMS:
        names = [f"arms/{arm}/seed-{seed}" for seed in range(seeds)]
        runs = [write_run(directory / name, rng, arm, seed, steps) for seed, name in enumerate(names)]
        results[arm] = (names, runs)
    passes = {arm: np.stack([run[0] for run in runs]) for arm, (_, runs) in results.items()}
    arms = []
    for arm, (names, runs) in results.items():
        heads, per_step = ARMS[arm][1:3]
        verdicts = {
            v: sum(run[2].get(v, 0) for run in runs) for v in sorted({v for run in runs for v in run[2]})
        }
        arms.append(
            ArmResult(
                name=arm,
                description={} if arm == "uniform" else {"train.algo": f"{arm}-wmtp", "model.heads": heads},
                pass_at_1=interval(passes[arm]),
                difference=None if arm == "uniform" else paired_difference(passes[arm], passes["uniform"]),
                validation_ce=mean_interval([run[1] for run in runs]),
                tokens_per_forward=None if heads == 1 else 2.2 + len(arm) / 50,
                acceptance=None if heads == 1 else [0.81, 0.62, 0.4 + len(arm) / 100],
                training_tokens_per_second=2048 / per_step,
                training_seconds=steps * per_step,
                training_tokens=steps * 2048,
                by_seed=[
                    SeedResult(seed=seed, pass_at_1=float(run[0].mean()), validation_ce=run[1], run=name)
                    for seed, (name, run) in enumerate(zip(names, runs, strict=True))
                ],
                verdicts=verdicts,
            )
        )
    comparison = Comparison(
        name="demo",
        task="tinycode",
        protocol="tinycode-greedy",
        baseline="uniform",
        seeds=list(range(seeds)),
        steps=steps,
        problems=PROBLEMS,
        arms=arms,
        reference=ReferenceResult(pass_at_1=0.385, validation_ce=0.583, seconds=41.3, run="reference"),
        conditions={
            "date": "2026-01-31", "device": "cpu", "cpu": "4 cores", "threads": 2, "torch": "2.13.0",
            "wmtp": "0.1.0", "precision": "bfloat16", "noise": 0.5,
        },
    )  # fmt: skip
    write_comparison(comparison, directory)
    write_heatmap(token_samples(), directory)
    (directory / "recipe.yaml").write_text("seed: 0\nloss:\n  lambda: 1.0\n")
    return comparison
