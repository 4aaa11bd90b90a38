"""The generated data: exact layouts, equal bytes from equal seeds, labels that can be seen and learned."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from datasets.bigearthnet.dataset import BigEarthNet
from datasets.bigearthnet.nomenclature import LABELS_43
from datasets.demo import dataset as demo_module
from datasets.demo.dataset import Demo, write_mlrsnet_layout
from datasets.demo.painting import CATEGORIES, LABELS, paint, visible_labels
from datasets.demo.painting.canvas import SUPERSAMPLING, Canvas
from datasets.demo.painting.materials import MATERIALS
from datasets.files.generated import generated_folder
from datasets.mlrsnet.labels import CATEGORY_LABELS, read_workbook
from datasets.mlrsnet.labels import LABELS as MLRSNET_LABELS
from tests.sentinel import geotiff, landscapes
from tests.sentinel.patches import ACQUISITIONS, write_bigearthnet_layout
from tests.sentinel.spectra import BANDS, COVER_NAMES, COVERS
from utilities.errors import DatasetError, UserError
from utilities.seeding import derive

TINY = {"images_per_category": 2, "side": 48, "seed": 0}
SIDE = 64
PER_CATEGORY = 12


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "Demo"
    write_mlrsnet_layout(folder, **TINY)
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Pictures of each scene type with their label rows."""
    found = [paint(c, side=SIDE, seed=derive(7, c, i)) for c in CATEGORIES for i in range(PER_CATEGORY)]
    rows = np.array([[label in visible_labels(picture.shares) for label in LABELS] for picture in found])
    return found, rows


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentinel") / "BigEarthNet-v1.0"
    write_bigearthnet_layout(folder, patches=12, seed=3)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the scenes ---------------------------------------------------------------------------------------------
def test_names_are_mlrsnets():
    assert set(LABELS) <= set(MLRSNET_LABELS)
    assert set(CATEGORIES) <= set(CATEGORY_LABELS)
    assert (len(LABELS), len(CATEGORIES)) == (24, 22)


def test_every_label_occurs_and_none_is_everywhere(pictures):
    _, rows = pictures
    shares = rows.mean(0)
    assert shares.min() > 0.02, dict(zip(LABELS, shares, strict=True))
    assert shares.max() < 0.75


def test_labels_per_image(pictures):
    _, rows = pictures
    counts = rows.sum(1)
    assert 3.5 <= counts.mean() <= 5
    assert counts.min() >= 1
    assert np.percentile(counts, 90) - np.percentile(counts, 10) >= 3
    assert len(np.unique(rows, axis=0)) > 100


def test_a_scene_shows_what_it_is_called(pictures):
    _, rows = pictures
    named = {
        "airplane": "airplane", "airport": "runway", "bareland": "bare soil", "beach": "sand",
        "bridge": "bridge", "basketball_court": "basketball court", "farmland": "field", "forest": "forest",
        "freeway": "road", "harbor&port": "ships", "lake": "water", "meadow": "grass",
        "parking_lot": "parking lot", "railway": "railway", "river": "river", "storage_tank": "tanks",
        "swimmimg_pool": "swimming pool", "tennis_court": "tennis court", "industrial_area": "buildings",
    }  # fmt: skip
    for category, label in named.items():
        first = PER_CATEGORY * CATEGORIES.index(category)
        shown = rows[first : first + PER_CATEGORY, LABELS.index(label)]
        assert shown.mean() >= 0.9, (category, label)


def test_shares_are_those_of_the_visible_surface(pictures):
    found, _ = pictures
    for picture in found[::7]:
        assert picture.materials.shape == (SIDE * SUPERSAMPLING, SIDE * SUPERSAMPLING)
        on_top = [list(MATERIALS.values())[code].labels for code in picture.materials.ravel()]
        for label, share in picture.shares.items():
            assert share == pytest.approx(np.mean([label in labels for labels in on_top]), abs=1e-9)


