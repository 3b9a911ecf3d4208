"""Named tensors in a folder of safetensors files: any layout of ranks in, any layout out."""

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from wmtp.checkpoint.legacy import LegacyReader, is_legacy
from wmtp.distributed.agreement import agree, blame
from wmtp.distributed.world import world_size
from wmtp.errors import WMTPError, one_line
from wmtp.storage import write_json


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def write_tensors(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    group: ProcessGroup | None,
) -> None:
    """Write every rank's part into a file of its own, synced to disk; what several ranks hold is written once.

    Where every tensor lies whole in one file, an index says in which, as transformers wants it.

    Args:
        name: what the files' names begin with.
        tensors: plain tensors, the same on all ranks that give the name, or DTensors: their layout is used.
        values: for every name, this process's part.

    Raises:
        WMTPError: it could not be written; every rank raises it.
    """
    _one_process_is_meant()
    try:
        save(
            dict(tensors),
            storage_writer=_Writer(folder, name),
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
            storage_reader=_reader(folder),
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=group,
            no_dist=group is None,
        )
    except CheckpointException as error:
        raise WMTPError(f"{folder}: damaged: {_reason(error, group)}") from error


def tensor_sizes(folder: Path) -> dict[str, torch.Size]:
    """Names and (whole) shapes of the tensors in a folder.

    Raises:
        WMTPError: they cannot be read, or a part of one is missing.
    """
    try:
        metadata = _reader(folder).read_metadata()
    except Exception as error:  # a damaged header raises whatever its bytes happen to spell
        raise WMTPError(f"{folder}: damaged: its tensors cannot be listed: {one_line(error)}") from error
    sizes = {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
            raise WMTPError(f"{folder}: damaged: a part of {name!r} is missing")
        sizes[name] = entry.size
    return sizes


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
    """Writes a rank's tensors straight from memory into one file.

    torch's own writer of safetensors first makes another copy of them all, and gives the same tensors another file
    each time: with more than one key, safetensors orders a header's metadata by chance.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder)
        self._name = name

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [
            dataclasses.replace(plan, storage_data=f"{self._name}-{rank:05}-of-{len(plans):05}.safetensors")
            for rank, plan in enumerate(plans, start=1)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written: Future[list[WriteResult]] = Future()
        written.set_result(self._write(plan, planner) if plan.items else [])
        return written

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        tensors, offsets, results = {}, {}, []
        for item in plan.items:
            name, tensor = item.index.fqn, planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            assert item.tensor_data is not None
            tensors[name] = tensor.cpu().contiguous()
            offsets[name] = list(item.tensor_data.chunk.offsets)
            results.append(WriteResult(item.index, tensor.nbytes, plan.storage_data))
        file = Path(self.path) / plan.storage_data
        save_file(tensors, file, metadata=_header(offsets))
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        entries = metadata.state_dict_metadata.values()
        if all(isinstance(entry, TensorStorageMetadata) and len(entry.chunks) == 1 for entry in entries):
            found = [result for of_rank in results for result in of_rank]
            index = {
                "metadata": {"total_size": sum(result.size_in_bytes for result in found)},
                "weight_map": {result.index.fqn: result.storage_data for result in found},
            }
            write_json(Path(self.path) / f"{self._name}.safetensors.index.json", index)


def _header(offsets: Mapping[str, list[int]]) -> dict[str, str]:
    """The metadata of a file: where its parts belong, as torch's reader wants it, unless all begin at 0."""
    if not any(map(any, offsets.values())):
        return {"format": "pt"}
    return {"DCP_SHARDING_INFO": json.dumps({name: {"saved_offsets": o} for name, o in offsets.items()})}


def _reader(folder: Path) -> FileSystemReader:
    return LegacyReader(folder) if is_legacy(folder) else HuggingFaceStorageReader(str(folder))
