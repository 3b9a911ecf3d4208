"""Writing, checking and reading checkpoints in one process."""

import json
import resource
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from saving import content, flip, make_writer, model_at, names, save, save_and_wait, training_at, write_files

from wmtp.checkpoint import store as checkpoint
from wmtp.errors import WMTPError

FILES = (
    "config.json",
    "tokenizer.json",
    "manifest.json",
    "state.json",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "training/training-00001-of-00001.safetensors",
    "training/training.safetensors.index.json",
)
IN_BACKGROUND = pytest.mark.parametrize("in_background", [False, True])


@IN_BACKGROUND
def test_what_is_saved_is_loaded(in_background: bool, tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=in_background)
    assert writer.wait() is None
    saved = save_and_wait(writer, 3)
    assert saved == tmp_path / "checkpoints" / "step-00000003"
    assert checkpoint.step_of(saved) == 3
    assert names(tmp_path) == ["latest", "step-00000003"]
    assert sorted(p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()) == sorted(FILES)
    checkpoint.verify(saved)
    assert content(saved) == 3
    assert checkpoint.load_state(saved) == {"step": 3, "of": 3}
    assert checkpoint.tensor_names(saved, "training") == {n: t.shape for n, t in training_at(3).items()}


def test_the_same_tensors_give_the_same_files(tmp_path: Path) -> None:
    for run in (tmp_path / "a", tmp_path / "b"):
        save(make_writer(run), 1)
    a, b = (checkpoint.digests(checkpoint.checkpoints(run)[0]) for run in (tmp_path / "a", tmp_path / "b"))
    assert a == b


def test_the_newest_and_the_permanent_are_kept(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, keep=2, keep_every=4)
    for step in range(1, 11):
        save(writer, step)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (4, 8, 9, 10))]
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step-00000010"


def test_a_course_that_was_given_up_does_not_come_back(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, keep=2)
    for step in (2, 4, 6):
        save(writer, step)
    save(writer, 5)
    assert names(tmp_path) == ["latest", "step-00000004", "step-00000005"]
    assert (tmp_path / "checkpoints" / "latest").resolve().name == "step-00000005"


@IN_BACKGROUND
def test_a_step_saved_again_is_replaced(in_background: bool, tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=in_background)
    save(writer, 2, of=1)
    saved = save_and_wait(writer, 2)
    assert names(tmp_path) == ["latest", "step-00000002"]
    assert content(saved) == 2


def test_in_the_background_tensors_may_change_at_once(tmp_path: Path) -> None:
    writer, go_on = make_writer(tmp_path, in_background=True), threading.Event()

    def files(folder: Path) -> None:
        assert go_on.wait(30)
        write_files(folder)

    for step in (1, 2):  # the second time into the same buffers
        go_on.clear()
        model, training, state = model_at(step), training_at(step), {"of": step, "list": [step]}
        writer.save(step, model=model, training=training, state=state, files=files)
        for tensor in [*model.values(), *training.values()]:
            tensor.zero_()
        state["list"].append("later")
        assert len(checkpoint.checkpoints(tmp_path)) == step - 1
        go_on.set()
        saved = writer.wait()
        assert saved is not None
        assert content(saved) == step
        assert checkpoint.load_state(saved)["list"] == [step]


@pytest.mark.gpu
@IN_BACKGROUND
def test_tensors_on_a_gpu(in_background: bool, gpu_device: str, tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=in_background)
    model = {name: tensor.to(gpu_device) for name, tensor in model_at(1).items()}
    training = {name: tensor.to(gpu_device) for name, tensor in training_at(1).items()}
    writer.save(1, model=model, training=training, state={"of": 1}, files=write_files)
    if in_background:
        for tensor in [*model.values(), *training.values()]:
            tensor.zero_()
    saved = writer.wait()
    assert saved is not None
    assert content(saved) == 1
    checkpoint.load_tensors(saved, "model", model)
    assert all(torch.equal(model[name].cpu(), tensor) for name, tensor in model_at(1).items())


@IN_BACKGROUND
def test_an_error_is_one_line_and_leaves_what_was_there(in_background: bool, tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=in_background)

    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(WMTPError, match=r"step-00000001: cannot be saved: .*; there is none before it"):
        save_and_wait(writer, 1, files=fail)
    saved = save_and_wait(writer, 2)
    for step in (2, 4):
        with pytest.raises(WMTPError, match=r"saved: .*No space left.*; step-00000002 is still good"):
            save_and_wait(writer, step, files=fail)
        assert names(tmp_path) == ["latest", "step-00000002"]
        checkpoint.verify(saved)
    assert content(save_and_wait(writer, 8)) == 8


