"""The command line that leads to given settings, as short as it can be."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from utilities.flags.flag import Flag

Settle = Callable[[dict[str, Any]], Mapping[str, Any]]


def shortest(flags: Iterable[Flag], recorded: Mapping[str, Any], settle: Settle, *, without: Collection[str]) -> str:
    """Flags that make `settle`, which takes those that are given to all settings, give what was recorded.

    Flags in `without` are left out, whatever they are.
    """
    told = {flag.name: flag for flag in flags if flag.name in recorded and flag.name not in without}
    given: dict[str, Any] = {}
    for name in sorted(told, key=lambda name: not name.endswith("_preset")):  # which other defaults follow from
        if settle(given).get(name) != recorded[name]:
            given[name] = recorded[name]

    def reached(shorter: dict[str, Any]) -> bool:
        settings = settle(shorter)
        return all(settings.get(name) == recorded[name] for name in told)

    for name in list(given):
        rest = {other: value for other, value in given.items() if other != name}
        if reached(rest):
            given = rest
    return " ".join(_words(told[name], value) for name, value in given.items())


def _words(flag: Flag, value: Any) -> str:
    if flag.type is bool:
        return f"--{flag.name}"
    values = value if isinstance(value, list) else [value]
    spelled = [("yes" if one else "no") if isinstance(one, bool) else shlex.quote(str(one)) for one in values]
    return " ".join([f"--{flag.name}", *spelled])
