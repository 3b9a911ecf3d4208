"""Names of the files and folders of a run or a comparison."""

from pathlib import Path

RECIPE_FILE = "recipe.yaml"
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
DATA_FILE = "data.json"
METRICS_FILE = "metrics.jsonl"
SYSTEM_FILE = "system.jsonl"
HEARTBEAT_FILE = "heartbeat.json"
COMPARISON_FILE = "comparison.json"
HEATMAP_FILE = "heatmap.json"
DIAGNOSIS_FILE = "diagnosis.json"
REPORT_FILE = "report.html"
LEDGER_FILE = "mlflow.json"

CHECKPOINTS = "checkpoints"
CRITIC = "critic"
"""Stage 1's own run, inside the run."""
CRITIC_FILE = "critic.json"
BEST = "best"
"""The critic's best head, inside its run."""

EVALUATIONS = "evaluation-*.json"
HEADS_FILE = "evaluation-heads.json"
SPEED_FILE = "evaluation-speed.json"
LM_EVAL_FILE = "evaluation-lm-eval.json"


def evaluation_file(run: Path, name: str) -> Path:
    """The result of an evaluation.

    Args:
        name: see `wmtp.evaluate.tasks.result_name`.
    """
    return run / f"evaluation-{name}.json"


def samples_file(run: Path, name: str) -> Path:
    """The samples of an evaluation, with their verdicts."""
    return run / "samples" / f"{name}.jsonl"


def evaluation_files(run: Path) -> list[Path]:
    """The results of a run that hold pass@k."""
    others = (HEADS_FILE, SPEED_FILE, LM_EVAL_FILE)
    return [path for path in sorted(run.glob(EVALUATIONS)) if path.name not in others]
