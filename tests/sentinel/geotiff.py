"""The GeoTIFF of BigEarthNet: one uint16 band, uncompressed strips, WGS 84 / UTM north.

Written by hand because the layout is part of the data set: 8 KiB strips and these fifteen tags in this order
give the files' known sizes (29,192, 7,560 and 1,160 bytes), and equal pixels give equal bytes.
"""

from __future__ import annotations

import struct

import numpy as np

STRIP_BYTES = 8192
STRIP_OFFSETS, STRIP_SIZES = 273, 279
Tag = tuple[int, int, list | bytes]  # tag, type, values

_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_FORMATS = {_SHORT: "H", _LONG: "I", _DOUBLE: "d"}


def encode(pixels: np.ndarray, *, west: float, north: float, metres: float, zone: int) -> bytes:
    """(H, W) uint16 -> file content. west, north: UTM coordinates of the upper left corner."""
    height, width = pixels.shape
    rows = min(height, STRIP_BYTES // (2 * width))
    lengths = [2 * width * min(rows, height - top) for top in range(0, height, rows)]
    tags = _tags(width, height, rows, lengths, west, north, metres, zone)
    pixels_at = len(_directory(tags, 0))
    return _directory(tags, pixels_at) + pixels.astype("<u2").tobytes()


def _tags(
    width: int,
    height: int,
    rows: int,
    lengths: list[int],
    west: float,
    north: float,
    metres: float,
    zone: int,
) -> list[Tag]:
    """(tag, type, values) in the order of the directory; StripOffsets are relative to the pixels' start."""
    citation = f"WGS 84 / UTM zone {zone}N|".encode()
    geo_keys = [1, 1, 0, 7, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, len(citation), 0]
    geo_keys += [2049, 34737, 7, len(citation), 2054, 0, 1, 9102, 3072, 0, 1, 32600 + zone, 3076, 0, 1, 9001]
    return [
        (256, _SHORT, [width]),
        (257, _SHORT, [height]),
        (258, _SHORT, [16]),  # BitsPerSample
        (259, _SHORT, [1]),  # Compression: none
        (262, _SHORT, [1]),  # PhotometricInterpretation: black is zero
        (STRIP_OFFSETS, _LONG, [sum(lengths[:i]) for i in range(len(lengths))]),
        (277, _SHORT, [1]),  # SamplesPerPixel
        (278, _SHORT, [rows]),
        (STRIP_SIZES, _LONG, lengths),
        (284, _SHORT, [1]),  # PlanarConfiguration
        (339, _SHORT, [1]),  # SampleFormat: unsigned
        (33550, _DOUBLE, [metres, metres, 0.0]),  # ModelPixelScale
        (33922, _DOUBLE, [0.0, 0.0, 0.0, west, north, 0.0]),  # ModelTiepoint
        (34735, _SHORT, geo_keys),
        (34737, _ASCII, citation + b"WGS 84|\0"),
    ]


def _directory(tags: list[Tag], pixels_at: int) -> bytes:
    """Header, directory and, behind it, the values of more than four bytes."""
    values: dict[int, bytes] = {}
    for tag, kind, content in tags:
        if isinstance(content, bytes):
            values[tag] = content
        else:
            base = pixels_at if tag == STRIP_OFFSETS else 0
            values[tag] = struct.pack(f"<{len(content)}{_FORMATS[kind]}", *(base + value for value in content))
    outside, place = {}, 8 + 2 + 12 * len(tags) + 4
    # GDAL puts the strips' sizes before their offsets; the rest follows in the order of the directory
    for tag in (STRIP_SIZES, *(tag for tag in values if tag != STRIP_SIZES)):
        if len(values[tag]) > 4:
            outside[tag] = place
            place += len(values[tag])
    entries = [
        struct.pack("<HHI", tag, kind, len(content))
        + (struct.pack("<I", outside[tag]) if tag in outside else values[tag].ljust(4, b"\0"))
        for tag, kind, content in tags
    ]
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return header + b"".join(entries) + bytes(4) + b"".join(values[tag] for tag in outside)
