"""The value head: what it computes, and that a file which is no head for these hidden states is refused by name."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from refusals import refusal
from wmtp.critic.value_head import ValueHead, load_value_head, save_value_head

D = 16
FINGERPRINT = {"trunk": "a" * 64, "tokenizer": "b" * 64}
NAMES = [
    f"{layer}.{kind}"
    for layer in (
        "body.0",
        "body.1",
        "output",
        "surprise.expected.0",
        "surprise.expected.1",
        "surprise.token.0",
        "surprise.token.1",
    )
    for kind in ("bias", "weight")
] + ["surprise.output.weight"]


def filled(head: ValueHead, seed: int = 1) -> ValueHead:
    """As after training: no parameter is what it started as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(generator=generator)
    return head


def hidden_states(*shape: int) -> Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(2))


def head_inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden state, the one before, and embedding."""
    return hidden_states(3, *shape).unbind()  # type: ignore[return-value]


def refused(folder: Path, hidden_size: int = D, **options: Any) -> str:
    message = refusal(load_value_head, folder, hidden_size, **options)
    assert "\x1b" not in message
    assert message.startswith(str(folder))
    return message


def assert_same(one: ValueHead, other: ValueHead) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    inputs = head_inputs(3)
    assert torch.equal(one(*inputs), other(*inputs))


def test_values_by_the_formula() -> None:
    head, inputs = filled(ValueHead(D)), head_inputs(2, 5)
    p = {name: tensor.double() for name, tensor in head.state_dict().items()}

    def layer(name: str, h: Tensor) -> Tensor:
        normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        scaled = normed * p[f"{name}.0.weight"] + p[f"{name}.0.bias"]
        return scaled @ p[f"{name}.1.weight"].T + p[f"{name}.1.bias"]

    hidden, previous, embeddings = (x.double() for x in inputs)
    inner = layer("body", hidden)
    alone = (inner * inner.sigmoid()) @ p["output.weight"][0] + p["output.bias"]
    agreement = layer("surprise.expected", previous) * layer("surprise.token", embeddings)
    expected = alone + agreement @ p["surprise.output.weight"][0]
    torch.testing.assert_close(head(inputs[0]).double(), alone, rtol=1e-5, atol=1e-5)
    values = head(*inputs)
    assert values.shape == (2, 5)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)


def test_linear_values_by_the_formula() -> None:
    head, hidden = filled(ValueHead.linear(D)), hidden_states(2, 5)
    assert sorted(head.state_dict()) == ["output.bias", "output.weight"]
    torch.testing.assert_close(head(hidden), hidden @ head.output.weight[0] + head.output.bias)
    assert torch.equal(head(*head_inputs(2, 5)), head(head_inputs(2, 5)[0]))


@pytest.mark.parametrize("make", [ValueHead, ValueHead.linear])
def test_starts_at_zero_and_learns(make: Callable[[int], ValueHead]) -> None:
    head, inputs = make(D), head_inputs(32)
    assert (head(*inputs) == 0).all()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    target = inputs[0][:, 0]
    losses = []
    for _ in range(50):
        loss = (head(*inputs) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(0)
    first = ValueHead(D, seed=3)
    torch.manual_seed(99)
    assert_same(ValueHead(D, seed=3), first)
    other = ValueHead(D, seed=4).state_dict()["body.1.weight"]
    assert not torch.equal(other, first.state_dict()["body.1.weight"])
    assert ValueHead(256).state_dict()["body.1.weight"].std().item() == pytest.approx(256**-0.5, rel=0.05)


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    save_value_head(ValueHead(D, seed=1), tmp_path, FINGERPRINT)
    ValueHead.linear(D)
    load_value_head(tmp_path, D)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [ValueHead, ValueHead.linear])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_inside_whatever_comes_in(make: Callable[[int], ValueHead], dtype: torch.dtype) -> None:
    head, inputs = filled(make(D)), [x.to(dtype) for x in head_inputs(2, 5)]
    hidden = inputs[0]
    expected = head(*(x.float() for x in inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = head(*inputs)
        assert (hidden.float() @ hidden.float().mT).dtype == torch.bfloat16, "autocast is on"
    assert values.dtype == torch.float32
    assert torch.equal(values, expected)
    values.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in head.parameters())


def test_float32_under_another_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert {t.dtype for t in ValueHead(D).state_dict().values()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", [ValueHead, ValueHead.linear])
def test_what_is_saved_is_loaded(make: Callable[[int], ValueHead], tmp_path: Path) -> None:
    head = filled(make(D))
    save_value_head(head, tmp_path, FINGERPRINT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["value_head.json", "value_head.safetensors"]
    description = json.loads((tmp_path / "value_head.json").read_text())
    assert description["hidden_size"] == D
    assert description["fingerprint"] == FINGERPRINT
    assert_same(load_value_head(tmp_path, D), head)
    assert_same(load_value_head(tmp_path, D, expected=FINGERPRINT), head)
    assert_same(load_value_head(tmp_path, D, expected={"trunk": "a" * 64}), head)


@pytest.mark.parametrize("make", [ValueHead, ValueHead.linear])
@pytest.mark.parametrize(
    "prefix", ["", "value_head.", "module.", "module.value_head.", "0.", "v_head.summary."]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_torch_alone(
    make: Callable[[int], ValueHead], prefix: str, zipped: bool, tmp_path: Path
) -> None:
    head = filled(make(D))
    state = {prefix + name: tensor for name, tensor in head.state_dict().items()}
    torch.save(state, tmp_path / "value_head.pt", _use_new_zipfile_serialization=zipped)
    assert_same(load_value_head(tmp_path, D, expected=FINGERPRINT), head)


@pytest.mark.parametrize("prefix", ["", "summary.", "0.", "v_head.summary."])
def test_a_single_linear_layer(prefix: str, tmp_path: Path) -> None:
    layer = nn.Linear(D, 1)
    torch.save({prefix + k: v for k, v in layer.state_dict().items()}, tmp_path / "value_head.pt")
    head = load_value_head(tmp_path, D)
    assert isinstance(head, ValueHead)
    hidden = hidden_states(2, 5)
    torch.testing.assert_close(head(hidden), layer(hidden).squeeze(-1))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    head = filled(ValueHead(D)).bfloat16()
    torch.save(head.state_dict(), tmp_path / "value_head.pt")
    assert_same(load_value_head(tmp_path, D), head.float())


def test_safetensors_go_first_and_alone(tmp_path: Path) -> None:
    torch.save(filled(ValueHead(D), seed=5).state_dict(), tmp_path / "value_head.pt")
    save_file(filled(ValueHead(D)).state_dict(), tmp_path / "value_head.safetensors")
    assert_same(load_value_head(tmp_path, D), filled(ValueHead(D)))
    (tmp_path / "value_head.safetensors").write_bytes(b"damaged")
    assert "value_head.safetensors: damaged" in refused(tmp_path)


def test_saving_again_replaces_and_a_failure_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_value_head(ValueHead(D), tmp_path, {"trunk": "old"})
    head = filled(ValueHead(D))
    save_value_head(head, tmp_path, FINGERPRINT)

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_value_head(ValueHead(D), tmp_path, {"trunk": "new"})
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["value_head.json", "value_head.safetensors"]
    assert_same(load_value_head(tmp_path, D, expected=FINGERPRINT), head)


def test_weights_without_their_own_description_are_refused(tmp_path: Path) -> None:
    """As after a crash between the two files."""
    save_value_head(ValueHead(D), tmp_path, FINGERPRINT)
    description = (tmp_path / "value_head.json").read_text()
    save_value_head(filled(ValueHead(D)), tmp_path, FINGERPRINT)
    (tmp_path / "value_head.json").write_text(description)
    assert "value_head.safetensors: damaged: its checksum" in refused(tmp_path)
    (tmp_path / "value_head.json").unlink()
    load_value_head(tmp_path, D)
    assert "value_head.json: no such file" in refused(tmp_path, expected=FINGERPRINT)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_neither_file(folder: str, tmp_path: Path) -> None:
    message = refused(tmp_path / folder)
    assert "neither value_head.safetensors nor value_head.pt" in message


def damage(path: Path) -> list[bytes]:
    """The file cut short in many places, and what may stand in its place."""
    data = path.read_bytes()
    cuts = [data[:n] for n in range(0, len(data), 97)]
    return [*cuts, data[:-1], b"", b"version https://git-lfs.github.com/spec/v1\n"]


@pytest.mark.parametrize("described", [True, False])
def test_damaged_safetensors(described: bool, tmp_path: Path) -> None:
    save_value_head(filled(ValueHead(D)), tmp_path, FINGERPRINT)
    path = tmp_path / "value_head.safetensors"
    intact = path.read_bytes()
    if not described:
        (tmp_path / "value_head.json").unlink()
    for damaged in damage(path):
        path.write_bytes(damaged)
        assert "value_head.safetensors: damaged" in refused(tmp_path)
    if described:
        for i in range(0, len(intact), 13):
            path.write_bytes(intact[:i] + bytes([intact[i] ^ 1]) + intact[i + 1 :])
            assert "value_head.safetensors: damaged" in refused(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_state_dict(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "value_head.pt"
    torch.save(ValueHead(D).state_dict(), path, _use_new_zipfile_serialization=zipped)
    for damaged in damage(path):
        path.write_bytes(damaged)
        assert re.search(r"value_head.pt: (holds \S+ or is )?damaged", refused(tmp_path))


def test_a_flipped_bit_in_an_archive(tmp_path: Path) -> None:
    """torch.load itself does not notice."""
    path, head = tmp_path / "value_head.pt", filled(ValueHead(D))
    torch.save(head.state_dict(), path)
    intact = path.read_bytes()
    place = intact.index(head.state_dict()["body.1.weight"].numpy().tobytes()) + 100
    path.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
    torch.load(path, weights_only=True)
    assert re.search(r"value_head.pt: damaged.*checksum", refused(tmp_path))


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "value_head.pt").mkdir()
    assert re.search(r"value_head.pt: damaged or unreadable: .*Is a directory", refused(tmp_path))
    (tmp_path / "value_head.safetensors").mkdir()
    assert "value_head.safetensors: damaged or unreadable" in refused(tmp_path)


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (Malicious(), "mkdir"),
        ({"weight": torch.zeros(1, D), "bias": Malicious()}, "mkdir"),
        (nn.Linear(D, 1), "torch.nn.modules.linear.Linear"),
        ({"weight": torch.zeros(1, D), "bias": torch.zeros(1), "epoch": 3}, "holds 'epoch' of type int;"),
        ({"state_dict": nn.Linear(D, 1).state_dict()}, "holds 'state_dict' of type OrderedDict;"),
        ({0: torch.zeros(1, D)}, "holds 0 of type Tensor;"),
        (torch.zeros(1, D), "holds an object of type Tensor;"),
        ([torch.zeros(1, D), torch.zeros(1)], "holds an object of type list;"),
    ],
)
def test_more_than_tensors(content: Any, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "value_head.pt")
    message = refused(tmp_path)
    assert f"{tmp_path / 'value_head.pt'}: holds " in message
    assert found in message
    assert "torch.save(head.state_dict(), ...)" in message
    assert not Path("executed").exists()


def test_a_plain_pickle_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "value_head.pt").write_bytes(pickle.dumps({"weight": Malicious()}, protocol=2))
    assert "mkdir" in refused(tmp_path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "value_head."])
def test_a_missing_name(name: str, prefix: str, tmp_path: Path) -> None:
    state = {prefix + k: v for k, v in ValueHead(D).state_dict().items() if k != name}
    torch.save(state, tmp_path / "value_head.pt")
    message = refused(tmp_path)
    assert f"value_head.pt: lacks {prefix}{name}; it holds " in message
    assert all(other in message for other in state)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "lacks bias, weight; it holds nothing"),
        ({"summary.weight": torch.zeros(1, D)}, "lacks summary.bias; it holds summary.weight"),
        (
            {"v.weight": torch.zeros(1, D), "w.bias": torch.zeros(1)},
            "lacks v.bias; it holds v.weight, w.bias",
        ),
        ({"my_weight": torch.zeros(1, D), "my_bias": torch.zeros(1)}, "it holds my_bias, my_weight"),
        (
            {chr(97 + i): torch.zeros(1) for i in range(20)},
            "it holds a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p and 4",
        ),
        (ValueHead(D).state_dict() | {"extra": torch.zeros(1)}, "holds extra, which is no part"),
        (nn.Linear(D, 1).state_dict() | {"scale": torch.ones(1)}, "; it holds bias, scale, weight"),
    ],
)
def test_other_names(state: dict[str, Tensor], expected: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "value_head.pt")
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path / 'value_head.pt'}: ")
    assert expected in message


def test_another_hidden_size(tmp_path: Path) -> None:
    save_value_head(ValueHead(D), tmp_path, FINGERPRINT)
    message = refused(tmp_path, hidden_size=32)
    assert "value_head.safetensors: 'body.0.weight' has shape [16], and [32] is wanted" in message
    assert "hidden size 32" in message
    (tmp_path / "value_head.safetensors").unlink()
    torch.save(nn.Linear(D, 1).state_dict(), tmp_path / "value_head.pt")
    message = refused(tmp_path, hidden_size=32)
    assert "value_head.pt: 'weight' has shape [1, 16], and [1, 32] is wanted" in message


@pytest.mark.parametrize("shape", [(D,), (2, D), (D, 1), ()])
def test_another_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(shape), "0.bias": torch.zeros(1)}, tmp_path / "value_head.pt")
    assert f"'0.weight' has shape {list(shape)}, and [1, 16] is wanted" in refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_not_finite(value: float, name: str, tmp_path: Path) -> None:
    state = {k: v.double() for k, v in ValueHead(D).state_dict().items()}
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "value_head.pt")
    assert f"value_head.pt: {name!r} has weights that are not finite" in refused(tmp_path)


def test_another_fingerprint(tmp_path: Path) -> None:
    save_value_head(ValueHead(D), tmp_path, FINGERPRINT)
    message = refused(tmp_path, expected=FINGERPRINT | {"tokenizer": "c" * 64})
    assert f"belongs to another tokenizer: {'b' * 16}, and {'c' * 16} is wanted" in message
    assert "value_head.json" in message
    message = refused(tmp_path, expected={"corpus": "d" * 64})
    assert f"belongs to another corpus: unknown, and {'d' * 16} is wanted" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": 3, "fingerprint": {}}', '{"sha256": "x"}'])
def test_damaged_description(text: str, tmp_path: Path) -> None:
    save_value_head(ValueHead(D), tmp_path, FINGERPRINT)
    (tmp_path / "value_head.json").write_text(text)
    assert "value_head.json: damaged" in refused(tmp_path)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    head = filled(ValueHead(D))
    save_value_head(head, tmp_path, FINGERPRINT)
    loaded = load_value_head(tmp_path, D)
    path = tmp_path / "value_head.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, head)
