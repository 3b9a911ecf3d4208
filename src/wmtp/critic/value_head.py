"""The critic's value head: predicts the reward after a token from its hidden state."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils import skip_init

from wmtp.errors import WMTPError, one_line
from wmtp.storage import read_json, sha256_file, sync_directory, write_bytes, write_json

WEIGHTS, TORCH_WEIGHTS, DESCRIPTION = "value_head.safetensors", "value_head.pt", "value_head.json"


class ValueHead(nn.Module):
    """V of the text up to a token, from hidden states; float32, also under autocast.

    V_t = w · SiLU(W LayerNorm(h_t) + b₁) + b₂ + u · (A LayerNorm(h_{t-1}) ⊙ B LayerNorm(e_t)), or w · h_t + b
    (`linear`). The last term sees how the token's embedding e_t agrees with what was expected before it, which h_t
    itself need not hold. It starts at V = 0: w, b₂ and u are 0. W, A and B are normal with variance 1 / D from a
    random stream of their own.

    Args:
        hidden_size: D.
        seed: of W, A and B.
    """

    def __init__(self, hidden_size: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        hidden = _random_linear(hidden_size, generator)
        self.body: nn.Module = nn.Sequential(
            nn.LayerNorm(hidden_size, dtype=torch.float32), hidden, nn.SiLU()
        )
        self.output: nn.Linear = skip_init(nn.Linear, hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.surprise: Surprise | None = Surprise(hidden_size, generator)

    @classmethod
    def linear(cls, hidden_size: int) -> "ValueHead":
        """V(h) = w · h + b, the usual form of a value head."""
        head = cls(hidden_size)
        head.body = nn.Identity()
        head.surprise = None
        return head

    def forward(
        self, hidden: Tensor, previous: Tensor | None = None, embeddings: Tensor | None = None
    ) -> Tensor:
        """Values [...] float32.

        Args:
            hidden: [..., D] of any floating dtype.
            previous, embeddings: [..., D], the hidden state before the token, and the token's embedding; without them
                there is nothing to be surprised at.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.output(self.body(hidden.float())).squeeze(-1)
            if self.surprise is not None and previous is not None and embeddings is not None:
                values = values + self.surprise(previous.float(), embeddings.float())
        return values


