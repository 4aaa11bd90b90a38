"""Reading a tar archive once, front to back: .tar, .tar.gz (.tgz) and .tar.zst.

Python's tarfile keeps every member it has met, and takes 3.3 times as long over 20,000 members of BigEarthNet's sizes
(1.7 times in a .tar.gz; 2026-11-28, one core of an Intel Xeon): BigEarthNet has 7.7 million.
This reader knows regular files with the names of ustar, GNU and pax, and holds one file at a time. An archive that
ends early is an error however it was cut: without tar's end mark, in the middle of a file, of the compressed stream,
or in the check sum behind it.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from utilities.errors import DatasetError, UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
RECORD = 512
READ_AHEAD = 2**20
ZSTD = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte 0x5X (RFC 8878, 3.1.2): what pzstd puts before every frame
REGULAR, LONG_NAME, PAX = (b"0", b"\0", b"7"), b"L", b"x"
ABOUT_THE_NEXT = (b"K", b"g")  # a long link, defaults of pax
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: whatever size they state


class Member(NamedTuple):
    """A regular file of an archive: its path there and its bytes."""

    path: str
    data: bytes


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


class TarStream:
    """The regular files of an archive, in its order, and how many bytes of it have been read (`consumed`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.stat().st_size
        self._raw = path.open("rb")
        self._file = _decompressed(self._raw, path)
        self._inside = ""  # the file being read, for messages

    @property
    def consumed(self) -> int:
        return self._raw.tell()

    def __enter__(self) -> TarStream:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._raw.close()

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
            while self._file.read(READ_AHEAD):  # what follows tar's end mark; with it the compression's check sum
                pass
        except (EOFError, zlib.error, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk or the network, not of the archive
                raise
            if "too much memory" in str(error):  # zstd's words for a window of more than 128 MiB
                raise DatasetError(
                    f"the archive {self.path} was compressed with a window of more than 128 MiB, which is not read "
                    f"here; unpack it, or compress it anew: zstd -dc --long=31 {self.path} | zstd -o NEW.tar.zst"
                ) from error
            where = f", in {self._inside}" if self._inside else ""
            raise DatasetError(
                f"the archive {self.path} is cut off or damaged after {self.consumed:,} of {self.bytes:,} bytes"
                f"{where}: {error}; compare its check sum with the published one and download it again"
            ) from error

    def _members(self) -> Iterator[Member]:
        long_name = ""
        while (header := self._next_header()) is not None:
            self._inside = long_name or header.name
            data = b"" if header.kind in WITHOUT_DATA else self._read(header.size)
            if header.kind == LONG_NAME:
                long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.kind == PAX:
                long_name = _pax_path(data) or long_name
            elif header.kind not in ABOUT_THE_NEXT:
                long_name = ""
                if header.kind in REGULAR and not self._inside.endswith("/"):  # an old way to write a folder
                    yield Member(self._inside, data)
        self._inside = ""

    def _next_header(self) -> _Header | None:
        """None at the end mark, a record of zeros."""
        record = self._file.read(RECORD)
        if len(record) < RECORD:
            raise EOFError("it ends without the end mark of a tar archive")
        return None if record.count(0) == RECORD else _parse(record)

    def _read(self, size: int) -> bytes:
        """Contents of a member; what fills its last record is dropped."""
        padded = -(-size // RECORD) * RECORD
        data = self._file.read(padded)
        if len(data) < padded:
            raise EOFError("it ends in the middle of a file")
        return data[:size]


def _parse(record: bytes) -> _Header:
    expected = int(record[148:156].strip(b" \0") or b"0", 8)
    if sum(record) - sum(record[148:156]) + 8 * ord(" ") != expected:
        raise ValueError("the check sum of a tar header is wrong")
    size = record[124:136]
    count = int.from_bytes(size[1:], "big") if size[0] & 0x80 else int(size.strip(b" \0") or b"0", 8)
    name = record[:100].partition(b"\0")[0]
    if record[257:263] == b"ustar\0" and record[345]:
        name = record[345:500].partition(b"\0")[0] + b"/" + name
    return _Header(name.decode("utf-8", "surrogateescape"), count, record[156:157])


def _pax_path(data: bytes) -> str:
    """The path in the records `<length> <key>=<value>\\n` of a pax header; "" where there is none."""
    path = ""
    while data:
        length = int(data.partition(b" ")[0])
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        if key == b"size":
            raise ValueError("a file of more than 8 GB")
        if key == b"path":
            path = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return path


def _decompressed(raw: BinaryIO, path: Path) -> BinaryIO:
    """The stream inside, by what the file begins with."""
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), READ_AHEAD)
    if magic == ZSTD or (magic[1:] == ZSTD_SKIPPABLE and magic[0] >> 4 == 5):
        try:
            import pyarrow
        except ImportError as error:
            raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
        return io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), READ_AHEAD)
    return raw


def find_archive(source: Path, pattern: str) -> Path | None:
    """`source` itself where it is a file; else the one archive in it whose name matches, None where there is none.

    Several that match are a `UserError`.
    """
    if source.is_file():
        if not source.name.lower().endswith(SUFFIXES):
            raise UserError(f"--source_path {source} is neither a folder nor an archive {', '.join(SUFFIXES)}")
        return source
    if not source.is_dir():
        return None
    found = sorted(p for p in source.iterdir() if p.name.lower().endswith(SUFFIXES) and re.match(pattern, p.name))
    if len(found) > 1:
        named = ", ".join(path.name for path in found)
        raise UserError(f"{source} holds several archives ({named}); give one of them as --source_path")
    return found[0] if found else None
