"""Anybody's own archive: tables of any form, splits that stay, bands of any GeoTIFF, galleries without labels."""

from __future__ import annotations

import csv
import datetime
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parameters
from datasets.base import SPLITS
from datasets.demo.dataset import Demo
from datasets.examples import find_example
from datasets.folder.dataset import Folder, image_paths
from datasets.folder.table import label_list, read_table
from datasets.network_input import Prepare
from datasets.open import open_split
from datasets.whole import Whole
from tests.miniatures import write_bigearthnet, write_photograph
from tests.scripts import TINY, run_inside
from tests.test_foreign_files import sentinel, write_raster
from utilities.errors import DatasetError, UserError
from utilities.evaluation.checks import check_data
from utilities.flags.settings import Settings

LABELS = {"a": ["sea"], "b": ["sea", "ship"], "c": [], "d": ["grass"]}


def folder(root: Path, split: str = "train", **options: Any) -> Folder:
    usual = {"labels_csv": None, "bands": "rgb", "band_scale": None, "side": 16, "proportions": "70/10/20", "seed": 0}
    return Folder(source_path=root, split=split, **usual | options)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images in folders of two levels, the first four those of LABELS."""
    rng = np.random.default_rng(0)
    for number, name in enumerate([*LABELS, *map(str, range(36))]):
        write_photograph(tmp_path / "own" / f"part {number % 2}" / "x" / f"{name}.png", rng)
    write_photograph(tmp_path / "own" / ".thumbnails" / "a.png", rng)
    return tmp_path / "own"


# Tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "image,grass,sea,ship\na.png,0,1,0\nb.png,0,1,1\nc.png,0,0,0\nd.png,1,0,0\n",
        ",filename,grass,sea,ship\n0,a,0.0,1.0,False\n1,b,0,1,True\n2,c,0,0,0\n3,d,1,0,0\n",
        "file;labels\na.png;sea\nb.png;sea, ship\nc.png;\nd.png;grass\n",
        "name\tlabels\na\t['sea']\nb\t['sea', 'ship']\nc\t[]\nd\t[\"grass\"]\n",
        "filename|grass|sea|ship|\na.png|0|1|0|\nb.png|0|1|1|\nc.png|0|0|0|\nd.png|1|0|0|\n",
        'id,file,subset,labels\n1,a.png,train,sea\n2,b.png,val,"sea\nship"\n3,c.png,test,nan\n4,d.png,train,grass\n',
        "\ufeffpath,tags,split\npart 0/x/a.png,sea,train\nx/b,sea|ship,Val\nc,,test\npart 1/x/d.png,grass,train\n",
    ],
)
def test_a_table_in_any_form(images: Path, text: str) -> None:
    path = images / "labels.csv"
    path.write_text(text, encoding="utf-8")
    table = read_table(path)
    assert table.label_names == ("grass", "sea", "ship")
    read = [sorted(n for n, f in zip(table.label_names, row, strict=True) if f) for row in table.labels]
    assert read == [sorted(labels) for labels in LABELS.values()]
    with pytest.warns(UserWarning, match="36 images of .* are not in .*labels.csv and left out"):
        whole = folder(images, "all")
    assert sorted(whole.names) == ["part 0/x/a.png", "part 0/x/c.png", "part 1/x/b.png", "part 1/x/d.png"]
    if table.splits is not None:
        assert table.splits.tolist() == ["train", "val", "test", "train"]


def test_a_table_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = {"image": list(LABELS), "labels": list(LABELS.values())}
    flags = {
        "image": list(LABELS),
        **{name: [name in row for row in LABELS.values()] for name in ("grass", "sea", "ship")},
    }
    tables = []
    for number, columns in enumerate((lists, flags)):
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{number}.parquet")
        tables.append(read_table(tmp_path / f"{number}.parquet"))
    assert tables[0].label_names == tables[1].label_names == ("grass", "sea", "ship")
    assert np.array_equal(tables[0].labels, tables[1].labels)


@pytest.mark.parametrize("leading", ["{root}/", "own/", "./", "windows"])
def test_paths_of_a_table_may_lead_to_the_folder_first(images: Path, leading: str) -> None:
    path = "part 0\\x\\a.png" if leading == "windows" else f"{leading.format(root=images)}part 0/x/a.png"
    (images / "labels.csv").write_text(f"image,sea\n{path},1\n")
    with pytest.warns(UserWarning, match="39 images of .* left out"):
        assert folder(images, "all").names.tolist() == ["part 0/x/a.png"]


def test_a_split_without_images_says_what_to_do(images: Path) -> None:
    (images / "labels.csv").write_text("image,sea,split\na,1,train\nb,0,test\n")
    with pytest.raises(DatasetError, match=r"no image of .* is in the val split; give it some, in the table's column"):
        folder(images, "val")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,sea,country\na,1,Austria\n", "a: 'country' is 'Austria' where 0 or 1 is expected; leave out columns"),
        ("image,label\na,sea\na,ship\n", "lists a twice; give each image one row that holds all its labels"),
        ('image,labels\na,"[1, 0, 1]"\nb,"[0, 1, 1]"\n', "vectors of 0 and 1 .* do not say of which labels"),
        ("image,sea\na,1,0\n", "line 2: 3 values under a header of 2"),
        ("image\na\n", "has no labels: neither a column of lists"),
        ("image,sea,sea\na,1,0\n", "the column 'sea' twice"),
        ("image,sea,split\na,1,dev\n", "a: split is 'dev'; allowed: train, val, test"),
        ("image,labels\na,\n", "carries no label at all"),
        ("image,labels\na,[sea\n", r"a: '\[sea' is no list of labels"),
        ("image,sea\n", "holds no row"),
        ("", "is empty"),
        ("image,sea\nnowhere,1\n", r"1 images of .* are not below .*nowhere\); leave their rows out, or give the"),
        ("image,sea\na,1\nx/a.png,1\n", "part 0/x/a.png twice, under different spellings"),
    ],
)
def test_what_is_no_table_is_named(images: Path, text: str, said: str) -> None:
    (images / "labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=said):
        folder(images)


def test_a_name_of_two_files_is_refused(images: Path) -> None:
    shutil.copy(images / "part 0" / "x" / "a.png", images / "part 1" / "a.png")
    (images / "labels.csv").write_text("image,sea\na,1\n")
    with pytest.raises(DatasetError, match=r"lists a, and .* holds 2 files of this name; give more of the path"):
        folder(images)


def test_names_that_are_no_text_are_named(images: Path) -> None:
    """Before splits are drawn by them, and pages written hours later; those that a table leaves out do no harm."""
    listed = sorted(path.relative_to(images).as_posix() for path in images.glob("part*/x/*.png"))
    shutil.copy(images / listed[0], images / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DatasetError, match=r"1 images below .* are not UTF-8 \(caf\\xe9\.png\); rename them"):
        folder(images, "all")
    (images / "labels.csv").write_text("image,a\n" + "".join(f"{name},1\n" for name in listed))
    with pytest.warns(UserWarning, match="1 images of .* left out"):
        assert len(folder(images, "all")) == len(listed)


def test_lists_as_text() -> None:
    given = {"sea; ship": ["sea", "ship"], "bare soil": ["bare soil"], "": [], "['a, b', \"c\"]": ["a, b", "c"]}
    assert {text: label_list(text, ";") for text in given} == given
    assert label_list(None, ";") == label_list(float("nan"), ";") == []


def test_lists_as_numpy_prints_them(tmp_path: Path) -> None:
    """So pandas writes the lists of a parquet table, BigEarthNet's for one: without commas, long ones in lines."""
    rows = ["'Arable land' 'Beaches, dunes, sands'", "'Pastures'", "'Arable land' \"a farmer's\"\n 'Pastures'"]
    cells = (f"[{row}]".replace('"', '""') for row in rows)
    (tmp_path / "t.csv").write_text("image,labels\n" + "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells)))
    table = read_table(tmp_path / "t.csv")
    assert table.label_names == ("Arable land", "Beaches, dunes, sands", "Pastures", "a farmer's")
    assert table.labels.astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 1]]


