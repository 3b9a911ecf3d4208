"""Names that a recipe can use: recipes, scorers, controls, tasks, protocols, sources."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from wmtp.config import CONTROLS
from wmtp.config.base import on_a_line
from wmtp.errors import WMTPError
from wmtp.registry import Registry, did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (Path("recipes"), _PACKAGE / "recipes", _PACKAGE.parent.parent / "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Recipes by name: those in ./recipes and those shipped with the package."""
    return {path.stem: path for folder in reversed(_FOLDERS) for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A recipe by path or by the name of a shipped one.

    Raises:
        WMTPError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    known = shipped_recipes()
    if name not in known:
        raise WMTPError(f"recipe {name!r}: no such file or shipped recipe; {did_you_mean(name, list(known))}")
    return known[name]


def catalogue() -> dict[str, dict[str, str]]:
    """Names, each with what it is, by kind."""
    from wmtp.data.corpus import BUILT_IN
    from wmtp.evaluate.tasks import TASKS
    from wmtp.weighting.scorers import SCORERS

    return {
        "scorers": {name: _about_scorer(name) for name in SCORERS.names()},
        "controls": dict(CONTROLS),
        "tasks": {name: _about(TASKS, name) for name in TASKS.names()},
        "protocols": _protocols(),
        "sources": {**BUILT_IN, "PATH": "JSONL, JSON or Parquet; a file, a folder or a pattern"},
        "recipes": {name: _first_comment(path) for name, path in shipped_recipes().items()},
    }


def _protocols() -> dict[str, str]:
    """Protocols with their tasks; what a task that cannot be loaded says stands beside the tasks."""
    from wmtp.evaluate.protocols import GREEDY
    from wmtp.evaluate.tasks import TASKS, task_settings

    about, tasks = {GREEDY.name: GREEDY.about}, {GREEDY.name: ["tasks of your own"]}
    for task in TASKS.names():
        with suppress(WMTPError):
            for protocol in task_settings(task).protocols:
                about.setdefault(protocol.name, protocol.about)
                tasks.setdefault(protocol.name, []).append(task)
    return {name: f"{line} ({', '.join(tasks[name])})" for name, line in about.items()}


def _about(registry: Registry[Any], name: str) -> str:
    """First line of the docstring of a factory (of a method: of its class); for a broken one, the error."""
    try:
        factory = registry.get(name)
    except WMTPError as error:
        return str(error)
    documented = getattr(factory, "__self__", factory)
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _about_scorer(name: str) -> str:
    """What a scorer says of itself, and its settings with their defaults."""
    from wmtp.weighting.scorers import SCORERS, config_of

    about = _about(SCORERS, name)
    try:
        fields = config_of(name).model_fields
    except WMTPError:  # which `about` tells
        return about
    defaults = {
        field.alias or key: "…" if field.is_required() else field.get_default(call_default_factory=True)
        for key, field in fields.items()
    }
    return f"{about} Settings: {on_a_line(to_jsonable_python(defaults))}." if fields else about


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