def test_labelled_surfaces_stand_out_from_what_surrounds_them(pictures):
    """Colour inside a label's mask against a ring of two pixels around it, in the median over pictures."""
    found, rows = pictures
    for column, label in enumerate(LABELS):
        codes = [code for code, material in enumerate(MATERIALS.values()) if label in material.labels]
        contrasts = []
        for picture, labels in zip(found, rows, strict=True):
            if not labels[column]:
                continue
            drawn = np.isin(picture.materials, codes).reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING)
            covered = drawn.mean((1, 3))
            inside = covered > 0.7
            around = ndimage.binary_dilation(covered > 0.1, iterations=2) & (covered < 0.1)
            if inside.sum() >= 3 and around.sum() >= 3:
                difference = picture.pixels[inside].mean(0) - picture.pixels[around].mean(0)
                contrasts.append(np.abs(difference).max())
        assert len(contrasts) >= 3, label
        assert np.median(contrasts) > 10, (label, np.median(contrasts))


def test_learnable_but_not_trivial(pictures):
    """A linear probe on colours and their spread finds labels far above chance, and far from perfectly."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import average_precision_score

    found, rows = pictures
    pixels = np.stack([p.pixels for p in found]).astype(np.float32) / 255
    colours = pixels.reshape(len(pixels), -1, 3)
    grain = np.abs(np.diff(pixels.mean(-1), axis=2)).reshape(len(pixels), -1)
    features = np.concatenate(
        [np.quantile(colours, np.linspace(0, 1, 9), axis=1).transpose(1, 0, 2).reshape(len(pixels), -1),
         np.quantile(grain, np.linspace(0.1, 1, 10), axis=1).T], axis=1)  # fmt: skip
    features = (features - features.mean(0)) / features.std(0)
    train = np.arange(len(rows)) % 2 == 0
    scores = Ridge(10.0).fit(features[train], rows[train]).predict(features[~train])
    precision, chance = average_precision_score(rows[~train], scores, average="macro"), rows[~train].mean()
    assert chance + 0.15 < precision < 0.85, (chance, precision)


@pytest.mark.parametrize(("extent", "height"), [(100.0, 12.0), (100.0, 25.0), (20.0, 60.0)])
def test_shadows_are_as_long_as_the_sun_is_low(extent, height):
    """A mast of height h shades the h / tan(elevation) metres behind it, or up to the picture's edge."""
    canvas = Canvas(np.random.default_rng(3), side=96, extent=extent)
    canvas.disc(0, 0, 0.01 * extent, (200, 200, 200), "buildings", height)
    rows, columns = np.nonzero(canvas._shadows(np.asarray(canvas._height, np.float32) * 0.25))
    ahead = (columns - canvas.size / 2) * canvas.sun[0] + (rows - canvas.size / 2) * canvas.sun[1]
    aside = (rows - canvas.size / 2) * canvas.sun[0] - (columns - canvas.size / 2) * canvas.sun[1]
    assert np.abs(aside).max() < 0.02 * extent * canvas.scale + 3
    if height / canvas.shadow_drop < extent / 2:
        assert ahead.max() / canvas.scale == pytest.approx(height / canvas.shadow_drop, abs=0.02 * extent)
    else:
        assert ahead.max() > 0.45 * canvas.size


