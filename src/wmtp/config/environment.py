"""The environment: where things are and what they run on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wmtp.config.base import Positive, Section


class PathsConfig(Section):
    runs: str = "runs"
    cache: str = ".wmtp/cache"


class MeshConfig(Section):
    """Hybrid sharding: `replicate` copies of the model, each over `shard` processes."""

    replicate: Positive
    shard: Positive


class DevicesConfig(Section):
    """Times in seconds. `precision: auto` is bf16 where the processor multiplies it natively, else fp32.

    `parallel: auto` replicates small models (DDP) and shards large ones, or where a mesh or offloading is asked for
    (FSDP2). A process that waits longer than `collective_timeout` for another ends the run; one that is asked to stop
    has `stop_timeout` to save.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    threads: Positive | None = None
    deterministic: bool = False
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    mesh: MeshConfig | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    collective_timeout: Annotated[float, Field(gt=0)] = 600.0
    stop_timeout: Annotated[float, Field(gt=0)] = 100.0

    @model_validator(mode="after")
    def _sharded(self) -> "DevicesConfig":
        if self.parallel == "ddp" and (self.mesh is not None or self.cpu_offload):
            key = "mesh" if self.mesh is not None else "cpu_offload"
            raise ValueError(f"{key} shards the model; it goes with parallel fsdp or auto, not ddp")
        return self


class MLflowConfig(Section):
    """`tracking_uri` null is an SQLite file in `paths.runs`."""

    enabled: bool = False
    tracking_uri: str | None = None
    experiment: str = "wmtp"
    system_metrics: bool = True


class Config(Section):
    """The environment: where things are and what they run on (`config.yaml`)."""

    paths: PathsConfig = PathsConfig()
    devices: DevicesConfig = DevicesConfig()
    mlflow: MLflowConfig = MLflowConfig()
