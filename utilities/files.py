"""Files that are written whole or not at all, JSON files, and places that can be written."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utilities.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends well, and is gone when it does not.

    No other process has the same one: two evaluations of a run may write at once.
    """
    temporary = path.with_name(f".{path.stem}.{os.urandom(6).hex()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path, what: str) -> None:
    """Raise UserError where `folder`, named `what`, is a file or may not be written or made: hours before it is."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{what} {folder}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder}: {nearest} may not be written to; give another folder, or change its mode")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError naming it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def json_safe(value: Any) -> Any:
    """The value with NaN as None, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
