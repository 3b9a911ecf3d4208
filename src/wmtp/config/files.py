"""Reading, merging, overriding and printing configuration files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from wmtp.config.aliases import (
    ScorerChoice,
    arms_in_todays_keys,
    concerns_scorer,
    current_key,
    drop_old_keys,
    refuse_unread,
    what_became,
)
from wmtp.config.base import Section
from wmtp.config.environment import Config
from wmtp.config.recipe import Recipe
from wmtp.errors import WMTPError, joined_lines, one_line
from wmtp.progress import note
from wmtp.rank import LAUNCHER
from wmtp.registry import did_you_mean


def load(
    recipe_path: Path | None, config_path: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[Recipe, Config]:
    """Read, merge and validate both files; each override (`key.sub=value`) goes to the file of its section.

    Raises:
        WMTPError: what is wrong, in which file and key, and what would be right.
    """
    config_tree = _merged(_read(config_path) if config_path else [])
    changes: list[tuple[str, Any]] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise WMTPError(f"override {override!r} should look like key.sub=value")
        if _is_environment(key):
            _set(config_tree, key, _value(override, text))
        else:
            changes.append((key, _value(override, text)))
    for_recipe = [o for o in overrides if not _is_environment(o)]
    for_config = [o for o in overrides if _is_environment(o)]
    where = str(recipe_path or "recipe")
    by_command = f"override {' '.join(o for o in for_recipe if concerns_scorer(o.partition('=')[0]))}"
    values, choice = _recipe_values(_read(recipe_path) if recipe_path else [], changes, where, by_command)
    arms = arms_in_todays_keys(values, choice, where)
    refuse_unread([key for key, _ in changes], choice, arms.values(), by_command)
    recipe = validate(Recipe, values, where, for_recipe)
    config = validate(
        Config, _resolve(config_tree, str(config_path)), str(config_path or "config"), for_config
    )
    if LAUNCHER not in os.environ and (became := what_became(choice, arms)):  # the launcher has said it
        note(f"{where}: {became}")
    return recipe, config


def _recipe_values(
    layers: Sequence[tuple[str, DictConfig]], changes: Sequence[tuple[str, Any]], where: str, changed_by: str
) -> tuple[dict[str, Any], ScorerChoice]:
    """A recipe out of layers and changes of dotted keys, and which scorer they choose."""
    choice = ScorerChoice()
    for name, layer in layers:
        choice.read(_leaves(OmegaConf.to_container(layer)), name)
    tree = _merged(layers)
    for key, value in changes:
        if key.split(".")[0] != "scorer":  # keys of before, too: others may refer to them
            _set(tree, key, value)
    choice.read([(tuple(key.split(".")), value) for key, value in changes], changed_by)
    tree["scorer"] = choice.section()
    if choice.top_p is not None:
        _set(tree, "loss.top_p", choice.top_p)
    values = _resolve(tree, where)
    drop_old_keys(values)
    return values, choice


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _is_environment(override: str) -> bool:
    return override.partition("=")[0].split(".")[0] in Config.model_fields


class _Loader(yaml.SafeLoader):
    """Leaves dates as text, as they are in files."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _value(override: str, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # of a number with thousands of digits
        shown = override if len(override) < 100 else f"{override[:100]}…"
        raise WMTPError(f"override {shown}: the value is no YAML: {one_line(error)}") from None