def test_an_error_in_the_background_is_raised_by_the_next_save(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=True)
    save(writer, 1, files=lambda folder: (folder / "no" / "such").touch())
    with pytest.raises(WMTPError, match="step-00000001: cannot be saved"):
        save(writer, 2)
    assert content(save_and_wait(writer, 2)) == 2


@IN_BACKGROUND
def test_a_fault_of_the_program_keeps_its_kind(in_background: bool, tmp_path: Path) -> None:
    writer = make_writer(tmp_path, in_background=in_background)

    def fail(folder: Path) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        save_and_wait(writer, 1, files=fail)
    assert names(tmp_path) == []


@IN_BACKGROUND
def test_a_disk_that_fills_up_while_saving(in_background: bool, tmp_path: Path) -> None:
    """The limit on file sizes stands in for the end of the disk: writing fails half-way, at the kernel's word."""
    writer = make_writer(tmp_path, in_background=in_background)
    save(writer, 1)
    writer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(
            WMTPError, match=r"step-00000002: cannot be saved: .*File too large.*; step-00000001"
        ):
            save_and_wait(writer, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_a_disk_that_is_too_full_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, big = make_writer(tmp_path), {"w": torch.zeros(5_000_000)}
    save(writer, 1)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(36_000_000))
    with pytest.raises(
        WMTPError, match=r"needs 37 MB, 36 MB free on its file system; step-00000001 is still good"
    ):
        writer.save(2, model=big, training={}, state={}, files=write_files)
    assert names(tmp_path) == ["latest", "step-00000001"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(38_000_000))
    writer.save(2, model=big, training={}, state={}, files=write_files)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_falls_back_and_says_so(name: str, damage: object, tmp_path: Path) -> None:
    writer, said = make_writer(tmp_path), []
    for step in (1, 2):
        save(writer, step)
    assert checkpoint.newest_good(tmp_path, said.append) == checkpoint.checkpoints(tmp_path)[1]
    assert not said
    older, newer = checkpoint.checkpoints(tmp_path)
    damage(newer / name)  # type: ignore[operator]
    with pytest.raises(WMTPError, match=r"step-00000002: (damaged: |not a WMTP checkpoint)") as caught:
        checkpoint.verify(newer)
    assert "\n" not in str(caught.value)
    assert checkpoint.newest_good(tmp_path, said.append) == older
    (line,) = said
    assert line.startswith("step-00000002 is damaged (")
    assert line.endswith("); going on from step-00000001")
    assert name in line or name == "manifest.json"


def test_when_all_are_damaged_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert checkpoint.newest_good(tmp_path, print) is None
    writer = make_writer(tmp_path)
    for step in (1, 2):
        save(writer, step)
    for saved in checkpoint.checkpoints(tmp_path):
        flip(saved / "state.json")
    with pytest.raises(
        WMTPError, match=r"no checkpoint is good: step-00000002 \(state\.json .*step-00000001 \("
    ):
        checkpoint.newest_good(tmp_path, print)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WMTPError, match=r"not a WMTP checkpoint \(no manifest\.json\)"):
        checkpoint.verify(tmp_path)
    for manifest in ([], {"format": 1}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(WMTPError, match="not a WMTP checkpoint of format 2 or 3"):
            checkpoint.verify(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 3, "files": {}}))
    with pytest.raises(WMTPError, match=r"damaged: manifest\.json is not what was saved"):
        checkpoint.verify(tmp_path)


def test_tensors_that_are_not_there_or_of_another_shape(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    save(writer, 1)
    (saved,) = checkpoint.checkpoints(tmp_path)
    with pytest.raises(WMTPError, match=r"step-00000001: holds no tensor 'layers\.9\.weight'"):
        checkpoint.load_tensors(saved, "model", {"layers.9.weight": torch.zeros(2)})
    with pytest.raises(WMTPError, match=r"'lm_head\.weight' has shape \[9, 4\], and \[4, 9\] is wanted"):
        checkpoint.load_tensors(saved, "model", {"lm_head.weight": torch.zeros(4, 9)})
    halve(saved / "model-00001-of-00001.safetensors")
    with pytest.raises(WMTPError, match="step-00000001: damaged: ") as caught:
        checkpoint.load_tensors(saved, "model", model_at(0))
    assert "\n" not in str(caught.value)


def test_a_model_is_found_by_run_checkpoint_or_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(WMTPError, match="the run has no checkpoint yet"):
        checkpoint.resolve_model(str(run), "key")
    save(make_writer(run), 1)
    (saved,) = checkpoint.checkpoints(run)
    assert checkpoint.resolve_model(str(run), "key") == saved
    assert checkpoint.resolve_model(str(saved), "key") == saved
    assert checkpoint.resolve_model("owner/name", "key") == "owner/name"
    with pytest.raises(WMTPError, match=r"key '\./gone': no such folder"):
        checkpoint.resolve_model("./gone", "key")
