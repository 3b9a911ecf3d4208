"""MLflow on top of `metrics.jsonl`, delivered by another process."""
