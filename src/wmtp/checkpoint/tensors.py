"""Named tensors in a folder, in torch's distributed checkpoint format: any layout in, any layout out."""

import pickle
import warnings
from collections.abc import Mapping
from enum import Enum, EnumType
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from wmtp.distributed.agreement import agree, blame
from wmtp.distributed.world import world_size
from wmtp.errors import WMTPError, one_line


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def write_tensors(
    folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor], group: ProcessGroup | None
) -> None:
    """Write every rank's part into files of its own, synced to disk; what several ranks hold is written once.

    Args:
        tensors: plain tensors, the same on all ranks that give the name, or DTensors: their layout is used.
        values: for every name, this process's part.

    Raises:
        WMTPError: it could not be written; every rank raises it.
    """
    _one_process_is_meant()
    try:
        save(
            dict(tensors),
            storage_writer=_Writer(folder),
            planner=_Planner(values),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        raise WMTPError(_reason(error, group)) from error
    except RuntimeError as error:
        raise WMTPError(f"another process is gone or stuck: {one_line(error)}") from error


def read_tensors(folder: Path, into: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    """Fill tensors, plain or DTensors of any layout, by their names.

    Raises:
        WMTPError: a tensor is missing or has another shape, or a file cannot be read; every rank raises it.
    """
    agree(lambda: _refuse_others(folder, into), group)
    _one_process_is_meant()
    try:
        load(
            dict(into),
            storage_reader=_Reader(folder),
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        raise WMTPError(f"{folder}: damaged: {_reason(error, group)}") from error


def tensor_sizes(folder: Path) -> dict[str, torch.Size]:
    """Names and (whole) shapes of the tensors in a folder.

    Raises:
        WMTPError: they cannot be read.
    """
    try:
        metadata = _Reader(folder).read_metadata()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise WMTPError(f"{folder}: damaged: .metadata cannot be read: {one_line(error)}") from error
    return {
        name: entry.size
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _refuse_others(folder: Path, into: Mapping[str, Tensor]) -> None:
    sizes = tensor_sizes(folder)
    for name, tensor in into.items():
        if name not in sizes:
            raise WMTPError(f"{folder}: holds no tensor {name!r}")
        if sizes[name] != tensor.shape:
            raise WMTPError(
                f"{folder}: {name!r} has shape {list(sizes[name])}, and {list(tensor.shape)} is wanted"
            )


def _reason(error: CheckpointException, group: ProcessGroup | None) -> str:
    reasons = {rank: one_line(failure) for rank, (failure, _) in error.failures.items()}
    return blame(reasons, world_size(group))


def _one_process_is_meant() -> None:
    # Not warnings.catch_warnings: that is no thread's business, and saving may run in one.
    warnings.filterwarnings("ignore", "torch.distributed is (disabled, )?unavailable or uninitialized")


class _Planner(DefaultSavePlanner):
    """Plans by the layout of the tensors, and writes values that may be copies of theirs."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._values = values

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self._values[index.fqn]


class _Writer(FileSystemWriter):
    def storage_meta(self) -> StorageMeta | None:
        """Nothing that would make two saves of the same tensors differ (a path, a random id)."""
        return None


class _Reader(FileSystemReader):
    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """As the library does, but a pickle that wants to run code is refused."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (
            "builtins",
            "getattr",
        ):  # so Python 3.11.0 to 3.11.3 write members of enumerations
            return _member
        found = super().find_class(module, name)
        described = module.startswith("torch.distributed.checkpoint.") and isinstance(found, type)
        if described or isinstance(found, torch.dtype) or found in (torch.Size, _LAYOUT):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")


def _member(enumeration: Any, name: str) -> Enum:
    if not isinstance(enumeration, EnumType):
        raise pickle.UnpicklingError("builtins.getattr has no place in a checkpoint")
    member: Enum = enumeration[name]
    return member


_LAYOUT = torch.serialization._get_layout