class Surprise(nn.Module):
    """u · (A LayerNorm(h) ⊙ B LayerNorm(e)): how a token agrees with the state before it."""

    def __init__(self, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.expected = nn.Sequential(
            nn.LayerNorm(hidden_size, dtype=torch.float32), _random_linear(hidden_size, generator)
        )
        self.token = nn.Sequential(
            nn.LayerNorm(hidden_size, dtype=torch.float32), _random_linear(hidden_size, generator)
        )
        self.output: nn.Linear = skip_init(nn.Linear, hidden_size, 1, bias=False, dtype=torch.float32)
        nn.init.zeros_(self.output.weight)

    def forward(self, previous: Tensor, embeddings: Tensor) -> Tensor:
        """[...] float32."""
        agreement: Tensor = self.output(self.expected(previous) * self.token(embeddings))
        return agreement.squeeze(-1)


def _random_linear(size: int, generator: torch.Generator) -> nn.Linear:
    linear: nn.Linear = skip_init(nn.Linear, size, size, dtype=torch.float32)
    nn.init.normal_(linear.weight, std=size**-0.5, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def save_value_head(head: ValueHead, folder: Path, fingerprint: dict[str, str]) -> None:
    """Write a head into an existing folder, and beside it a description of what it belongs to.

    Each file is replaced atomically. The description holds the checksum of the weights, so that after a crash between
    the two, as after any damage, loading refuses.

    Args:
        fingerprint: what kind of thing (trunk, tokenizer) -> its digest.
    """
    data = save(head.state_dict())
    write_bytes(folder / WEIGHTS, data)
    description = {
        "hidden_size": head.output.in_features,
        "sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": fingerprint,
    }
    write_json(folder / DESCRIPTION, description)
    sync_directory(folder)


def load_value_head(
    folder: Path, hidden_size: int, *, expected: Mapping[str, str] | None = None
) -> ValueHead:
    """The head in a folder: `value_head.safetensors`, or else `value_head.pt`, a state dict that torch.save wrote.

    Either may be a whole `ValueHead` or a single linear layer (`weight` [1, D] and `bias` [1]). A prefix that all
    names share is dropped.

    Args:
        hidden_size: D of the hidden states that the head will read.
        expected: what the head must belong to: the fingerprint given to `save_value_head`. A `value_head.pt` does
            not say what it belongs to and is taken on trust.
    Raises:
        WMTPError: there is none, it is damaged, belongs to something else, or is no head for this hidden size.
    """
    path = folder / WEIGHTS
    if path.exists():
        tensors = _read_safetensors(path)
        _check_description(path, folder / DESCRIPTION, expected or {})
        return _head(path, tensors, hidden_size)
    path = folder / TORCH_WEIGHTS
    if path.exists():
        return _head(path, _read_torch(path), hidden_size)
    raise WMTPError(f"{folder}: no value head: neither {WEIGHTS} nor {TORCH_WEIGHTS} is there")


def _check_description(weights: Path, path: Path, expected: Mapping[str, str]) -> None:
    if not expected and not path.exists():
        return
    match read_json(path):
        case {"sha256": str(digest), "fingerprint": dict(fingerprint)}:
            pass
        case _:
            raise WMTPError(f"{path}: damaged: it needs the keys sha256 and fingerprint")
    for key, wanted in expected.items():
        found = str(fingerprint.get(key, "unknown"))
        if found != wanted:
            raise WMTPError(
                f"{path}: the value head belongs to another {key}: {found[:16]}, and {wanted[:16]} is wanted"
            )
    if sha256_file(weights) != digest:
        raise WMTPError(f"{weights}: damaged: its checksum is not the one in {path.name}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WMTPError(f"{path}: damaged or unreadable: {one_line(error)}") from None
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        _check_archive(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise WMTPError(f"{path}: damaged: it cannot be unpickled") from None
        raise WMTPError(_not_tensors(path, f"{refused[1]} or is damaged")) from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise WMTPError(f"{path}: damaged or unreadable: {one_line(error)}") from None
    if not isinstance(state, dict):
        raise WMTPError(_not_tensors(path, f"an object of type {type(state).__name__}"))
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise WMTPError(_not_tensors(path, f"{name!r} of type {type(tensor).__name__}"))
    return state


def _check_archive(path: Path) -> None:
    """torch.load does not compare the checksums in the archive that torch.save writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _not_tensors(path: Path, found: str) -> str:
    return f"{path}: holds {found}; only a dict of names and tensors is loaded: torch.save(head.state_dict(), ...)"


def _head(path: Path, tensors: dict[str, Tensor], hidden_size: int) -> ValueHead:
    """A head with these weights, all of which are checked before any is used."""
    is_linear = len(tensors) <= 2
    head = ValueHead.linear(hidden_size) if is_linear else ValueHead(hidden_size)
    part = head.output if is_linear else head
    names = part.state_dict()
    prefix = min(
        (found.removesuffix(name) for found in tensors for name in names if f".{found}".endswith(f".{name}")),
        default="",
    )
    wanted = {prefix + name: tensor.shape for name, tensor in names.items()}
    if missing := wanted.keys() - tensors.keys():
        raise WMTPError(f"{path}: lacks {_some(missing)}; it holds {_some(tensors.keys())}")
    if unexpected := tensors.keys() - wanted.keys():
        raise WMTPError(f"{path}: holds {_some(unexpected)}, which is no part of a value head")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise WMTPError(
                f"{path}: {name!r} has shape {list(tensors[name].shape)}, and {list(shape)} is wanted "
                f"for hidden size {hidden_size}"
            )
        if not tensors[name].float().isfinite().all():
            raise WMTPError(f"{path}: {name!r} has weights that are not finite; the head is of no use")
    part.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return head


def _some(names: Any) -> str:
    ordered = sorted(names)
    return (
        ", ".join(ordered[:16]) + (f" and {len(ordered) - 16} more" if len(ordered) > 16 else "") or "nothing"
    )
