"""Processor, memory, disk, network and GPU of the machine, as records beside `metrics.jsonl`."""

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wmtp.metrics import append_record
from wmtp.tracking.ledger import Tail

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor


def record_system_metrics(path: Path, every: float) -> None:
    """Append a record of kind "system" every so many seconds, for ever; steps count on from the file's last."""
    step = max((record["step"] for record in Tail(path).read()), default=-1)
    monitors = _monitors()
    _sample(monitors)  # the first one has nothing to be measured against
    while True:
        time.sleep(every)
        step += 1
        append_record(path, {"kind": "system", "step": step, **_sample(monitors)})


def _monitors() -> "list[BaseMetricsMonitor]":
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no GPU
        monitors.append(GPUMonitor())
    return monitors


def _sample(monitors: "list[BaseMetricsMonitor]") -> dict[str, float]:
    sample: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        sample |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return sample
