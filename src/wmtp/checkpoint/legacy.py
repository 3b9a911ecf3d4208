"""Reading the tensors of checkpoints of format 2: torch's own files, described by a pickle."""

import pickle
from enum import Enum, EnumType
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

DESCRIPTION = ".metadata"


def is_legacy(folder: Path) -> bool:
    """Whether a folder holds tensors in the format of before."""
    return (folder / DESCRIPTION).is_file()


class LegacyReader(FileSystemReader):
    """Reads as the library does, but refuses a pickle that wants to run code."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        with (Path(self.path) / DESCRIPTION).open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # How Python 3.11.0 to 3.11.3 write an enumeration's member.
        if (module, name) == ("builtins", "getattr"):
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
