"""Trained models as folders of safetensors that other tools load."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from wmtp.checkpoint.store import resolve_model, verify
from wmtp.data.tokenizer import load_tokenizer
from wmtp.data.tokenizer_checks import check_read_back
from wmtp.errors import WMTPError
from wmtp.model.loading import load_mtp
from wmtp.model.modeling import MTPForCausalLM
from wmtp.storage import new_directory


def export_run(run: Path, output: Path, *, next_token_only: bool) -> Path:
    """Export the newest checkpoint of a run, or a given one, once its checksums are right; returns its place."""
    if not run.is_dir():
        raise WMTPError(f"{run}: no such run directory")
    location = Path(resolve_model(str(run), "export"))
    verify(location, without="training")
    export(location, output, next_token_only)
    return location


def export(location: Path, output: Path, next_token_only: bool) -> Path:
    """Write a model, whole and in float32, and its tokenizer; returns `output`.

    Args:
        location: a checkpoint, or a folder that this function wrote.
        next_token_only: write trunk and head 0 as a plain model of the backbone's architecture, which every tool
            loads; else the model with all its heads, for AutoModelForCausalLM after `import wmtp.model.modeling`.

    Raises:
        WMTPError: it cannot be loaded or written, has no heads, AutoTokenizer would read its tokenizer otherwise, or
            `output` holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WMTPError(f"{output}: there is something already; export into a new folder")
    model = load_mtp(str(location), "model")
    tokenizer = load_tokenizer(str(location))
    exported = next_token_model(model) if next_token_only else model
    try:
        with new_directory(output) as aside:
            exported.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            check_read_back(aside, tokenizer, f"model of type {exported.config.model_type}")
    except (OSError, SafetensorError) as error:
        raise WMTPError(f"{output}: cannot be written: {error}") from error
    return output


def next_token_model(model: MTPForCausalLM) -> PreTrainedModel:
    """Trunk and head 0 as a model of the backbone's own class, sharing the weights."""
    plain = AutoModelForCausalLM.from_config(
        model.config.next_token(), dtype=model.dtype, attn_implementation="sdpa"
    )
    names = plain.state_dict().keys()
    weights = {name: value for name, value in model.state_dict().items() if name in names}
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    assert isinstance(plain, PreTrainedModel)
    return plain.eval()
