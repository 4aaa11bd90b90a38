"""Folders of generated data that are complete or absent, however the process that writes them ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utilities.errors import UserError, WrongFolderError
from utilities.files import write_json

MANIFEST = "manifest.json"


@contextlib.contextmanager
def generated_folder(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Path | None]:
    """Yield a new folder to fill, which becomes `folder` at the end; None where `folder` is complete already.

    The manifest is written last and the whole is renamed into place, so a killed process leaves only a hidden
    folder that nobody takes for data. When another process was faster, its folder, equal to this one, stays.
    A `folder` that was generated from another manifest, or not generated at all, is a `WrongFolderError`.
    """
    if folder.exists():
        _check_manifest(folder, manifest)
        yield None
        return
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        write_json(partial / MANIFEST, manifest)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
            _check_manifest(folder, manifest)
    except OSError as error:
        raise UserError(f"cannot generate {folder}: {error}; free space or give another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise WrongFolderError(
            f"{folder} exists and was not generated here (no readable {MANIFEST}); move it away or give another folder"
        ) from error
    if found == dict(manifest):
        return
    different = [key for key in {**found, **manifest} if found.get(key) != manifest.get(key)]
    listed = "; ".join(f"{key}: {found.get(key)} there, {manifest.get(key)} asked for" for key in different)
    raise WrongFolderError(
        f"{folder} was generated from other settings ({listed}); ask for those, delete it, or give another folder"
    )