def override(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """A recipe with dotted keys changed; `where` names their origin in errors."""
    base = OmegaConf.create(to_dict(recipe))
    values, choice = _recipe_values([(where, base)], list(changes.items()), where, where)
    refuse_unread(changes, choice, [], where)
    return validate(Recipe, values, where)


def to_dict(section: Section) -> dict[str, Any]:
    """Plain values, under the names that the files use."""
    return section.model_dump(mode="json", by_alias=True)


def to_yaml(section: Section) -> str:
    """The file that reads back as this section."""
    return yaml.safe_dump(to_dict(section), sort_keys=False, allow_unicode=True)


def changed_keys(old: Section, new: Section) -> list[str]:
    """Dotted keys whose values differ."""

    def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                flat |= flatten(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value
        return flat

    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return sorted(key for key in before | after if before.get(key) != after.get(key))


def _read(path: Path, chain: tuple[Path, ...] = ()) -> list[tuple[str, DictConfig]]:
    """A file and what it extends, the latter first."""
    if path.resolve() in chain:
        raise WMTPError(f"{path}: extends itself")
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError:
        raise WMTPError(f"{path}: no such file") from None
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise WMTPError(f"{path}: cannot be read: {joined_lines(error)}") from None
    if not isinstance(tree, DictConfig):
        raise WMTPError(f"{path}: should be a mapping of sections")
    parent = tree.pop("extends", None)
    extended = [] if parent is None else _read(path.parent / parent, (*chain, path.resolve()))
    return [*extended, (str(path), tree)]


def _merged(layers: Sequence[tuple[str, DictConfig]]) -> DictConfig:
    merged = OmegaConf.merge(OmegaConf.create(), *(tree for _, tree in layers))
    assert isinstance(merged, DictConfig)
    return merged


def _set(tree: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(tree, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{key}: {one_line(error)}") from None


def _resolve(tree: DictConfig, where: str) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{where}: {one_line(error)}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def recipe_from(values: dict[str, Any], where: str) -> Recipe:
    """The recipe that a checkpoint holds.

    Raises:
        WMTPError: another version of the package wrote it, and it means nothing in this one.
    """
    found, choice = _recipe_values([(where, OmegaConf.create(values))], (), where, where)
    arms_in_todays_keys(found, choice, where)
    return validate(Recipe, found, where)


S = TypeVar("S", bound=Section)


def validate(
    section: type[S], values: dict[str, Any], where: str, overrides: Sequence[str] = (), under: str = ""
) -> S:
    """The section with these values.

    Args:
        where: names their origin in errors, unless one of the overrides is to blame.
        under: the dotted key of the section itself.
    Raises:
        WMTPError: unknown keys or wrong values, a line each.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        above = under.split(".") if under else []
        lines = (_explain(section, dict(e), above, overrides, where) for e in error.errors())
        raise WMTPError("\n".join(lines)) from None


def _explain(
    section: type[Section], error: dict[str, Any], above: list[str], overrides: Sequence[str], where: str
) -> str:
    place = [*above, *map(str, error["loc"])]
    key, message = ".".join(place), str(error["msg"]).removeprefix("Value error, ")
    where = _blamed(place, message, overrides) or where
    if error["type"] == "extra_forbidden":
        known = _names_beside(section, error["loc"])
        hint = did_you_mean(place[-1], known) if known else "there is nothing to set"
        return f"{where}: unknown key {key!r}; {hint}"
    if error["type"] == "value_error":
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _blamed(place: list[str], message: str, overrides: Sequence[str]) -> str | None:
    """The overrides of a key that is wrong or, of those in a section that is, the ones that the error speaks of."""
    own: dict[int, list[str]] = {}
    inside = []
    for override in overrides:
        parts = current_key(override.partition("=")[0]).split(".")
        if place[: len(parts)] == parts:
            own.setdefault(len(parts), []).append(override)
        elif parts[: len(place)] == place and re.search(rf"\b{re.escape(parts[-1])}\b", message):
            inside.append(override)
    found = own[max(own)] if own else inside
    return f"override {' '.join(found)}" if found else None


def _names_beside(section: type[Section], location: tuple[str | int, ...]) -> list[str]:
    for part in location[:-1]:
        field = next(f for n, f in section.model_fields.items() if part in (n, f.alias))
        candidates = (field.annotation, *get_args(field.annotation))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return [field.alias or name for name, field in section.model_fields.items()]