def test_a_comma_is_part_of_a_label_where_the_column_has_semicolons(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image,labels\na,"Pastures; Marine waters"\nb,"Beaches, dunes, sands"\nc,\n')
    table = read_table(tmp_path / "t.csv")
    assert table.label_names == ("Beaches, dunes, sands", "Marine waters", "Pastures")
    assert table.labels.astype(int).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_commas_of_labels_are_no_delimiters_between_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image;Beaches, dunes, sands;Transitional woodland, shrub\na;1;0\nb;0;1\n")
    table = read_table(tmp_path / "t.csv")
    assert table.label_names == ("Beaches, dunes, sands", "Transitional woodland, shrub")
    assert table.labels.astype(int).tolist() == [[1, 0], [0, 1]]


def test_words_with_blanks_between_are_labels_where_they_come_in_many_combinations(tmp_path: Path) -> None:
    """As in Kaggle's Amazon, where every combination was one label; names of several words stay whole."""
    rows = ("haze primary", "primary clear", "clear", "haze", "haze primary road", "road clear")
    (tmp_path / "t.csv").write_text("image_name,tags\n" + "".join(f"train_{i},{row}\n" for i, row in enumerate(rows)))
    table = read_table(tmp_path / "t.csv")
    assert table.label_names == ("clear", "haze", "primary", "road")
    assert table.labels.sum(1).tolist() == [2, 2, 1, 1, 3, 2]
    scenes = ("dense residential", "sparse residential", "mobile home", "sea")
    (tmp_path / "t.csv").write_text("image_name,tags\n" + "".join(f"{i},{scene}\n" for i, scene in enumerate(scenes)))
    assert read_table(tmp_path / "t.csv").label_names == tuple(sorted(scenes))


def test_a_column_of_scenes_beside_label_columns_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label,sea,ship\na,beach,1,0\nb,harbour,1,1\n")
    with pytest.warns(UserWarning, match=r"of the column 'label', one an image, and its 2 0/1 columns \(sea, ship, "):
        assert read_table(tmp_path / "t.csv").label_names == ("beach", "harbour")
    (tmp_path / "t.csv").write_bytes("image,labels\na,Fl\xe4che\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"t\.csv is no UTF-8 .*; save it as CSV UTF-8"):
        read_table(tmp_path / "t.csv")


# Splits -----------------------------------------------------------------------------------------------------


def write_labels(root: Path) -> None:
    names = sorted(path.stem for path in root.glob("part*/x/*.png"))
    (root / "labels.csv").write_text(
        "image,sea,ship\n" + "".join(f"{n},{i % 2},{i % 3 % 2}\n" for i, n in enumerate(names))
    )


def test_splits_are_drawn_once_and_stay(images: Path) -> None:
    write_labels(images)
    drawn = {split: folder(images, split).names.tolist() for split in SPLITS}
    assert [len(names) for names in drawn.values()] == pytest.approx([28, 4, 8], abs=2)
    assert sorted(name for names in drawn.values() for name in names) == sorted(folder(images, "all").names)
    write_photograph(images / "new.png", np.random.default_rng(1))
    with (images / "labels.csv").open("a") as file:
        file.write("new,1,1\n")
    with pytest.warns(UserWarning, match=r"1 images are in no list of .*splits and left out \(new.png\)"):
        assert {split: folder(images, split).names.tolist() for split in SPLITS} == drawn
    assert "new.png" in folder(images, "all").names
    with pytest.raises(DatasetError, match="was drawn with --folder_proportions 70/10/20 --folder_seed 0"):
        folder(images, seed=1)
    (images / "part 0" / "x" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"1 images of .*labels.csv are not below"):
        folder(images)


def test_lists_of_ones_own(images: Path) -> None:
    write_labels(images)
    (images / "splits").mkdir()
    for split, name in zip(SPLITS, "abc", strict=True):
        (images / "splits" / f"{split}.txt").write_text(f"part {'abc'.index(name) % 2}/x/{name}\n")
    with pytest.warns(UserWarning, match="37 images are in no list"):
        assert [folder(images, split).names.tolist() for split in SPLITS] == [
            ["part 0/x/a.png"], ["part 1/x/b.png"], ["part 0/x/c.png"],
        ]  # fmt: skip
    (images / "splits" / "val.txt").unlink()
    with pytest.raises(DatasetError, match="and not all of train, val, test"):
        folder(images)


def test_a_list_may_hold_a_file_and_its_quicklook(tmp_path: Path) -> None:
    """`x.png` is `x.png.jpg` without its suffix, and still itself."""
    (tmp_path / "splits").mkdir()
    for split, name in zip(SPLITS, ("x.png", "x.png.jpg", "y.png"), strict=True):
        write_photograph(tmp_path / name, np.random.default_rng(0))
        (tmp_path / "splits" / f"{split}.txt").write_text(f"{name}\n")
    assert [folder(tmp_path, split).names.tolist() for split in SPLITS] == [["x.png"], ["x.png.jpg"], ["y.png"]]


def test_links_to_folders_elsewhere_are_followed(images: Path, tmp_path: Path) -> None:
    """Once, and not those that lead round: an archive on another disk is linked as well as copied."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "Images").symlink_to(images)
    (tmp_path / "linked" / "again").symlink_to(images / "part 1")
    (tmp_path / "linked" / ".hidden").symlink_to(images)
    (images / "part 0" / "round").symlink_to(images)
    (images / "part 0" / "up").symlink_to(tmp_path)
    (images / "part 0" / "gone").symlink_to(tmp_path / "nowhere")
    below = sorted(os.path.relpath(path, images) for path in images.glob("part */x/*.png"))
    assert image_paths(images) == below
    assert image_paths(tmp_path / "linked") == [f"Images/{path}" for path in below]


@pytest.mark.parametrize("named_by_content", [False, True])
def test_an_image_that_is_a_link_is_known_as_a_query(images: Path, tmp_path: Path, named_by_content: bool) -> None:
    """As git-annex and DVC keep images; it would be its own nearest image otherwise."""
    own = images / "part 0" / "x" / "a.png"
    if named_by_content:
        stored = own.rename(tmp_path / "5d41402abc4b2a76b9719d911017c592")
        own.symlink_to(stored)
    else:
        images = Path(shutil.move(images, tmp_path / "elsewhere"))
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "Images").symlink_to(images)
        images, own = tmp_path / "own", tmp_path / "own" / "Images" / "part 0" / "x" / "a.png"
    searched = folder(images, "all")
    found = find_example(str(own), searched, list)
    assert (found.path, found.name) == (None, os.path.relpath(own, images))
    assert searched.names[found.row] == found.name


# Pixels -----------------------------------------------------------------------------------------------------


def test_bands_by_name_or_number_and_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        shares = rng.random((4, 32, 32), dtype=np.float32)
        write_raster(tmp_path / "float" / f"{number}.tif", shares, ("B02", "B03", "B04", "B08"))
        numbers = (shares * 10_000).round().astype(np.uint16)
        write_raster(tmp_path / "numbers" / f"{number}.tif", numbers, ("B02", "B03", "B04", "B08"), compress="lzw")
    named = folder(tmp_path / "numbers", "all", bands="B08,B04", side=32)
    numbered = folder(tmp_path / "numbers", "all", bands="4,3", side=32)
    scaled = folder(tmp_path / "float", "all", bands="B08,B04", side=32, band_scale=[0, 1])
    assert named.item_shape == (2, 32, 32)
    assert named.dtype == np.uint16
    with __import__("rasterio").open(tmp_path / "numbers" / "3.tif") as raster:
        assert np.array_equal(named.read(3), raster.read([4, 3]))
    assert np.array_equal(named.read(3), numbered.read(3))
    assert np.array_equal(named.read(3), scaled.read(3))
    whole = np.stack([named.read(row) for row in range(6)]).astype(float)
    train = [folder(tmp_path / "numbers", "train", bands="B08,B04", side=32).read(row) for row in range(4)]
    assert named.mean == pytest.approx(np.stack(train).mean((0, 2, 3)), rel=0.02)
    assert named.std == pytest.approx(whole.std((0, 2, 3)), rel=0.05)
    assert folder(tmp_path / "numbers", "all", bands="B08,B04", side=32, boa_offset=1000).read(3).max() <= 9000
    write_raster(tmp_path / "bytes" / "0.tif", np.ones((4, 32, 32), np.uint8), ("B02", "B03", "B04", "B08"))
    with pytest.raises(DatasetError, match=r"0.tif holds 32 x 32 pixels, 4 bands of uint8 .*--boa_offset 1000 is for"):
        folder(tmp_path / "bytes", "all", bands="B08,B04", side=32, boa_offset=1000)
    with pytest.raises(DatasetError, match=r"4 bands of float32 .*values .* to .*: give --band_scale LOW HIGH"):
        folder(tmp_path / "float", "all", bands="B08,B04")
    with pytest.raises(DatasetError, match="and no band B11; --bands takes names or numbers"):
        folder(tmp_path / "numbers", "all", bands="B11")
    with pytest.raises(UserError, match="the second must be more than the first"):
        folder(tmp_path / "numbers", band_scale=[1, 1])
    photograph = folder(tmp_path / "float", "all", side=32, band_scale=[0, 1])
    with pytest.raises(DatasetError, match="none of them marked as red, green and blue"):
        photograph.read(0)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("dtype", "nodata", "scale"),
    [("uint16", 65535, None), ("int16", 32767, [0, 10_000]), ("float32", 1e20, [0, 1]), ("float32", np.nan, [-1, 1])],
)
def test_no_data_is_no_bright_pixel(tmp_path: Path, dtype: str, nodata: float, scale: list[float] | None) -> None:
    """What a file calls "no data" becomes 0, whatever value stands for it."""
    pixels = np.full((2, 8, 8), 0.25 if dtype == "float32" else 2500, dtype)
    pixels[0, :4] = nodata
    path = write_raster(tmp_path / "own" / "a.tif", pixels, nodata=nodata)
    own = folder(tmp_path / "own", "all", bands="1,2", side=8, band_scale=scale)
    there = 6250 if scale == [-1, 1] else 2500
    assert own.read(0)[:, ::7, 0].tolist() == [[0, there], [there, there]]
    assert own.mean == (there / 2, there)
    if scale:
        with pytest.raises(
            DatasetError, match=rf"values {pixels[1, 0, 0]:g} to {pixels[1, 0, 0]:g}: give --band_scale"
        ):
            folder(path.parent, "all", bands="1,2", side=8)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mask_is_no_data_and_the_fourth_band_no_mask(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    near_infrared = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    near_infrared[3, :4] = 0
    path = write_raster(tmp_path / "own" / "a.tif", near_infrared)
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3].name == "alpha", "as GDAL writes four bands of 8 bits"
    assert np.array_equal(folder(path.parent, "all", bands="1,2,3,4", side=8).read(0), near_infrared)
    with rasterio.open(
        path.parent / "a.tif", "w", driver="GTiff", width=8, height=8, count=2, dtype="uint16"
    ) as raster:
        raster.write(np.full((2, 8, 8), 500, np.uint16))
        raster.write_mask(np.eye(8, dtype=bool))
    assert np.array_equal(folder(path.parent, "all", bands="1,2", side=8).read(0)[1], 500 * np.eye(8))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_of_bands_have_the_colours_that_people_see(tmp_path: Path) -> None:
    """Red, green and blue by their names, in whatever order, and no data leaves the others their contrast."""
    ramp = np.broadcast_to(np.arange(200, 1200, 10, dtype=np.uint16), (100, 100))
    pixels = np.stack([np.full_like(ramp, 300), ramp.T, ramp, ramp[::-1]])
    pixels[:, 50:] = 0
    write_raster(tmp_path / "a.tif", pixels, ("B02", "B03", "B04", "B08"))
    picture = folder(tmp_path, "all", bands="B02,B03,B04,B08", side=100).thumbnail(0, 100)[:50]
    assert picture[20, [2, 50, 97], 0].tolist() == pytest.approx([0, 128, 255], abs=4), "B04, along the rows"
    assert picture[[2, 25, 47], 20, 1].tolist() == pytest.approx([5, 130, 250], abs=10), "B03, down the columns"
    assert len(np.unique(picture[..., 2])) == 1, "B02"
    numbered = folder(tmp_path, "all", bands="3,2,1", side=100)
    assert np.array_equal(numbered.thumbnail(0, 100)[:50], picture), "without names, the first three"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_deep_photographs_are_refused_with_the_flag_that_reads_them(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 3000, np.uint16), photometric="rgb")
    with pytest.raises(
        DatasetError, match=r"more than 8 bits a channel.*; or read the archive with --band_scale LOW HIGH"
    ):
        folder(tmp_path, "all", side=8).read(0)
    assert (folder(tmp_path, "all", side=8, band_scale=[0, 6000]).read(0) == 128).all()


def test_splits_of_the_whole_are_those_of_its_table(images: Path) -> None:
    (images / "labels.csv").write_text("image,sea,split\na,1,train\nb,0,test\nc,1,\nd,1,val\n")
    with pytest.warns(UserWarning, match="36 images"):
        whole = folder(images, "all")
    assert whole.splits_of([3, 0, 2, 1]) == ["val", "train", "all", "test"]
    (images / "labels.csv").unlink()
    assert set(folder(images, "all").splits_of(range(40))) == {"all"}, "without labels nothing is drawn"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_evaluation_normalises_as_training_did(tmp_path: Path) -> None:
    """And not by what the folder holds now: `load_network` could not know it, nor had the network seen it."""
    write_raster(tmp_path / "a.tif", np.full((2, 8, 8), 500, np.uint16))
    own = folder(tmp_path, "all", bands="1,2", side=8)
    own.label_names = ("sea",)
    data = {"bands": ["1", "2"], "label_names": ["sea"], "mean": [700.0, 800.0], "std": [30.0, 40.0]}
    check_data(own, data, tmp_path, Settings({"dataset": None, "query": None}))
    assert (own.mean, own.std) == ((700, 800), (30, 40))


def patches(root: Path) -> list[str]:
    return ["--dataset", "BigEarthNet", "--source_path", str(root), "--ben_splits", "hashed"]


def test_all_is_the_three_splits(demo_run: tuple[Path, Path]) -> None:
    parts = [Demo(source_path=demo_run[0], split=s, images_per_category=8, side=48, seed=0) for s in SPLITS]
    whole = Whole(parts)
    assert whole.names.tolist() == [name for part in parts for name in part.names]
    for row, (part, own) in ((0, (0, 0)), (len(parts[0]), (1, 0)), (len(whole) - 1, (2, len(parts[2]) - 1))):
        assert np.array_equal(whole.read(row), parts[part].read(own))
        assert np.array_equal(whole.labels[row], parts[part].labels[own])
        assert whole.path(row) == parts[part].path(own)


def test_all_has_the_days_of_the_splits(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 10, bands=False)
    whole = open_split(parameters.parse("baseline", patches(tmp_path)), "all")
    named = [datetime.datetime.strptime(name[11:19], "%Y%m%d").date() for name in whole.names.tolist()]
    assert whole.dates(range(len(whole))) == named


def test_all_says_once_for_each_split_what_places_are_not_known(tmp_path: Path) -> None:
    """And not once for each of 590,326 patches, as of an archive, which has no files."""
    pytest.importorskip("rasterio")
    write_bigearthnet(tmp_path, 10, bands=False)
    whole = open_split(parameters.parse("baseline", patches(tmp_path)), "all")
    rows = [*range(len(whole))][::-1]
    kept = len(whole) - 1  # in test
    corners = {"ulx": 600_000, "uly": 5_000_000, "lrx": 601_200, "lry": 4_998_800}
    placed = json.dumps({"projection": "EPSG:32632", "coordinates": corners})
    next(whole.path(kept).glob("*.json")).write_text(placed)
    outlines, notes = whole.outlines(rows)
    assert [row for row, outline in zip(rows, outlines, strict=True) if outline is not None] == [kept]
    assert len(notes) == len(SPLITS)
    for split, part, note in zip(SPLITS, whole.parts, notes, strict=True):
        unknown = len(part) - (split == "test")
        assert note.startswith(f"the places of {unknown} of {len(part)} images are not known: ")


def test_a_batch_of_all_may_have_lost_every_image(tmp_path: Path) -> None:
    """As the last one, which may hold a single image."""
    band = next(write_bigearthnet(tmp_path, 10).glob("*/*_B02.tif"))
    band.write_bytes(b"no band")
    argv = [*patches(tmp_path), "--ben_bands", "rgb", "--use_npmem", "--skip_broken_images"]
    whole = open_split(parameters.parse("baseline", argv), "all")
    row = whole.names.tolist().index(band.parent.name)
    with pytest.warns(UserWarning, match=f"skipped: {band.parent.name} could not be decoded"):
        batch = whole.__getitems__([row])
    assert (batch.images.shape, len(batch.labels), len(batch.indices)) == ((0, 3, 120, 120), 0, 0)


# As a user runs it ------------------------------------------------------------------------------------------


def hits(saved: Path, name: str) -> list[dict[str, str]]:
    with (saved / "search_results" / name / "hits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_archive_is_searched_in_one_go(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    saved = tmp_path / "run"
    shutil.copytree(demo_run[1], saved)
    train = Demo(source_path=demo_run[0], split="train", images_per_category=8, side=48, seed=0)
    argv = ["--load_from_checkpoint", saved, "--num_workers", 0]
    done = run_inside("evaluate_model", *argv, "--query", train.names[0], "--dataset_type", "all", "--top", 500)
    assert "the query is an image of the whole archive; it is left out of the hits by its index" in done.stdout
    rows = hits(saved, f"best_all/{Path(train.names[0]).stem}")
    assert len(rows) == 22 * 8 - 1
    run_inside("evaluate_model", *argv, "--gallery_split", "all", "--retrieval_queries", 1, "--map_method", "pca")
    scores = json.loads((saved / "evaluation_results" / "best_test_in_all" / "scores.json").read_text())
    assert 0 < scores["scores"]["recall@1"] <= 1


def test_a_gallery_without_labels_is_searched(demo_run: tuple[Path, Path], tmp_path: Path) -> None:
    """An own folder of images, by the network of another data set; measures say that there are no labels."""
    saved, own = tmp_path / "run", tmp_path / "own"
    shutil.copytree(demo_run[1], saved, ignore=shutil.ignore_patterns("*_results"))  # of other tests
    shutil.copytree(demo_run[0] / "Images" / "airport", own / "2026" / "spring")
    queried = sorted(own.rglob("*.jpg"))[0]
    argv = ["--load_from_checkpoint", saved, "--num_workers", 0, "--dataset", "Folder", "--source_path", own]
    done = run_inside("evaluate_model", *argv, "--query", queried, demo_run[0] / "Images" / "lake" / "lake_00001.jpg")
    assert "of Folder, the whole archive" in done.stdout
    name = f"2026_spring_{queried.stem}"
    rows = hits(saved, f"best_Folder_all/{name}")
    kept = [path.parent.name for path in (saved / "search_results").glob("*/embeddings.npz")]
    assert kept == ["best_Folder_all"]  # beside those of the run's own archive, not in their place
    assert len(rows) == 7
    assert all(row["image"].startswith("2026/spring/") and not row["labels"] for row in rows)
    page = (saved / "search_results" / "best_Folder_all" / name / "search.html").read_text()
    assert "These images carry no labels" in page
    assert "no label<" not in page
    assert "no label" not in done.stdout
    assert sorted(path.name for path in own.iterdir()) == ["2026"], "nothing is written into somebody's folder"
    assert "carry no labels" in run_inside("evaluate_model", *argv, code=2).stderr
    assert "--source_path DIR" in run_inside("evaluate_model", *argv[:4], "--dataset", "Folder", code=2).stderr


def test_patches_without_labels_are_searched(sentinel_run: tuple[Path, Path], tmp_path: Path) -> None:
    """Folders of patches in any layout and spelling are read as the run's own; a table of labels lets them score."""
    source, own = sentinel_run[0], tmp_path / "own"
    saved = Path(shutil.copytree(sentinel_run[1], tmp_path / "run", ignore=shutil.ignore_patterns("*_results")))
    patches = sorted(path for path in source.iterdir() if path.name.startswith("S2"))[:9]
    for number, patch in enumerate(patches):
        copied = own / ("a" if number % 2 else "b/c") / patch.name
        shutil.copytree(patch, copied, ignore=shutil.ignore_patterns("*.json"))
    copied.joinpath(f"{patch.name}_B02.tif").rename(copied / f"{patch.name}_B2.tif")
    argv = ["--load_from_checkpoint", saved, "--num_workers", 0, "--dataset", "Folder", "--source_path", own]
    done = run_inside("evaluate_model", *argv, "--query", patches[0], patches[-1].name, "--top", 9)
    assert "of PatchArchive, the whole archive" in done.stdout
    found = hits(saved, f"best_Folder_all/{patches[0].name}")
    assert found[0]["image"] == f"b/c/{patches[0].name}"
    assert len(found) == 9
    assert float(found[0]["distance"]) < 1e-3, "a copy of the query"
    assert not any(row["labels"] for row in found)
    folder = saved / "search_results" / "best_Folder_all" / f"b_c_{patches[-1].name}"
    assert "These images carry no labels" in (folder / "search.html").read_text()
    places = json.loads((folder / "hits.geojson").read_text())["features"]
    assert len(places) == 9
    assert all(place["geometry"] for place in places)
    gallery = open_split(parameters.of_run(saved, parameters.parse_evaluation(list(map(str, argv)))), "all")
    theirs = sentinel(source, splits="auto")
    for row, name in enumerate(gallery.names.tolist()):
        theirs.names = np.asarray([Path(name).name])
        assert np.array_equal(gallery.read(row), theirs.read(0))
    whole = ["--query", patches[0], "--boa_offset", 300]
    asked = open_split(parameters.of_run(saved, parameters.parse_evaluation(list(map(str, [*argv, *whole])))), "all")
    stored = gallery.read(0)
    assert np.array_equal(asked.read(0), np.where(stored > 300, stored - 300, 0)), "of queries and archive alike"
    assert "carry no labels" in run_inside("evaluate_model", *argv, code=2).stderr
    table = tmp_path / "table.csv"
    table.write_text("patch,labels\n" + "".join(f"{patch.name},{'ab'[n % 2]}\n" for n, patch in enumerate(patches)))
    run_inside("evaluate_model", *argv, "--labels_csv", table, "--scores_only")
    scores = json.loads((saved / "evaluation_results" / "best_Folder_all" / "scores.json").read_text())
    assert scores["protocol"]["label_names"] == ["a", "b"]
    copied.joinpath(f"{patch.name}_B2.tif").unlink()
    lacking = run_inside("evaluate_model", *argv, "--query", patches[0], "--refresh", code=2).stderr
    assert f"{patch.name} holds no *_B02.tif" in lacking
    split = run_inside("evaluate_model", *argv, "--dataset_type", "test", "--query", patches[0], code=2).stderr
    assert "are in no split" in split


def test_an_own_archive_trains_evaluates_and_is_searched(tmp_path: Path) -> None:
    """GeoTIFFs of four bands with places on the ground and one table; the check first."""
    rasterio = pytest.importorskip("rasterio")
    rng, root = np.random.default_rng(0), tmp_path / "own"
    lines = ["file,labels"]
    for number in range(60):
        pixels = rng.integers(1, 4000, (4, 40, 40), dtype=np.uint16)
        place = {
            "crs": "EPSG:32633",
            "transform": rasterio.transform.from_origin(500_000 + 400 * number, 5_400_000, 10, 10),
        }
        write_raster(root / f"{number % 4}" / f"tile {number:02d}.tif", pixels, **place)
        lines.append(f"tile {number:02d}.tif,{'sea; ship' if number % 2 else 'grass'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    own = ["--source_path", root, "--labels_csv", tmp_path / "table.csv", "--bands", "1,2,3,4"]
    tiny = [*TINY, "--nb_epochs", 1, "--batch_size", 8, "--weights", "none", "--save_path", tmp_path / "runs"]
    run_inside("train_baseline", "--dataset", "Folder", *own, *tiny, "--use_npmem")
    saved = tmp_path / "runs" / "Folder" / "baseline"
    argv = ["--load_from_checkpoint", saved, "--num_workers", 0]
    run_inside("evaluate_model", *argv, "--retrieval_queries", 1)
    scores = json.loads((saved / "evaluation_results" / "best_test" / "scores.json").read_text())
    assert scores["protocol"]["label_names"] == ["grass", "sea", "ship"]
    run_inside("evaluate_model", *argv, "--query", root / "0" / "tile 00.tif", "--dataset_type", "all", "--top", 3)
    found = saved / "search_results" / "best_all" / "0"
    collection = json.loads(next(found.parent.glob("*/hits.geojson")).read_text())
    assert len(collection["features"]) == 4
    assert all(feature["geometry"] for feature in collection["features"])
    run_inside("evaluate_model", *argv, "--export", "safetensors", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Turns images of the bands 1, 2, 3, 4 into 16 numbers" in card, "whose sensor is not known"
    assert 'What a file calls "no data" is 0.\nFiles of any size were resized to 256 x 256 first' in card
    check = ["Folder", *own, "--out", tmp_path / "check"]
    run_inside("datasets.__main__", *check)
    assert json.loads((tmp_path / "check" / "check.json").read_text())["images"] == 60


def test_a_folder_without_labels_is_not_trained_on(images: Path, tmp_path: Path) -> None:
    argv = ["--dataset", "Folder", "--source_path", images, "--weights", "none", "--save_path", tmp_path / "runs"]
    assert "carry no labels" in run_inside("train_baseline", *argv, *TINY, code=2).stderr
    assert not list((tmp_path / "runs").rglob("last.pt"))


def test_a_saved_run_of_an_own_archive_prepares_images_from_anywhere(tmp_path: Path) -> None:
    """`architectures.load_network` reads a file as the run's own archive is read."""
    rng = np.random.default_rng(0)
    path = write_raster(tmp_path / "a.tif", rng.integers(1, 4000, (4, 40, 40), dtype=np.uint16), ("x", "y", "z", "n"))
    run = {"dataset": "Folder", "folder_side": 32, "folder_band_scale": None, "channels_last": False}
    data = {"bands": ["n", "x"], "label_names": [], "mean": [0.0, 0.0], "std": [1.0, 1.0], "image_size": 32}
    data |= {"resize_to": 32, "per_image_normalisation": False}
    (tmp_path / "own").mkdir()
    shutil.copy(path, tmp_path / "own")
    own = folder(tmp_path / "own", "all", bands="n,x", side=32)
    assert np.array_equal(Prepare(run, data)(path)[0].numpy(), own.read(0).astype(np.float32))
