"""Ends of generation that a base model has, kept in the configuration of the model that is made of it."""

from transformers import GenerationConfig

from wmtp.model.modeling import MTPConfig


def keep_ends(config: MTPConfig, base: str) -> MTPConfig:
    """The configuration, with every end token of the base model: its configuration's and its generation's.

    They are in the backbone's configuration too, which an export is made of, so that `generate` of transformers stops
    where the base's did.

    Args:
        config: of the model that is made.
        base: folder or hub name.
    """
    try:
        generation = GenerationConfig.from_pretrained(base)
    except OSError:  # it has no generation_config.json
        return config
    ids = list(dict.fromkeys([*_listed(generation.eos_token_id), *_listed(config.eos_token_id)]))
    ends = ids[0] if len(ids) == 1 else ids or None
    config.eos_token_id = config.backbone.eos_token_id = ends
    return config


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
