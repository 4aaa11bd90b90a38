"""How images lie in the archive that a data set is published as: what `from_archive` needs to know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from datasets.base import PixelFormat
from datasets.files.tar import Member
from utilities.errors import DatasetError
from utilities.files import fingerprint
from utilities.flags.registry import Registry

MOST_INCOMPLETE = 2000  # images of several files that may be begun at once: what an archive sorted otherwise exceeds


class Part(NamedTuple):
    """One file of an image: the image's name, and which of its files."""

    image: str
    file: str


class Selection(NamedTuple):
    """Which images of an archive are taken: all or the listed ones, without those left out."""

    listed: frozenset[str] | None
    left_out: frozenset[str]

    def holds(self, image: str) -> bool:
        return image not in self.left_out and (self.listed is None or image in self.listed)

    def fingerprint(self) -> str:
        """Of both lists: rows of a pass that is continued are those of one that was not stopped."""
        lists = [sorted(self.listed) if self.listed is not None else None, sorted(self.left_out)]
        return fingerprint(json.dumps(lists))


class ArchiveLayout(PixelFormat):
    """Subclasses are registered under the name of their data set and take its options from the same flags.

    source_path  the folder in which the archive lies
    pattern      what the archive's name begins with, as a regular expression
    files        the files of every image, by the names that `part` gives them
    """

    pattern: ClassVar[str]
    files: frozenset[str]

    def part(self, path: str) -> Part | None:
        """What a member of the archive is; None where it belongs to no image that is wanted."""
        raise NotImplementedError

    def decode(self, image: str, files: Mapping[str, bytes]) -> np.ndarray:
        """Pixels, `item_shape` and `dtype`, as the data set's `read` gives them. Runs in several threads at once."""
        raise NotImplementedError

    def take(self, image: str, files: Mapping[str, bytes]) -> None:
        """What is to be known of every image besides its pixels; called once an image, in the archive's order."""

    def keep(self, member: Member) -> None:
        """A member that belongs to no image."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write what was taken and kept to `folder`; returns what the manifest is to say of the labels."""
        raise NotImplementedError

    def is_unpacked(self) -> bool:
        """Whether the data set lies in `source_path` as files of its own."""
        raise NotImplementedError

    def selection(self) -> Selection:
        """Which images a split can hold: others are not decoded. Not cheap; asked for twice a pass."""
        return Selection(None, frozenset())


class Image(NamedTuple):
    """One image of an archive: its files by name, and those that it lacks."""

    name: str
    files: dict[str, bytes]
    missing: frozenset[str]


def images(members: Iterator[Member], layout: ArchiveLayout, archive: Path) -> Iterator[Image]:
    """The images of an archive, each as soon as its last file has come, incomplete ones at the end.

    An image that comes twice, a name that is not UTF-8, and an archive whose files are sorted so that thousands of
    images are incomplete at once, are `DatasetError`s.
    """
    begun: dict[str, dict[str, bytes]] = {}
    seen: set[str] = set()
    selection = layout.selection()
    for member in members:
        part = layout.part(member.path)
        if part is None:
            layout.keep(member)
            continue
        if not selection.holds(part.image):
            continue
        files = begun.setdefault(part.image, {})
        if not files:
            _refuse_undecoded(part.image, archive)
        if part.image in seen or part.file in files:
            raise DatasetError(f"{archive} holds {part.image} twice; the second is {member.path}")
        files[part.file] = member.data
        if files.keys() == layout.files:
            seen.add(part.image)
            yield Image(part.image, begun.pop(part.image), frozenset())
        elif len(begun) > MOST_INCOMPLETE:
            raise DatasetError(
                f"the files of an image do not lie together in {archive} ({next(iter(begun))} has "
                f"{len(begun[next(iter(begun))])} of {len(layout.files)}); unpack it and give the folder"
            )
    for name, files in begun.items():
        yield Image(name, files, layout.files - files.keys())


def _refuse_undecoded(name: str, archive: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{archive} holds the image {name!a}, whose name is not UTF-8; pack it under another"
        ) from error


ARCHIVES: Registry[ArchiveLayout] = Registry("archive")
