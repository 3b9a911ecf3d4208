"""What a run ran on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from wmtp import __version__
from wmtp.config import DevicesConfig
from wmtp.errors import WMTPError

LIBRARIES = ("transformers", "tokenizers", "numpy")


def processor_name() -> str:
    """The processor's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def choose_device(devices: DevicesConfig) -> torch.device:
    """`devices.device`, where auto is the GPU if there is one."""
    if devices.device.startswith("cuda") and not torch.cuda.is_available():
        raise WMTPError(
            f"devices.device {devices.device!r}: this machine has no CUDA device; use cpu or auto"
        )
    if devices.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(devices.device)


def choose_dtype(devices: DevicesConfig, device: torch.device) -> torch.dtype:
    """`devices.precision`, where auto is bf16 on hardware that multiplies it natively."""
    if devices.precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bf16()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if devices.precision == "bf16" else torch.float32


def decoding_dtype(devices: DevicesConfig) -> torch.dtype:
    """What models decode in: `devices.precision` on a GPU, float32 on a CPU."""
    device = choose_device(devices)
    return choose_dtype(devices, device) if device.type == "cuda" else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name in files and messages: bfloat16, float32."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context that computes in bf16 if that is the dtype, else in the tensors' own."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def _cpu_multiplies_bf16() -> bool:
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return any(flag in flags for flag in (" avx512_bf16", " amx_bf16", " bf16"))


def configure_torch(devices: DevicesConfig) -> None:
    """Set threads and determinism of this process."""
    if devices.threads is not None:
        torch.set_num_threads(devices.threads)
    if devices.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def describe(devices: DevicesConfig) -> dict[str, Any]:
    """Versions, hardware and the values of `auto`, for `environment.json` and `wmtp env`."""
    device = choose_device(devices)
    return {
        "wmtp": __version__,
        **{name: version(name) for name in LIBRARIES},
        "torch": torch.__version__,  # with its build, +cpu or +cu130
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": dtype_name(choose_dtype(devices, device)),
        "deterministic": devices.deterministic,
    }
