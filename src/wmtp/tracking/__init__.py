"""What a run records: `metrics.jsonl` always; MLflow on top, delivered by another process."""

from wmtp.tracking.metrics import MetricsLog, finite

__all__ = ["MetricsLog", "finite"]
