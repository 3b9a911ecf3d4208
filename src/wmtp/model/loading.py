"""Models that others made: read from folders and hub names, and told apart by their fingerprints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from wmtp.checkpoint.store import digests, is_checkpoint, load_tensors, tensor_names
from wmtp.errors import WMTPError, one_line
from wmtp.model.modeling import MTPConfig, MTPForCausalLM
from wmtp.storage import sha256_file, sha256_text

ADAPTER = "adapter_config.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")

transformers_logging.disable_progress_bar()


def load_config(location: str, key: str) -> PreTrainedConfig:
    """The configuration of a model in a folder or on the hub; `key` names the setting in errors.

    Raises:
        WMTPError: it cannot be read, or belongs to an adapter or a quantised model.
    """
    if (Path(location) / ADAPTER).exists():
        raise WMTPError(
            f"{key} {location!r}: holds a PEFT adapter ({ADAPTER}); merge it into its model (merge_and_unload) "
            f"and save that"
        )
    with _errors_as_one_line(location, key):
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise WMTPError(
            f"{key} {location!r}: has quantised weights (quantization_config {str(method)!r} in config.json); "
            f"give the model that it was made from"
        )
    assert isinstance(config, PreTrainedConfig)
    return config


def load_causal_config(location: str, key: str) -> PreTrainedConfig:
    """The configuration of a causal language model.

    Raises:
        WMTPError: as `load_config`, or the model has an encoder or several parts.
    """
    config = load_config(location, key)
    if getattr(config, "is_encoder_decoder", False):
        raise WMTPError(
            f"{key} {location!r}: {config.model_type} is an encoder-decoder; give a decoder-only model"
        )
    if not isinstance(config, MTPConfig) and config.get_text_config() is not config:
        raise WMTPError(
            f"{key} {location!r}: {config.model_type} has several parts; give its language model alone, saved by "
            f"itself"
        )
    return config


def load_causal_lm(location: str, key: str) -> PreTrainedModel:
    """A causal language model in float32 from a checkpoint, a model folder or a hub name, whole, on the CPU.

    Checksums are not compared. `key` names the setting in errors.

    Raises:
        WMTPError: it cannot be loaded, or model and weights are not for each other.
    """
    config = load_causal_config(location, key)
    options = {"dtype": torch.float32, "attn_implementation": "sdpa", "output_loading_info": True}
    with _errors_as_one_line(location, key):
        if is_checkpoint(Path(location)):
            saved = _saved_parameters(Path(location))
            model = MTPForCausalLM.from_pretrained(None, config=config, state_dict=saved, **options)
        else:
            model = AutoModelForCausalLM.from_pretrained(location, config=config, **options)
    loaded, report = model
    if lacking := _names(report, "missing_keys", "mismatched_keys"):
        raise WMTPError(f"{key} {location!r}: damaged: no usable weights for {lacking}")
    if left_over := _names(report, "unexpected_keys"):
        raise WMTPError(
            f"{key} {location!r}: holds weights that {type(loaded).__name__} has no place for: {left_over}"
        )
    assert isinstance(loaded, PreTrainedModel)
    return loaded


def load_mtp(location: str, key: str) -> MTPForCausalLM:
    """The same, if it is a model of this package.

    Raises:
        WMTPError: as `load_causal_lm`, or it is another kind of model.
    """
    model = load_causal_lm(location, key)
    if not isinstance(model, MTPForCausalLM):
        raise WMTPError(f"{location}: not a multi-token prediction model")
    return model


@contextmanager
def _errors_as_one_line(location: str, key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # other people's files raise whatever their content happens to spell
        raise WMTPError(f"{key} {location!r}: cannot be loaded: {one_line(error)}") from None


def _names(report: dict[str, set[object]], *kinds: str) -> str:
    return ", ".join(sorted(str(name) for kind in kinds for name in report[kind])[:3])


def _saved_parameters(folder: Path) -> dict[str, Tensor]:
    parameters = {name: torch.empty(size) for name, size in tensor_names(folder, "model").items()}
    load_tensors(folder, "model", parameters)
    return parameters


def model_fingerprint(location: str) -> str:
    """Hex digest of configuration and weights, in whatever format, in a folder.

    A checkpoint's is of its files: the same weights saved by another number of processes have another. A hub model's
    is of its name, and of its commit where that can be found.
    """
    folder = Path(location)
    if not folder.is_dir():
        return sha256_text(location, *_commit(location))
    if is_checkpoint(folder):
        saved = {n: d for n, d in digests(folder).items() if n == "config.json" or n.startswith("model")}
    else:
        files = [folder / "config.json", *(f for f in folder.iterdir() if _decides_weights(f.name))]
        saved = {f.name: sha256_file(f) for f in files}
    return sha256_text(*(f"{name} {digest}" for name, digest in sorted(saved.items())))


def _decides_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and not name.startswith(NOT_WEIGHTS)


def _commit(location: str) -> list[str]:
    try:
        commit = getattr(load_config(location, "model"), "_commit_hash", None)
    except WMTPError:  # neither here nor within reach
        return []
    return [] if commit is None else [str(commit)]
