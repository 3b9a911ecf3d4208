"""Named, pluggable parts: scorers, tasks, sources."""

import difflib
import importlib
import operator
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from wmtp.errors import WMTPError, is_out_of_memory, type_and_message

T = TypeVar("T")


def did_you_mean(name: str, known: list[str]) -> str:
    """End of an error line about an unknown name: the nearest known ones, else all of them."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(sorted(known))


class Registry(Generic[T]):
    """Names to factories.

    A name is a registered one, an entry point of the group `wmtp.<plural kind>`, or `package.module:Attribute`
    (`:Class.method` too).
    Built-in factories may be given as such a string, so that listing them imports nothing. The user's modules may be
    in the working directory.
    """

    def __init__(self, kind: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self._factories: dict[str, str | Callable[..., T]] = dict(builtin)

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Add a factory; a name can be taken only once."""
        if name in self._factories:
            raise WMTPError(f"{self.kind} {name!r} is registered already")
        self._factories[name] = factory

    def names(self) -> Iterator[str]:
        """Every name that `create` knows, built-in ones first."""
        yield from self._factories
        yield from (e.name for e in entry_points(group=f"wmtp.{self.kind}s") if e.name not in self._factories)

    def get(self, name: str) -> Callable[..., T]:
        """The factory behind a name, imported if need be."""
        factory = self._factories.get(name)
        if factory is None:
            for entry in entry_points(group=f"wmtp.{self.kind}s"):
                if entry.name == name:
                    return self._load(f"{entry.module}:{entry.attr}")
            if ":" not in name:
                raise WMTPError(f"unknown {self.kind} {name!r}; {did_you_mean(name, list(self.names()))}")
            if "" not in sys.path:
                sys.path.append("")  # last, so that nothing there hides an installed package
            factory = name
        if isinstance(factory, str):
            return self._load(factory)
        return factory

    def create(self, name: str, *args: object, **kwargs: object) -> T:
        """Call the factory behind a name.

        Raises:
            WMTPError: the name is unknown, or a factory that is not built in fails.
        """
        factory = self.get(name)
        try:
            return factory(*args, **kwargs)
        except WMTPError:
            raise
        except Exception as error:
            if name in self._factories or is_out_of_memory(error):
                raise
            raise WMTPError(f"{self.kind} {name!r} cannot be built: {type_and_message(error)}") from error

    def _load(self, path: str) -> Callable[..., T]:
        module_name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(module_name)
            return cast("Callable[..., T]", operator.attrgetter(attribute)(module))
        except Exception as error:  # other people's modules raise whatever they like
            raise WMTPError(f"{self.kind} {path!r} cannot be loaded: {type_and_message(error)}") from error
