"""Reading, merging, overriding and printing configuration files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from wmtp.config.base import Section
from wmtp.config.environment import Config
from wmtp.config.recipe import Recipe
from wmtp.errors import WMTPError, joined_lines, one_line
from wmtp.registry import did_you_mean


def load(
    recipe_path: Path | None, config_path: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[Recipe, Config]:
    """Read, merge and validate both files; each override (`key.sub=value`) goes to the file of its section.

    Raises:
        WMTPError: what is wrong, in which file and key, and what would be right.
    """
    recipe_tree = _read(recipe_path) if recipe_path else OmegaConf.create()
    config_tree = _read(config_path) if config_path else OmegaConf.create()
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise WMTPError(f"override {override!r} should look like key.sub=value")
        _set(config_tree if _is_environment(key) else recipe_tree, key, _value(override, text))
    for_recipe = [o for o in overrides if not _is_environment(o)]
    for_config = [o for o in overrides if _is_environment(o)]
    return (
        _validate(Recipe, _resolve(recipe_tree, recipe_path), str(recipe_path or "recipe"), for_recipe),
        _validate(Config, _resolve(config_tree, config_path), str(config_path or "config"), for_config),
    )


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
    tree = OmegaConf.create(to_dict(recipe))
    for key, value in changes.items():
        _set(tree, key, value)
    return _validate(Recipe, _resolve(tree, None), where)


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


def _read(path: Path, chain: tuple[Path, ...] = ()) -> DictConfig:
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
    if parent is None:
        return tree
    merged = OmegaConf.merge(_read(path.parent / parent, (*chain, path.resolve())), tree)
    assert isinstance(merged, DictConfig)
    return merged


def _set(tree: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(tree, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{key}: {one_line(error)}") from None


def _resolve(tree: DictConfig, path: Path | None) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise WMTPError(f"{path or 'override'}: {one_line(error)}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def recipe_from(values: dict[str, Any], where: str) -> Recipe:
    """The recipe that a checkpoint holds.

    Raises:
        WMTPError: another version of the package wrote it, and it means nothing in this one.
    """
    return _validate(Recipe, values, where)


S = TypeVar("S", bound=Section)


def _validate(section: type[S], values: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> S:
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = (_explain(section, dict(e), _blamed(dict(e), overrides) or where) for e in error.errors())
        raise WMTPError("\n".join(lines)) from None


def _blamed(error: dict[str, Any], overrides: Sequence[str]) -> str | None:
    """The overrides of a key that is wrong or, of those in a section that is, the ones that the error speaks of."""
    place = [str(part) for part in error["loc"]]
    own, inside = [], []
    for override in overrides:
        parts = override.partition("=")[0].split(".")
        if place[: len(parts)] == parts:
            own.append(override)
        elif parts[: len(place)] == place and re.search(rf"\b{re.escape(parts[-1])}\b", error["msg"]):
            inside.append(override)
    found = own or inside
    return f"override {' '.join(found)}" if found else None


def _explain(section: type[Section], error: dict[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _names_beside(section, error["loc"])
        return f"{where}: unknown key {key!r}; {did_you_mean(str(error['loc'][-1]), known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _names_beside(section: type[Section], location: tuple[str | int, ...]) -> list[str]:
    for part in location[:-1]:
        field = next(f for n, f in section.model_fields.items() if part in (n, f.alias))
        candidates = (field.annotation, *get_args(field.annotation))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return [field.alias or name for name, field in section.model_fields.items()]
