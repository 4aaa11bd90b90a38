"""The TIFF parser: pixels of GDAL and tifffile, whatever the file; damage named."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.bigearthnet.nomenclature import BAND_SIDES
from datasets.files.geotiff import _decode_plain, decode_band, read_band
from tests.miniatures import SHARED
from utilities.errors import DatasetError

REAL = SHARED / "BigEarthNet"


def encoded(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, (60, 60), dtype=np.uint16)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no BigEarthNet patches in {REAL}")
def test_real_bands_are_those_of_gdal() -> None:
    rasterio = pytest.importorskip("rasterio")
    files = [(path, band) for band in BAND_SIDES for path in sorted(REAL.glob(f"*/*_{band}.tif"))]
    assert len(files) == 72
    for path, band in files:
        with rasterio.open(path) as raster:
            assert (read_band(str(path), BAND_SIDES[band]) == raster.read(1)).all()
        assert _decode_plain(path.read_bytes()) is not None, "the fast path must take what the archive holds"


@pytest.mark.parametrize("rows", [60, 34, 30, 7, 1])
def test_strips_of_any_height_are_read_without_tifffile(pixels: np.ndarray, rows: int) -> None:
    plain = _decode_plain(encoded(pixels, rowsperstrip=rows))
    assert plain is not None
    assert (plain == pixels).all()


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"tile": (32, 32)},
    ],
)
def test_any_other_tiff_goes_to_tifffile(pixels: np.ndarray, options: dict[str, object]) -> None:
    data = encoded(pixels, **options)
    assert _decode_plain(data) is None
    assert (decode_band(data, 60, "band") == pixels).all()


def test_strips_that_do_not_follow_each_other_are_put_in_order(pixels: np.ndarray) -> None:
    """Strip offsets are swapped by hand, so that the file's order is not the picture's."""
    data = bytearray(encoded(pixels, rowsperstrip=30))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags["StripOffsets"]
        kind = {3: "<2H", 4: "<2I"}[int(tag.dtype)]
        first, second = tag.value
        struct.pack_into(kind, data, tag.valueoffset, second, first)
    expected = np.concatenate([pixels[30:], pixels[:30]])
    assert (decode_band(bytes(data), 60, "band") == expected).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.03, 0.5, 0.99])
@pytest.mark.parametrize("rows", [60, 7])
def test_a_truncated_file_is_named(tmp_path: Path, pixels: np.ndarray, share: float, rows: int) -> None:
    data = encoded(pixels, rowsperstrip=rows)
    path = tmp_path / "patch_B05.tif"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DatasetError, match=r"patch_B05\.tif"):
        read_band(str(path), 60)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((61, 60), np.uint16), "61 x 60 uint16"),
        (np.zeros((60, 60), np.float32), "60 x 60 float32"),
        (np.zeros((60, 60), np.int16), "60 x 60 int16"),
        (np.zeros((60, 60), np.uint8), "60 x 60 uint8"),
        (np.zeros((60, 60, 3), np.uint16), "60 x 60 x 3 uint16"),
    ],
)
def test_another_size_or_dtype_is_named(wrong: np.ndarray, found: str) -> None:
    with pytest.raises(DatasetError, match=f"the band B05 is {found} where 60 x 60 uint16 is expected"):
        decode_band(encoded(wrong), 60, "B05")


def test_a_missing_file_and_a_foreign_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.tif: No such file"):
        read_band(str(tmp_path / "absent.tif"), 60)
    with pytest.raises(DatasetError, match="cannot read the band B05"):
        decode_band(b"<html>not found</html>", 60, "B05")


def test_bits_flipped_in_the_directory_give_an_image_of_the_right_kind_or_an_error(pixels: np.ndarray) -> None:
    """Whatever the damaged directory describes: what is not 60 x 60 uint16 is a `DatasetError`."""
    data = encoded(pixels, rowsperstrip=20)
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[int(rng.integers(0, 220))] ^= 1 << int(rng.integers(0, 8))
        with contextlib.suppress(DatasetError):
            found = decode_band(bytes(damaged), 60, "band")
            assert (found.shape, found.dtype) == ((60, 60), np.uint16)
