"""Name -> class. Adding a component is adding one file that registers itself."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from utilities.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes under the names that a flag takes.

    `build(name, settings, **wiring)` calls the class with its keyword-only parameters: those in `wiring`
    (shapes, relations: what the script knows) and, for every other parameter p, the flag `--<name>_<p>`. So the
    margin loss registered as "margin" gets its `beta` from `--margin_beta`, and never sees the settings as a bag.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._prefixes: dict[str, str] = {}

    def register(self, name: str, prefix: str | None = None) -> Callable[[type[T]], type[T]]:
        """Class decorator; `prefix` replaces the name in its flags. A duplicate name is an error."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._classes[name]} and {cls}")
            self._classes[name] = cls
            self._prefixes[name] = prefix or name
            return cls

        return add

    def names(self) -> list[str]:
        return sorted(self._classes)

    def taking(self, *arguments: str) -> list[str]:
        """Names of the classes whose `forward` takes arguments of all these names."""
        classes: dict[str, Any] = {name: self[name] for name in self.names()}
        return [n for n, cls in classes.items() if {*arguments} <= inspect.signature(cls.forward).parameters.keys()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise UserError(f"unknown {self.kind} {name!r}; choices: {', '.join(self.names())}")
        return self._classes[name]

    def parameters(self, name: str) -> list[str]:
        """Keyword-only parameters of the class registered under `name`."""
        signature = inspect.signature(self[name].__init__)
        return [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]

    def flags(self, name: str, wired: set[str]) -> list[str]:
        """Flags that feed the class, given what is wired by scripts."""
        return [f"{self._prefixes[name]}_{p}" for p in self.parameters(name) if p not in wired]

    def build(self, name: str, settings: Mapping[str, Any], **wiring: Any) -> T:
        """An instance; wiring that the class does not take is left out, a missing flag is a KeyError."""
        given = {}
        for p in self.parameters(name):
            flag = f"{self._prefixes[name]}_{p}"
            if p not in wiring and flag not in settings:
                raise KeyError(
                    f"{self.kind} {name!r} takes {p!r}: add Flag({flag!r}, ...) to parameters.py, or wire it"
                )
            given[p] = wiring[p] if p in wiring else settings[flag]
        return self[name](**given)


def import_siblings(package: str, path: list[str]) -> None:
    """Import every module and folder of a package, so that its classes register. Called by the package's __init__."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def import_folders(package: str, path: list[str], modules: tuple[str, ...]) -> None:
    """Import these modules of every folder of a package that has them, so that their classes register."""
    for folder in pkgutil.iter_modules(path):
        for module in modules if folder.ispkg else ():
            if importlib.util.find_spec(f"{package}.{folder.name}.{module}") is not None:
                importlib.import_module(f"{package}.{folder.name}.{module}")