def test_a_picture_follows_from_its_seed():
    first, again, other = (paint("harbor&port", side=SIDE, seed=seed).pixels for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


# --- MLRSNet's layout ---------------------------------------------------------------------------------------
def test_equal_settings_give_equal_bytes(demo, tmp_path):
    write_mlrsnet_layout(tmp_path / "again", **TINY)
    assert contents(tmp_path / "again") == contents(demo)
    write_mlrsnet_layout(tmp_path / "other", **{**TINY, "seed": 1})
    assert contents(tmp_path / "other") != contents(demo)


def test_layout_is_mlrsnets(demo):
    required = {"Images", "labels", "manifest.json"}
    assert {entry.name for entry in demo.iterdir()} - {"Categories_names.xlsx"} == required
    for category in CATEGORIES:
        names = [f"{category}_{i:05d}.jpg" for i in (1, 2)]
        assert sorted(entry.name for entry in (demo / "Images" / category).iterdir()) == names
        with (demo / "labels" / f"{category}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["image", *LABELS]
        assert [row[0] for row in rows] == names
        assert {value for row in rows for value in row[1:]} <= {"0", "1"}
        with Image.open(demo / "Images" / category / names[0]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_workbook_is_laid_out_as_mlrsnets(demo):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(demo / "Categories_names.xlsx")
    assert book.sheetnames == ["Categories", "tags"]
    assert [row[0] for row in book["Categories"].values] == ["Categories", *CATEGORIES]
    rows = list(book["tags"].values)
    assert rows[0][:3] == (None, "Categor names", "Associated multi-labels")
    assert rows[1][:4] == (None, None, 1, 2)
    assert [row[:2] for row in rows[2:]] == list(enumerate(CATEGORIES, start=1))


def test_workbook_lists_the_labels_of_the_files(demo):
    pytest.importorskip("openpyxl")
    listed = read_workbook(demo / "Categories_names.xlsx")
    for category in CATEGORIES:
        with (demo / "labels" / f"{category}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert listed[category] == {label for label in LABELS if any(row[label] == "1" for row in rows)}


def test_without_openpyxl_only_the_workbook_is_missing(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.warns(UserWarning, match="without a workbook.*pip install openpyxl"):
        bare = Demo(source_path=tmp_path, split="train", **TINY)
    expected = contents(demo)
    expected.pop("Categories_names.xlsx", None)
    assert contents(tmp_path / "Demo") == expected
    assert bare.fingerprint() == Demo(source_path=demo, split="train", **TINY).fingerprint()


@pytest.mark.parametrize("wrong", [{"images_per_category": 0}, {"side": 8}, {"side": 4096}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="demo_"):
        write_mlrsnet_layout(tmp_path / "Demo", **{**TINY, **wrong})
    assert not list(tmp_path.iterdir())


# --- complete or absent -------------------------------------------------------------------------------------
def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return paint(*args, **kwargs)

    monkeypatch.setattr(demo_module, "paint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mlrsnet_layout(tmp_path / "Demo", **TINY)
    assert not list(tmp_path.iterdir())


def test_a_killed_generation_is_not_taken_for_data(tmp_path, demo):
    context = generated_folder(tmp_path / "Demo", {})
    partial = context.__enter__()  # as SIGKILL leaves it: no __exit__
    (partial / "labels").mkdir()
    assert not (tmp_path / "Demo").exists()
    write_mlrsnet_layout(tmp_path / "Demo", **TINY)
    assert contents(tmp_path / "Demo") == contents(demo)


def test_two_at_once_end_with_one_complete_folder(tmp_path):
    manifest = {"seed": 1}
    with generated_folder(tmp_path / "data", manifest) as slow:
        (slow / "file").write_text("same")
        with generated_folder(tmp_path / "data", manifest) as quick:
            assert quick != slow
            (quick / "file").write_text("same")
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "file").read_text() == "same"


def test_a_complete_folder_is_reused(demo, monkeypatch):
    monkeypatch.setattr(demo_module, "paint", lambda *args, **kwargs: pytest.fail("painted again"))
    write_mlrsnet_layout(demo, **TINY)


def test_other_settings_are_refused_and_named(demo):
    with pytest.raises(DatasetError, match="seed: 0 there, 9 asked for"):
        write_mlrsnet_layout(demo, **{**TINY, "seed": 9})


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "Demo").mkdir()
    (tmp_path / "Demo" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="was not generated here"):
        write_mlrsnet_layout(tmp_path / "Demo", **TINY)
    assert (tmp_path / "Demo" / "thesis.txt").read_text() == "mine"


# --- the data set -------------------------------------------------------------------------------------------
def test_demo_generates_and_splits_each_category(tmp_path):
    settings = {"images_per_category": 4, "side": 32, "seed": 2}
    splits = {s: Demo(source_path=tmp_path, split=s, **settings) for s in ("train", "val", "test")}
    names = [set(split.names.tolist()) for split in splits.values()]
    assert len(set.union(*names)) == sum(map(len, names)) == 4 * len(CATEGORIES)
    for split, count in zip(splits.values(), (2, 1, 1), strict=True):  # 60 / 15 / 25 percent of 4
        categories = [name.rsplit("_", 1)[0] for name in split.names]
        assert categories == [category for category in CATEGORIES for _ in range(count)]
    train = splits["train"]
    assert train.item_shape == (3, 32, 32)
    assert train.label_names == LABELS
    batch = train.__getitems__([0, 30])
    assert tuple(batch.images.shape) == (2, 3, 32, 32)
    assert batch.labels.any(1).all()


def test_demo_takes_the_folder_itself(demo):
    inside = Demo(source_path=demo, split="train", **TINY)
    above = Demo(source_path=demo.parent, split="train", **TINY)
    assert inside.fingerprint() == above.fingerprint()
    assert not (demo / "Demo").exists()


# --- BigEarthNet's layout -----------------------------------------------------------------------------------
def test_patches_hold_twelve_bands_of_the_archives_sizes(sentinel):
    patches = [entry for entry in sentinel.iterdir() if entry.is_dir()]
    assert len(patches) == 12
    sizes = {"B02": 29192, "B03": 29192, "B04": 29192, "B08": 29192, "B01": 1160, "B09": 1160}
    for patch in patches:
        expected = {f"{patch.name}_{band}.tif": sizes.get(band, 7560) for band in BANDS}
        found = {file.name: file.stat().st_size for file in patch.glob("*.tif")}
        assert found == expected
        assert (patch / f"{patch.name}_labels_metadata.json").is_file()


def test_equal_seeds_give_equal_patches(sentinel, tmp_path):
    write_bigearthnet_layout(tmp_path / "again", patches=12, seed=3)
    assert contents(tmp_path / "again") == contents(sentinel)


def test_metadata_names_official_labels_and_the_place(sentinel):
    for file in sentinel.rglob("*.json"):
        if file.name == "manifest.json":
            continue
        found = json.loads(file.read_text())
        assert list(found) == ["labels", "coordinates", "projection", "tile_source", "acquisition_date"]
        assert found["labels"]
        assert found["labels"] == sorted(set(found["labels"]), key=LABELS_43.index)
        column, row = map(int, file.parent.name.split("_")[-2:])
        tile = next(a for a in ACQUISITIONS if file.parent.name.startswith(a.name))
        corner = found["coordinates"]
        assert (corner["ulx"] - tile.west, tile.north - corner["uly"]) == (1200 * column, 1200 * row)
        assert (corner["lrx"] - corner["ulx"], corner["uly"] - corner["lry"]) == (1200, 1200)


def test_names_keep_the_archives_quirks():
    times = [acquisition.name.rpartition("T")[2] for acquisition in ACQUISITIONS]
    assert "93020" in times  # 09:30:20 without its zero
    assert "94161" in times  # not a time
    assert all(len(acquisition.date) == 19 for acquisition in ACQUISITIONS)


def test_rasterio_and_tifffile_read_the_same(sentinel):
    rasterio = pytest.importorskip("rasterio")
    patch = next(entry for entry in sorted(sentinel.iterdir()) if entry.is_dir())
    metadata = json.loads((patch / f"{patch.name}_labels_metadata.json").read_text())
    for band, metres in (("B01", 60), ("B8A", 20), ("B04", 10)):
        path = patch / f"{patch.name}_{band}.tif"
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(1), tifffile.imread(path))
            assert source.crs == rasterio.crs.CRS.from_wkt(metadata["projection"])
            assert source.crs.to_epsg() in {32600 + a.zone for a in ACQUISITIONS}
            assert source.res == (metres, metres)
            corner = metadata["coordinates"]
            assert tuple(source.bounds) == (corner["ulx"], corner["lry"], corner["lrx"], corner["uly"])


@pytest.mark.shared
def test_real_files_come_out_byte_for_byte(shared_data):
    """Pixels and place of a real band, encoded here, give the real file."""
    for file in (shared_data / "BigEarthNet").glob("*/*.json"):
        metadata = json.loads(file.read_text())
        zone = int(metadata["projection"].split("zone ")[1][:2])
        corner = metadata["coordinates"]
        for band in file.parent.glob("*.tif"):
            pixels = tifffile.imread(band)
            written = geotiff.encode(
                pixels, west=corner["ulx"], north=corner["uly"], metres=1200 / len(pixels), zone=zone
            )
            assert written == band.read_bytes(), band.name


@pytest.mark.shared
def test_metadata_is_written_as_the_real_one(shared_data, sentinel):
    real = {}
    for file in (shared_data / "BigEarthNet").glob("*/*.json"):
        found = json.loads(file.read_text())
        real[found["projection"].split("zone ")[1][:2]] = found
    for file in sentinel.glob("*/*.json"):
        found = json.loads(file.read_text())
        twin = real[found["projection"].split("zone ")[1][:2]]
        assert found["projection"] == twin["projection"]
        assert list(found["coordinates"]) == list(twin["coordinates"])


@pytest.mark.shared
def test_no_invented_patch_bears_a_real_name(shared_data):
    import bz2

    listed = b"".join(bz2.decompress(f.read_bytes()) for f in (shared_data / "BigEarthNet-splits").glob("*.bz2"))
    assert not [a.name for a in ACQUISITIONS if a.name.encode() in listed]


def test_the_reader_takes_the_patches(sentinel, tmp_path):
    dataset = BigEarthNet(
        source_path=sentinel, split="train", labels=43, bands="all", version=1, splits="hashed",
        index_path=tmp_path / "index",
    )  # fmt: skip
    patch = sentinel / str(dataset.names[0])
    pixels = dataset.read(0)
    first = tifffile.imread(patch / f"{patch.name}_B01.tif")
    np.testing.assert_array_equal(pixels[:400], first.ravel())
    metadata = json.loads((patch / f"{patch.name}_labels_metadata.json").read_text())
    named = {name for name, present in zip(dataset.label_names, dataset.labels[0], strict=True) if present}
    assert named == set(metadata["labels"])


# --- the spectra --------------------------------------------------------------------------------------------
def index_by_class(first: str, second: str) -> dict[str, float]:
    """(first - second) / (first + second), in the mean over each class in a few summer patches."""
    found: dict[str, list[float]] = {}
    for i, kind in enumerate(("woods", "lakes", "coast", "town", "valley", "grassland")):
        patch = landscapes.paint(kind, "summer", seed=derive(1, i))
        a, b = (patch.bands[band].astype(float).repeat(240 // len(patch.bands[band]), 0)
                .repeat(240 // len(patch.bands[band]), 1) for band in (first, second))  # fmt: skip
        for code in np.unique(patch.classes):
            inside = ndimage.binary_erosion(patch.classes == code, iterations=4)
            if inside.sum() > 200:
                found.setdefault(COVER_NAMES[code], []).append(float(((a - b) / (a + b))[inside].mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_vegetation_and_water_by_ndvi():
    ndvi = index_by_class("B08", "B04")
    assert ndvi["Sea and ocean"] < 0
    assert ndvi["Water bodies"] < 0
    assert ndvi["Water courses"] < 0
    for forest in {"Broad-leaved forest", "Coniferous forest", "Mixed forest", "Pastures"} & set(ndvi):
        assert ndvi[forest] > 0.4, forest
    built = {"Continuous urban fabric", "Industrial or commercial units"} & set(ndvi)
    assert built
    assert all(ndvi[name] < 0.3 for name in built)


def test_water_is_dark_in_the_short_wave_infrared():
    ndwi = index_by_class("B03", "B11")
    assert ndwi["Sea and ocean"] > 0.4
    wet = ("Sea and ocean", "Water bodies", "Water courses", "Inland marshes")
    assert all(value < 0.1 for name, value in ndwi.items() if name not in wet)


def test_classes_are_official_and_mean_something():
    assert set(COVERS) <= set(LABELS_43)
    for i, kind in enumerate(("plain", "bog", "heights", "vineyards", "smallholdings")):
        patch = landscapes.paint(kind, "autumn", seed=i)
        assert sum(patch.shares.values()) == pytest.approx(1)
        assert set(patch.labels) == {name for name, share in patch.shares.items() if share >= landscapes.LEAST_SHARE}
        assert {band: pixels.shape for band, pixels in patch.bands.items()} == {
            band: (landscapes.SIDES.get(band, 60),) * 2 for band in BANDS
        }


def test_coarse_bands_see_the_same_ground():
    """B8A (20 m) and B09 (60 m) lie beside B08 (10 m) in the spectrum: averaged to 60 m they nearly agree."""
    bands = landscapes.paint("valley", "summer", seed=4).bands

    def coarse(band):
        factor = len(bands[band]) // 20
        return bands[band].reshape(20, factor, 20, factor).mean((1, 3)).ravel()

    assert np.corrcoef(coarse("B08"), coarse("B8A"))[0, 1] > 0.98
    assert np.corrcoef(coarse("B08"), coarse("B09"))[0, 1] > 0.95


@pytest.mark.parametrize("patches", [0, 10**6])
def test_impossible_numbers_of_patches_are_refused(tmp_path, patches):
    with pytest.raises(UserError, match="patches asked for"):
        write_bigearthnet_layout(tmp_path / "data", patches=patches, seed=0)
