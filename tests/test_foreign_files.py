"""Files as researchers have them: valid, and unlike those that the data sets were published with."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.bigearthnet.dataset import BigEarthNet
from datasets.bigearthnet.nomenclature import BAND_SIDES
from datasets.check.inspect import inspect
from datasets.demo.dataset import Demo
from datasets.examples import Examples, find_example
from datasets.files.geotiff import decode_band, read_band_of
from datasets.files.images import read_rgb
from datasets.folder.pixels import FileReader
from datasets.query_files import Reading, spelled_band
from tests.miniatures import write_bigearthnet, write_ucmerced
from tests.scripts import run_inside
from utilities.errors import DatasetError, UserError

rasterio = pytest.importorskip("rasterio")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*are split 60/20/20"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def write_raster(path: Path, pixels: np.ndarray, names: tuple[str, ...] = (), **options: Any) -> Path:
    """pixels (C, H, W); names are the descriptions of the bands."""
    count, height, width = pixels.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    size: dict[str, Any] = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as raster:
        raster.write(pixels)
        for number, name in enumerate(names, start=1):
            raster.set_band_description(number, name)
    return path


def sentinel(source: Path, split: str = "test", **options: Any) -> BigEarthNet:
    usual: dict[str, Any] = {"labels": 19, "bands": "all", "version": 1, "splits": "hashed", "index_path": None}
    return BigEarthNet(source_path=source, split=split, **usual | options)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bigearthnet(tmp_path_factory.mktemp("patches"))


def asked(path: Path, like: Any, reading: Reading = Reading()) -> Examples:  # noqa: B008 - it is a NamedTuple
    return Examples([find_example(str(path), like, list)], like, reading)


def shifted(patch: Path, to: Path, offset: int = 1000, suffix: str = "") -> Path:
    """A copy of a patch with the offset of newer products, and no data where it holds 0."""
    to.mkdir(parents=True)
    for path in patch.glob("*.tif"):
        pixels = tifffile.imread(path)
        tifffile.imwrite(to / path.name, np.where(pixels > 0, pixels + offset, 0).astype(np.uint16), metadata=None)
    return to


# Sentinel-2 -------------------------------------------------------------------------------------------------


def test_the_offset_of_newer_products_is_taken_off(patches: Path, tmp_path: Path) -> None:
    data = sentinel(patches)
    copy = shifted(data.path(0), tmp_path / "query")
    told = asked(copy, data, Reading(boa_offset=1000))
    assert np.array_equal(told.read(0), data.read(0))
    untold = asked(copy, data)
    assert not np.array_equal(untold.read(0), data.read(0))
    assert any("visible bands is 1000 or more" in note and "--boa_offset 1000" in note for note in untold.notes(0))
    assert not any("offset" in note for note in told.notes(0))
    low = tmp_path / "query" / f"{data.names[0]}_B02.tif"
    tifffile.imwrite(low, np.full((120, 120), 300, np.uint16), metadata=None)
    assert asked(copy, data, Reading(boa_offset=1000)).read(0).min() == 0, "never below 0"


def test_a_data_set_with_the_offset_is_read_as_one_without(patches: Path, tmp_path: Path) -> None:
    """From folders and from a prepared array, which is another one; without the flag a note asks for it."""
    for patch in patches.iterdir():
        shifted(patch, tmp_path / "new" / patch.name)
        shutil.copy(patch / f"{patch.name}_labels_metadata.json", tmp_path / "new" / patch.name)
    with pytest.warns(UserWarning, match=r"1000 or more in \d of \d patches looked at.*--boa_offset 1000"):
        sentinel(tmp_path / "new")
    new = sentinel(tmp_path / "new", boa_offset=1000)
    for row in range(len(new)):
        assert np.array_equal(new.read(row), sentinel(patches).read(row))
    assert new.variant != sentinel(patches).variant


def test_the_flags_reach_the_search(sentinel_run: tuple[Path, Path], tmp_path: Path) -> None:
    source, saved = sentinel_run
    data = sentinel(source, splits="auto")
    copy = shifted(data.path(0), tmp_path / "newer product")
    argv = ["--load_from_checkpoint", saved, "--num_workers", 0, "--top", 1, "--query", copy]
    assert "--boa_offset 1000" in run_inside("evaluate_model", *argv).stdout
    said = run_inside("evaluate_model", *argv, "--boa_offset", 1000).stdout
    assert "visible bands" not in said
    assert str(data.names[0]) in said


def test_no_data_is_said_and_nothing_but_it_refused(patches: Path, tmp_path: Path) -> None:
    data = sentinel(patches)
    patch = tmp_path / "edge"
    shutil.copytree(data.path(0), patch)
    for band, side in BAND_SIDES.items():
        pixels = tifffile.imread(patch / f"{data.names[0]}_{band}.tif").clip(1)
        pixels[: side // 4] = 0
        tifffile.imwrite(patch / f"{data.names[0]}_{band}.tif", pixels, metadata=None)
    assert "25.0% of the query's values are 0, no data" in asked(patch, data).notes(0)
    for band, side in BAND_SIDES.items():
        tifffile.imwrite(patch / f"{data.names[0]}_{band}.tif", np.zeros((side, side), np.uint16), metadata=None)
    with pytest.raises(DatasetError, match="edge is empty: all values of B01 B02"):
        asked(patch, data).read(0)


def test_the_check_names_empty_patches_and_absent_bands(tmp_path: Path) -> None:
    root = write_bigearthnet(tmp_path)
    test = sentinel(root)
    empty, partial, lacking = test.path(0), test.path(1), sentinel(root, "train").path(0)
    for band, side in BAND_SIDES.items():
        pixels = np.full((side, side), 7, np.uint16)
        tifffile.imwrite(empty / f"{empty.name}_{band}.tif", pixels * 0, metadata=None)
        pixels[0, 0] = 0
        tifffile.imwrite(partial / f"{partial.name}_{band}.tif", pixels, metadata=None)
    (lacking / f"{lacking.name}_B05.tif").unlink()
    found = inspect(lambda split: sentinel(root, split), decode=True, processes=0)
    assert f"{empty.name} is empty: no data in any pixel" in found.problems
    assert any(f"of the values of {partial.name} are 0, no data" in note for note in found.notes)
    quick = inspect(lambda split: sentinel(root, split), decode=False, processes=0)
    assert quick.problems == [f"{lacking / lacking.name}_B05.tif is not there"]


@pytest.mark.parametrize(
    "names", [tuple(BAND_SIDES), (), ("B1", "B2 (blue)", *(f"b{i}" for i in range(3, 9)), "8A", "9")]
)
def test_one_geotiff_of_twelve_bands(patches: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Named by descriptions, or by --query_bands, in any order; coarse bands repeated to 10 m come back exactly."""
    data = sentinel(patches)
    bands = dict(zip(data.bands, data._read_bands(0, data.bands), strict=True))
    whole = np.stack([np.kron(band, np.ones((120 // len(band),) * 2, np.uint16)) for band in bands.values()])
    if not names:
        path = write_raster(tmp_path / "all.tif", whole[::-1])
        with pytest.raises(DatasetError, match=r"holds 120 x 120 pixels, 12 bands of uint16, B01, .*--query_bands"):
            asked(path, data)
        with pytest.raises(DatasetError, match="--query_bands B01,B02 names 2 bands; give a name for each"):
            asked(path, data, Reading(bands=["B01", "B02"]))
        reading = Reading(bands=[*bands][::-1])
    else:
        names = (
            names
            if names == tuple(BAND_SIDES)
            else ("B1", "B2 (blue)", "b3", "b4", "b5", "b6", "b7", "b8", "B8a", "B9", "B11", "B12")
        )
        path, reading = write_raster(tmp_path / "all.tif", whole, names), Reading()
    query = asked(path, data, reading)
    assert np.array_equal(query.read(0), data.read(0))
    assert np.array_equal(query.thumbnail(0), data.thumbnail(0))


def test_no_data_of_a_geotiff_is_0_whatever_the_file_calls_it(patches: Path, tmp_path: Path) -> None:
    whole = np.full((3, 120, 120), 700, np.uint16)
    whole[:, :30] = 65535
    query = asked(
        write_raster(tmp_path / "a.tif", whole, ("B02", "B03", "B04"), nodata=65535), sentinel(patches, bands="rgb")
    )
    assert query.read(0)[:, ::119, 0].tolist() == [[0, 700]] * 3
    assert "25.0% of the query's values are 0, no data" in query.notes(0)


def test_a_raster_that_is_no_patch_says_how_to_make_one(patches: Path, tmp_path: Path) -> None:
    data = sentinel(patches, bands="rgb")
    path = write_raster(tmp_path / "wide.tif", np.ones((3, 100, 200), np.uint16), ("B02", "B03", "B04"))
    with pytest.raises(DatasetError, match=r"200 x 100 pixels, 3 bands.*where a patch is 120 x 120 .*-srcwin"):
        asked(path, data).read(0)
    path = write_raster(tmp_path / "share.tif", np.full((3, 120, 120), 0.1, np.float32), ("B02", "B03", "B04"))
    with pytest.raises(DatasetError, match=r"120 x 120 float32 .* reflectance x 10,000"):
        asked(path, data).read(0)
    path = write_raster(tmp_path / "whole.tif", np.full((3, 120, 120), 500, np.float32), ("B02", "B03", "B04"))
    assert (asked(path, data).read(0) == 500).all()


def test_bands_of_a_folder_may_lie_at_10_m_and_be_called_b2(patches: Path, tmp_path: Path) -> None:
    data = sentinel(patches)
    for band, pixels in zip(data.bands, data._read_bands(0, data.bands), strict=True):
        name = f"scene_{band.replace('B0', 'B')}.TIF"
        write_raster(tmp_path / "scene" / name, np.kron(pixels, np.ones((120 // len(pixels),) * 2, np.uint16))[None])
    assert np.array_equal(asked(tmp_path / "scene", data).read(0), data.read(0))


def test_names_of_bands() -> None:
    spellings = {
        "B02": "B02",
        "B2": "B02",
        "b8a": "B8A",
        "B12, SWIR": "B12",
        "blue": "",
        "B2 B3": "",
        "B13": "",
        "ab2": "",
    }
    assert {name: spelled_band(name) for name in spellings} == spellings


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "lzw"},
        {"compress": "zstd", "predictor": 2},
        {"compress": "lerc"},
        {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64},
        {"compress": "lzw", "BIGTIFF": "YES"},
    ],
)
def test_bands_of_any_codec(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (1, 120, 120), dtype=np.uint16)
    path = write_raster(tmp_path / "a.tif", pixels, **options)
    assert np.array_equal(decode_band(path.read_bytes(), 120, "a.tif"), pixels[0])
    with pytest.raises(DatasetError, match=r"a\.tif is 120 x 120 uint16 where 60 x 60"):
        decode_band(path.read_bytes(), 60, "a.tif")


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
def test_float_bands_with_the_predictor_for_them(tmp_path: Path, compress: str) -> None:
    """Predictor 3: bytes of floating point numbers in planes, which tifffile reads with a package of its own alone."""
    pixels = np.random.default_rng(0).random((2, 120, 120), dtype=np.float32)
    one = write_raster(tmp_path / "one.tif", pixels[:1], compress=compress, predictor=3)
    found = read_band_of(str(one), (120,))
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels[0])
    both = write_raster(tmp_path / "both.tif", pixels, ("B02", "B08"), compress=compress, predictor=3, tiled=True)
    decoded = FileReader(("B08", "B02"), 120, (0.0, 1.0)).decode(both)
    assert np.array_equal(decoded, (pixels[::-1] * 10_000).round().astype(np.uint16))


# Photographs ------------------------------------------------------------------------------------------------


def test_absent_tiles_are_empty_and_not_other_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (3, 64, 64), dtype=np.uint8)
    pixels[:, :32, 32:] = 0
    options = {"tiled": True, "blockxsize": 32, "blockysize": 32, "photometric": "RGB", "SPARSE_OK": True}
    path = write_raster(tmp_path / "sparse.tif", pixels, **options)
    assert np.array_equal(read_rgb(path, 64).transpose(2, 0, 1), pixels)
    with path.open("rb") as file:
        assert np.array_equal(read_rgb(file, 64, "sparse.tif").transpose(2, 0, 1), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_as_its_orientation_says(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255  # upper left
    undo = {
        1: [],
        2: ["lr"],
        3: ["lr", "ud"],
        4: ["ud"],
        5: ["t"],
        6: ["t", "ud"],
        7: ["t", "lr", "ud"],
        8: ["t", "lr"],
    }
    stored = upright
    for step in undo[orientation]:
        stored = {"lr": np.fliplr, "ud": np.flipud, "t": lambda a: a.transpose(1, 0, 2)}[step](stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png", 16), upright)


def test_geotiffs_for_a_network_of_photographs(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Bands marked as red, green and blue are taken; others, and deeper ones, are described with what to do."""
    like = Demo(source_path=demo_run[0], split="test", images_per_category=8, side=48, seed=0)
    rng = np.random.default_rng(0)
    five = rng.integers(0, 256, (5, 48, 48), dtype=np.uint8)
    path = write_raster(tmp_path / "five.tif", five, photometric="RGB", compress="zstd")
    assert np.array_equal(asked(path, like).read(0), five[:3])
    path = write_raster(tmp_path / "unmarked.tif", five, photometric="MINISBLACK")
    with pytest.raises(
        DatasetError, match=r"unmarked\.tif: it holds 48 x 48 pixels, 5 bands of uint8, none .* red, green"
    ):
        asked(path, like).read(0)
    for kind in (np.uint16, np.float32):
        path = write_raster(tmp_path / "deep.tif", five.astype(kind))
        with pytest.raises(
            DatasetError, match=r"more than 8 bits a channel.*5 bands of .*gdal_translate .*-ot Byte -scale"
        ):
            asked(path, like).read(0)
    with pytest.raises(UserError, match="is a folder, but this run reads RGB photographs"):
        asked(tmp_path, like)


def test_hidden_folders_hold_no_images(tmp_path: Path) -> None:
    from datasets.mlrsnet.dataset import category_folders
    from datasets.ucmerced.dataset import scene_files

    root = write_ucmerced(tmp_path)
    expected = scene_files(root / "Images")
    shutil.copytree(root / "Images" / "beach", root / "Images" / ".ipynb_checkpoints")
    shutil.copy(root / "Images" / "beach" / "beach00.tif", root / "Images" / "beach" / ".beach00-checkpoint.tif")
    assert scene_files(root / "Images") == expected
    assert category_folders(root / "Images", ["beach", "river"]) == ["beach", "river"]


def test_a_cut_off_photograph_is_still_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.ones((64, 64, 3), np.uint8), photometric="rgb")
    (tmp_path / "cut.tif").write_bytes(buffer.getvalue()[:6000])
    with pytest.raises(DatasetError, match=r"cannot read the image .*cut\.tif"):
        read_rgb(tmp_path / "cut.tif", 64)
