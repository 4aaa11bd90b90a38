"""The flags that a run folder recorded: read with their types and choices checked, and against the run's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from utilities.errors import UserError
from utilities.flags.flag import AUTO, Flag, check_bounds, spelled, yes_no
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder

KINDS = {bool: "true or false", yes_no: "true or false", int: "a whole number", float: "a number", str: "a text"}


def read(folder: Path, flags: Iterable[Flag], may_differ: Collection[str]) -> dict[str, Any]:
    """args.json of a run. Raises UserError for a value that its flag does not take, and for one with which the run's
    checkpoint was not trained.

    flags       those that are looked at; what the file lacks is of a later version than the run
    may_differ  flags that may be others at every part of a run
    """
    recorded = run_folder.read_args(folder)
    path = folder / run_folder.ARGS
    looked_at = [flag for flag in flags if flag.name in recorded]
    for flag in looked_at:
        value = recorded[flag.name]
        if not _takes(flag, value):
            raise UserError(
                f"{path} has {json.dumps(flag.name)}: {json.dumps(value)[:60]}, but --{flag.name} is {_allowed(flag)}; "
                "mend the file"
            )
    try:
        check_bounds(looked_at, recorded)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    trained = checkpoint.settings(folder)
    changed = [n for n, v in trained.items() if n not in may_differ and (n not in recorded or recorded[n] != v)]
    if changed:
        named = "; ".join(f"--{n} {_shown(recorded.get(n))}, trained with {spelled(trained[n])}" for n in changed)
        raise UserError(f"{path} was changed since the run was trained: {named}; change it back, or start a new run")
    return recorded


def _shown(value: Any) -> str:
    return spelled(value) if value is None or isinstance(value, (str, int, float, list)) else json.dumps(value)[:60]


def _takes(flag: Flag, value: Any) -> bool:
    if value is None:
        return flag.default is None
    if value == AUTO and flag.default == AUTO:
        return True
    if flag.nargs is None:
        return _is_one(flag, value)
    length = int(flag.nargs) if flag.nargs.isdigit() else None
    fits = isinstance(value, list) and (len(value) == length if length else len(value) > 0)
    return fits and all(_is_one(flag, entry) for entry in value)


def _is_one(flag: Flag, value: Any) -> bool:
    kinds = {bool: (bool,), yes_no: (bool,), int: (int,), float: (int, float), str: (str,)}
    return type(value) in kinds.get(flag.type, (type(value),)) and (flag.choices is None or value in flag.choices)


def _allowed(flag: Flag) -> str:
    one = f"one of {', '.join(map(str, flag.choices))}" if flag.choices else KINDS.get(flag.type, "another")
    if flag.nargs is None:
        return one
    return f"a list of {flag.nargs if flag.nargs.isdigit() else 'one or more'}, each {one}"
