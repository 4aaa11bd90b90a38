"""The resolved flags of a run: read-only, by attribute or by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_RECORDED = ("wandb_key", "initial_weights")  # a secret; what depends on how far the run is


class Settings(Mapping[str, Any]):
    """Every flag with its value. Assignment is an error: what a run does stands in its args.json."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no flag --{name}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings are read-only: cannot set {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def recorded(self) -> dict[str, Any]:
        """What args.json keeps: everything but secrets and what a resumed run sets anew."""
        return {name: value for name, value in self._values.items() if name not in NOT_RECORDED}
