"""Checkpoints of format 2, whose tensors are torch's own files, are read as before."""

import pickle
from enum import Enum
from pathlib import Path

import pytest
import torch
from saving import content, make_writer, model_at, save_and_wait, training_at
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_as_torch_does

from wmtp.checkpoint import store as checkpoint
from wmtp.errors import WMTPError
from wmtp.storage import sha256_file, write_json


class WriterOfBefore(FileSystemWriter):
    def storage_meta(self) -> None:
        """A path and a random id were left out."""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Step 1 in format 2."""
    saved = save_and_wait(make_writer(tmp_path), 1)
    for file in saved.rglob("*.safetensors*"):
        file.unlink()
    for part, tensors in (("model", model_at(1)), ("training", training_at(1))):
        save_as_torch_does(tensors, storage_writer=WriterOfBefore(saved / part), no_dist=True)
    (saved / "manifest.json").unlink()
    files = {p.relative_to(saved).as_posix(): sha256_file(p) for p in saved.rglob("*") if p.is_file()}
    assert {"model/.metadata", "model/__0_0.distcp"} < files.keys()
    write_json(saved / "manifest.json", {"format": 2, "step": 1, "world_size": 1, "files": files})
    return saved


def test_it_is_found_verified_and_read(saved: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert checkpoint.newest_good(tmp_path, said.append) == saved
    assert not said
    assert content(saved) == 1
    assert checkpoint.tensor_names(saved, "model") == {n: t.shape for n, t in model_at(1).items()}


def test_a_run_goes_on_from_it_in_the_present_format(saved: Path, tmp_path: Path) -> None:
    newer = save_and_wait(make_writer(tmp_path), 2)
    assert checkpoint.checkpoints(tmp_path) == [saved, newer]
    assert [content(found) for found in (saved, newer)] == [1, 2]
    assert not list(newer.rglob("*.distcp"))


def test_it_cannot_run_code(saved: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (saved / "model" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WMTPError, match=r"its tensors cannot be listed: .*has no place in a checkpoint"):
        checkpoint.load_tensors(saved, "model", model_at(0))
    assert not (tmp_path / "ran").exists()


def test_that_of_python_3_11_0_to_3_11_3_is_read(saved: Path) -> None:
    """There, a member of an enumeration is pickled as `getattr(enumeration, name)`."""
    metadata = saved / "model" / ".metadata"

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: object) -> object:
            return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented

    read = pickle.loads(metadata.read_bytes())
    with metadata.open("wb") as file:
        Pickler(file).dump(read)
    assert b"getattr" in metadata.read_bytes()
    loaded = model_at(0)
    checkpoint.load_tensors(saved, "model", loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model_at(1).items())
