"""MLRSNet: label files as they are found, the repair of the published ones, splits and pixels."""

from __future__ import annotations

import csv
import gzip
import hashlib
import shutil
import struct
import sys
import types
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import datasets.__main__ as program
from datasets import DATASETS
from datasets.base import label_fingerprint
from datasets.files.label_csv import LabelTable, read_label_file, read_label_table
from datasets.files.split_lists import balanced_split, hashed_split, parse_proportions
from datasets.mlrsnet import splits as mlrsnet_splits
from datasets.mlrsnet.dataset import MLRSNet, label_table
from datasets.mlrsnet.labels import (
    CATEGORY_LABELS,
    CLEAN,
    LABELS,
    corrupted_rows,
    read_workbook,
    repair,
    repair_categories,
)
from datasets.mlrsnet.splits import PROPORTIONS
from tests.miniatures import SHARED, csv_text, write_mlrsnet, write_photograph
from utilities.errors import DatasetError, UserError

REAL = SHARED / "MLRSNet"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no MLRSNet label files in {REAL}")


@pytest.fixture(scope="module")
def published() -> LabelTable:
    return read_label_table(REAL / "labels", LABELS)


def dataset(root: Path, split: str = "train", labels: str = "as_is", proportions: str = "40/10/50") -> MLRSNet:
    return MLRSNet(source_path=root, split=split, labels=labels, proportions=proportions)


def write_csvs(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text, newline="")
    return folder


# Label files ------------------------------------------------------------------------------------------------


def literal_rows(path: Path) -> dict[str, set[str]]:
    """The slow twin: one dictionary a row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["image"]: {label for label, value in row.items() if value == "1"} for row in rows}


def test_columns_are_matched_by_name(tmp_path: Path) -> None:
    folder = write_csvs(
        tmp_path / "labels",
        a="image,road,sea,trees\na1.jpg,1,0,0\na2.jpg,0,1,1\n",
        b="image,trees,road,sea\r\nb1.jpg,1,0,0\r\n\r\n",
        c="\ufeffimage,sea,  ,trees\nc1.jpg,0,1,0",
    )
    table = read_label_table(folder)
    assert table.label_names == ("road", "sea", "trees")
    assert table.names.tolist() == ["a1.jpg", "a2.jpg", "b1.jpg", "c1.jpg"]
    assert table.labels.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]]
    assert table.category_names == ("a", "b", "c")
    assert table.categories.tolist() == [0, 0, 1, 2]


def test_known_labels_come_in_canonical_order_others_in_that_of_their_header(tmp_path: Path) -> None:
    folder = write_csvs(tmp_path / "labels", a="image,trees,road,sea\na1.jpg,1,0,0\n")
    assert read_label_table(folder, LABELS).label_names == ("road", "sea", "trees")
    folder = write_csvs(tmp_path / "own", a="image,zebra,anchor\na1.jpg,1,0\n")
    assert read_label_table(folder, LABELS).label_names == ("zebra", "anchor")


def test_one_blank_header_alone_is_the_missing_known_label(tmp_path: Path) -> None:
    header = [label if label != "snowberg" else "  " for label in LABELS]
    flags = np.eye(len(LABELS), dtype=bool)
    names = [f"storage_tank_{i:05d}.jpg" for i in range(len(LABELS))]
    folder = write_csvs(tmp_path / "labels", storage_tank=csv_text(names, flags, header))
    table = read_label_table(folder, LABELS)
    assert table.label_names == LABELS
    assert (table.labels == flags).all()


def test_quoted_names_and_blanks_around_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('image,road,sea\n"one, two.jpg", 1 ,0\nplain & simple.jpg,0,1\n')
    file = read_label_file(path)
    assert file.names.tolist() == ["one, two.jpg", "plain & simple.jpg"]
    assert file.labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,road,sea\na1.jpg,1,0\na2.jpg,1\n", ["line 3", "a2.jpg", "1 values", "2 labels"]),
        ("image,road,sea\na1.jpg,1,0,1\n", ["line 2", "3 values"]),
        ("image,road,sea\na1.jpg,1,2\n", ["line 2", "'2'", "'sea'"]),
        ("image,road,sea\na1.jpg,1,\n", ["line 2", "''", "'sea'"]),
        ("image,road,sea\n,1,0\n", ["line 2", "empty image name"]),
        ("image,road,road\na1.jpg,1,0\n", ["'road' twice"]),
        ("", ["no header line"]),
        ("just words\n", ["no header line"]),
        ("image,road,,\na1.jpg,1,0,0\n", ["2 without a name"]),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, words: list[str]) -> None:
    folder = write_csvs(tmp_path / "labels", lake=text, good="image,road,sea\ng1.jpg,1,0\n")
    with pytest.raises(DatasetError) as caught:
        read_label_table(folder)
    for word in ["lake.csv", *words]:
        assert word in str(caught.value)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,road\n\xff\xfe.jpg,1\n")
    with pytest.raises(DatasetError, match=r"a\.csv is not UTF-8"):
        read_label_file(path)


def test_a_field_that_is_too_long_to_be_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lake.csv"
    for text, line in ((f"image,water\n{'a' * 140_000}, 1\n", 2), (f"image,{'a' * 140_000}\n", 1)):
        path.write_text(text)
        with pytest.raises(DatasetError, match=rf"lake\.csv, line {line}: field larger than field limit"):
            read_label_file(path)


def test_a_column_that_only_one_file_has_is_unknown(tmp_path: Path) -> None:
    folder = write_csvs(
        tmp_path / "labels",
        a="image,road,sea\na1.jpg,1,0\n",
        b="image,road,sea\nb1.jpg,1,0\n",
        c="image,road,see\nc1.jpg,1,0\n",
    )
    with pytest.raises(DatasetError, match=r"c\.csv has the unknown column 'see'; allowed: road, sea"):
        read_label_table(folder)


def test_a_column_unknown_to_mlrsnet_is_refused_even_when_all_files_have_it(tmp_path: Path) -> None:
    header = [*LABELS, "harbour"]
    folder = write_csvs(tmp_path / "labels", a=csv_text(["a1.jpg"], np.ones((1, 61)), header))
    with pytest.raises(DatasetError, match=r"a\.csv has the unknown column 'harbour'"):
        read_label_table(folder, LABELS)


def test_a_missing_column_and_a_blank_that_misses_nothing_are_named(tmp_path: Path) -> None:
    good = "image,road,sea\na1.jpg,1,0\n"
    folder = write_csvs(tmp_path / "short", a=good, b="image,road\nb1.jpg,1\n")
    with pytest.raises(DatasetError, match=r"b\.csv has no column for 'sea'"):
        read_label_table(folder)
    folder = write_csvs(tmp_path / "blank", a=good, b="image,road,sea,\nb1.jpg,1,0,0\n")
    with pytest.raises(DatasetError, match=r"b\.csv misses no label and has 1 without a name"):
        read_label_table(folder)


def test_an_image_listed_twice_is_named_with_its_files(tmp_path: Path) -> None:
    folder = write_csvs(
        tmp_path / "labels",
        a="image,road\nx.jpg,1\ny.jpg,1\n",
        b="image,road\nx.jpg,0\n",
        c="image,road\nz.jpg,0\n",
    )
    with pytest.raises(DatasetError, match=r"image x\.jpg is listed more than once \(in a\.csv, b\.csv\)"):
        read_label_table(folder)


def test_a_folder_without_label_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no label file"):
        read_label_table(tmp_path)


def test_fingerprint_is_that_of_its_literal_definition_and_ignores_order() -> None:
    rng = np.random.default_rng(1)
    labels, names = rng.random((50, 11)) < 0.2, np.asarray([f"image {i}" for i in range(50)])
    label_names = [f"label {i}" for i in rng.permutation(11)]
    lines = [
        f"{name}:{','.join(sorted(label for label, flag in zip(label_names, row, strict=True) if flag))}\n"
        for name, row in zip(names, labels, strict=True)
    ]
    expected = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    assert label_fingerprint(names, labels, label_names) == expected
    rows, columns = rng.permutation(50), rng.permutation(11)
    shuffled = labels[rows][:, columns]
    assert label_fingerprint(names[rows], shuffled, [label_names[i] for i in columns]) == expected
    labels[7, 3] ^= True
    assert label_fingerprint(names, labels, label_names) != expected


# The repair -------------------------------------------------------------------------------------------------


@needs_real
def test_published_files_are_read_as_a_literal_reader_reads_them(published: LabelTable) -> None:
    """The HEAD fingerprint was computed independently of this code."""
    assert len(published.names) == 109_161
    assert published.fingerprint() == "1d472767d36210136e5b79e28c37cc06b92e3154b239f755821946f275f178a3"
    rows = literal_rows(REAL / "labels" / "harbor&port.csv")
    labels = np.asarray(LABELS)
    here = published.categories == published.category_names.index("harbor&port")
    assert rows == {
        str(name): set(labels[row])
        for name, row in zip(published.names[here], published.labels[here], strict=True)
    }  # fmt: skip


@needs_real
def test_repair_gives_the_clean_labels(published: LabelTable) -> None:
    repaired = repair(published)
    assert repaired.fingerprint() == CLEAN
    per_image = np.bincount(repaired.labels.sum(1))
    assert per_image.tolist() == [
        10,
        3207,
        13697,
        16977,
        13222,
        16461,
        16009,
        12467,
        8690,
        6373,
        1612,
        388,
        46,
        2,
    ]


@needs_real
def test_repair_leaves_clean_labels_alone_and_counts_what_it_changes(published: LabelTable) -> None:
    repaired = repair(published)
    assert (repair(repaired).labels == repaired.labels).all()
    assert corrupted_rows(repaired, repair(repaired)) == {}
    counts = corrupted_rows(published, repaired)
    assert counts["storage_tank"] == 2500
    assert counts["stadium"] == 2462
    assert counts["parkway"] == 2392
    assert counts["airplane"] == 1
    assert sum(counts.values()) == 10_300


@needs_real
def test_the_lists_of_the_categories_repair_all_but_one_label(published: LabelTable) -> None:
    """Which could be an airplane's, and is known by the image's name."""
    by_lists, repaired = repair_categories(published), repair(published)
    rows, columns = np.nonzero(by_lists.labels != repaired.labels)
    assert [(str(by_lists.names[row]), LABELS[column]) for row, column in zip(rows, columns, strict=True)] == [
        ("airplane_01550.jpg", "airport")
    ]
    assert by_lists.labels[rows, columns].all()


def test_a_category_in_another_spelling_is_repaired_as_itself() -> None:
    """Some write `harbor_port`, in folders and label files alike."""
    labels = np.zeros((2, 60), bool)
    labels[0, [LABELS.index("water"), LABELS.index("stadium")]] = True
    spelled = ("harbor_port", "Storage-Tank")
    table = LabelTable(np.asarray(["a", "b"]), labels, LABELS, np.arange(2), spelled)
    assert [set(np.asarray(LABELS)[row]) for row in repair(table).labels] == [{"water"}, {"tanks"}]


@needs_real
def test_workbook_and_built_in_list_agree() -> None:
    pytest.importorskip("openpyxl")
    assert read_workbook(REAL / "Categories_names.xlsx") == CATEGORY_LABELS


def test_repair_by_hand() -> None:
    names = np.asarray(["storage_tank_1", "storage_tank_2", "airplane_1", "hamlet_1"])
    labels = np.zeros((4, 60), bool)
    at = LABELS.index
    labels[0, [at("trees"), at("sea")]] = True  # the sea is not listed, the tanks are lost
    labels[1, at("tanks")] = True
    labels[2, [at("runway"), at("airplane"), at("sea")]] = True  # the runway is one that the workbook forgets
    labels[3, at("sea")] = True  # not a category of MLRSNet
    table = LabelTable(names, labels, LABELS, np.asarray([0, 0, 1, 2]), ("storage_tank", "airplane", "hamlet"))
    found = [set(np.asarray(LABELS)[row]) for row in repair(table).labels]
    assert found == [{"trees", "tanks"}, {"tanks"}, {"runway", "airplane"}, {"sea"}]


def test_repair_is_loud_and_can_be_declined(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"storage_tank": 6, "lake": 6})
    with pytest.warns(UserWarning, match=r"of 12 rows .* corrupted \(lake \d, storage_tank 6\).*fingerprint"):
        repaired = label_table(tmp_path, "repair")
    with pytest.warns(UserWarning, match="as_is"):
        kept = label_table(tmp_path, "as_is")
    tanks = repaired.category_names.index("storage_tank")
    assert repaired.labels[repaired.categories == tanks][:, LABELS.index("tanks")].all()
    assert (repaired.labels != kept.labels).any()
    with pytest.raises(UserError, match="choices: repair, as_is"):
        label_table(tmp_path, "mend")


def test_labels_of_another_data_set_are_never_repaired(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"storage_tank": 6, "lake": 6}, labels=LABELS[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = label_table(tmp_path, "repair")
    assert table.label_names == LABELS[:20]


def test_an_unreadable_workbook_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "Categories_names.xlsx"
    path.write_bytes(b"not a workbook")
    with pytest.raises(DatasetError, match=r"Categories_names\.xlsx"):
        read_workbook(path)


def test_a_legacy_workbook_is_read_through_xlrd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ["", "", ""],
        ["", "", 1],
        [1.0, "storage_tank", "tanks"],
        [2.0, "sparse_residential", "chapparral"],
    ]
    sheet = types.SimpleNamespace(nrows=len(rows), row_values=rows.__getitem__)
    book = types.SimpleNamespace(sheet_by_name={"tags": sheet}.__getitem__)
    monkeypatch.setitem(sys.modules, "xlrd", types.SimpleNamespace(open_workbook=lambda path: book))
    assert read_workbook(tmp_path / "Categories_names.xls") == {
        "storage_tank": {"tanks"},
        "sparse_residential_area": {"chaparral"},
    }
    monkeypatch.setitem(sys.modules, "xlrd", None)
    with pytest.raises(UserError, match="pip install xlrd"):
        read_workbook(tmp_path / "Categories_names.xls")


@pytest.mark.parametrize(("suffix", "library"), [("xlsx", "openpyxl"), ("xls", "xlrd")])
def test_without_its_library_a_workbook_gives_way_to_the_built_in_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, library: str
) -> None:
    write_mlrsnet(tmp_path, images={"storage_tank": 6, "lake": 6})
    with pytest.warns(UserWarning, match="corrupted"):
        expected = label_table(tmp_path, "repair")
    (tmp_path / f"Categories_names.{suffix}").write_bytes(b"not looked into")
    monkeypatch.setitem(sys.modules, library, None)
    with (
        pytest.warns(UserWarning, match="corrupted"),
        pytest.warns(UserWarning, match=rf"Categories_names\.{suffix} .*pip install {library}; .* built-in list"),
    ):
        found = label_table(tmp_path, "repair")
    assert found.fingerprint() == expected.fingerprint()


def test_a_workbook_that_is_there_is_asked(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    write_mlrsnet(tmp_path, images={"lake": 6})
    book = openpyxl.Workbook()
    book.active.title = "tags"
    for row in [["", "Category"], ["", "", 1], [1, "lake", "lake"]]:
        book.active.append(row)
    book.save(tmp_path / "Categories_names.xlsx")
    with pytest.warns(UserWarning, match="corrupted"):
        table = label_table(tmp_path, "repair")
    assert set(np.asarray(LABELS)[table.labels.any(0)]) <= {"lake"}


def test_a_label_that_the_data_set_does_not_know_is_named(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "tags"
    for row in [["", "Category"], ["", "", 1], [1, "lake", "lake", "duck pond"]]:
        book.active.append(row)
    book.save(tmp_path / "Categories_names.xlsx")
    with pytest.raises(DatasetError, match=r"row of 'lake': 'duck pond'"):
        read_workbook(tmp_path / "Categories_names.xlsx")


# Splits -----------------------------------------------------------------------------------------------------


@needs_real
@pytest.mark.parametrize("proportions", PROPORTIONS)
def test_stored_splits_are_those_made_from_the_label_files(published: LabelTable, proportions: str) -> None:
    stored = gzip.decompress(mlrsnet_splits.stored_file(proportions).read_bytes())
    assert stored == mlrsnet_splits.digits_of(repair_categories(published), proportions)


@needs_real
@pytest.mark.parametrize("proportions", PROPORTIONS)
def test_stored_splits_hold_their_shares_of_every_label(published: LabelTable, proportions: str) -> None:
    """A third of what chance would leave, over all labels, and every category to within three images."""
    part = mlrsnet_splits.split_of(published, proportions, 0)  # the corrupted files: names decide, not labels
    labels = repair(published).labels
    for i, share in enumerate(parse_proportions(proportions)):
        p = share / 100
        of_category = np.bincount(published.categories[part == i])
        assert np.abs(of_category - p * np.bincount(published.categories)).max() < 3
        error = labels[part == i].sum(0) - p * labels.sum(0)
        assert np.sqrt(np.mean(error**2 / (p * (1 - p) * labels.sum(0)))) < 1 / 3


@needs_real
def test_stored_splits_follow_the_names_in_any_order(published: LabelTable) -> None:
    order = np.random.default_rng(0).permutation(len(published.names))
    moved = published._replace(
        names=published.names[order], labels=published.labels[order], categories=published.categories[order]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = mlrsnet_splits.split_of(published, "40/10/50", 0)
        assert (mlrsnet_splits.split_of(moved, "40/10/50", 0) == part[order]).all()
    assert np.bincount(part).tolist() == [43_665, 10_915, 54_581]


@needs_real
def test_other_images_and_proportions_are_hashed_and_that_is_said(published: LabelTable) -> None:
    less = published._replace(
        names=published.names[1:], labels=published.labels[1:], categories=published.categories[1:]
    )
    for table, proportions in ((less, "40/10/50"), (published, "70/10/20")):
        with pytest.warns(UserWarning, match=rf"no stored split {proportions} of these .* drawn by hashing"):
            part = mlrsnet_splits.split_of(table, proportions, 0)
        expected = hashed_split(table.names, table.categories, parse_proportions(proportions), seed=0)
        assert (part == expected).all()


@needs_real
def test_regenerating_writes_the_stored_files_again(
    published: LabelTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {path.name: path.read_bytes() for path in mlrsnet_splits.STORED.iterdir()}
    assert sum(map(len, stored.values())) < 200_000
    monkeypatch.setattr(mlrsnet_splits, "STORED", tmp_path / "mlrsnet")
    program.main(["MLRSNet", "--source_path", str(REAL), "--write_splits"])
    for name, content in stored.items():
        again = (tmp_path / "mlrsnet" / name).read_bytes()
        unpacked = gzip.decompress if name.endswith(".gz") else bytes
        assert unpacked(again) == unpacked(content), name


@needs_real
def test_a_stored_split_that_was_changed_is_refused(
    published: LabelTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mlrsnet_splits.STORED, tmp_path / "mlrsnet")
    monkeypatch.setattr(mlrsnet_splits, "STORED", tmp_path / "mlrsnet")
    path = mlrsnet_splits.stored_file("40/10/50")
    digits = gzip.decompress(path.read_bytes())
    for content, said in ((gzip.compress(digits[::-1]), "was changed"), (b"cut off", "cannot read")):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=said):
            mlrsnet_splits.read_stored(published.names, "40/10/50")


def test_balanced_split_divides_every_label_set_and_ignores_the_order() -> None:
    rng = np.random.default_rng(0)
    names, groups = np.asarray([f"n{i}" for i in range(3000)]), rng.integers(0, 3, 3000)
    labels = np.eye(4, dtype=bool)[rng.integers(0, 4, 3000)]
    part = balanced_split(names, groups, labels, (40, 10, 50), seed=3)
    order = rng.permutation(3000)
    assert (balanced_split(names[order], groups[order], labels[order], (40, 10, 50), seed=3) == part[order]).all()
    for group in range(3):
        for label in range(4):
            sizes = np.bincount(part[(groups == group) & labels[:, label]], minlength=3)
            assert np.abs(sizes - sizes.sum() * np.asarray([0.4, 0.1, 0.5])).max() <= 2
    assert (balanced_split(names, groups, labels, (40, 10, 50), seed=4) != part).mean() > 0.3


def test_hashed_split_does_not_depend_on_the_order_and_divides_every_group() -> None:
    rng = np.random.default_rng(0)
    names, groups = np.asarray([f"n{i}" for i in range(1000)]), rng.integers(0, 7, 1000)
    part = hashed_split(names, groups, (70, 10, 20), seed=3)
    order = rng.permutation(1000)
    assert (hashed_split(names[order], groups[order], (70, 10, 20), seed=3) == part[order]).all()
    for group in range(7):
        sizes = np.bincount(part[groups == group], minlength=3)
        assert np.abs(sizes - sizes.sum() * np.asarray([0.7, 0.1, 0.2])).max() <= 1
    assert (hashed_split(names, groups, (70, 10, 20), seed=4) != part).any()


def test_hashed_split_orders_by_sha256_of_seed_and_name() -> None:
    names = np.asarray([f"n{i}" for i in range(10)])
    part = hashed_split(names, np.zeros(10, int), (50, 20, 30), seed=9)
    order = sorted(range(10), key=lambda i: hashlib.sha256(f"9:n{i}".encode()).digest())
    assert part[order].tolist() == [0] * 5 + [1] * 2 + [2] * 3


@pytest.mark.parametrize("text", ["40/10/60", "40/60", "a/b/c", "100/0/0", "-10/60/50", ""])
def test_proportions_must_be_three_percentages(text: str) -> None:
    with pytest.raises(UserError, match="adding up to 100"):
        parse_proportions(text)


# The data set -----------------------------------------------------------------------------------------------


def test_the_splits_partition_the_images(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path)
    with pytest.warns(UserWarning, match="corrupted"):
        parts = [dataset(tmp_path, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [16, 4, 20]
    names = np.concatenate([part.names for part in parts])
    assert len(set(names.tolist())) == 40
    assert "harbor&port_00001.jpg" in names
    train = parts[0]
    assert train.label_names == LABELS
    assert train.labels.shape == (16, 60)
    assert train.labels.dtype == bool
    assert train.item_shape == (3, 256, 256)


def test_labels_and_pixels_belong_to_the_name(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, labels=LABELS[:24])
    data = dataset(tmp_path, "test")
    rows = literal_rows(tmp_path / "labels" / "harbor&port.csv")
    row = next(i for i, name in enumerate(data.names) if name.startswith("harbor"))
    assert set(np.asarray(data.label_names)[data.labels[row]]) == rows[str(data.names[row])]
    with Image.open(tmp_path / "Images" / "harbor&port" / str(data.names[row])) as image:
        expected = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR))
    assert (data.read(row) == expected.transpose(2, 0, 1)).all()
    batch = data.__getitems__([row, 0])
    assert batch.images.shape == (2, 3, 256, 256)
    assert (batch.images[0].numpy() == expected.transpose(2, 0, 1)).all()
    assert batch.indices.tolist() == [row, 0]
    assert data.thumbnail(row, 32).shape == (32, 32, 3)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png")])
def test_images_of_any_colour_mode_and_size_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    for i in range(1, 11):
        colour = Image.new("RGB", (600, 300), (204, 51, 102)).convert(mode)
        colour.save(tmp_path / "Images" / "lake" / f"lake_{i:05d}.jpg", "JPEG" if suffix == "jpg" else "PNG")
    pixels = dataset(tmp_path).read(0)
    assert pixels.shape == (3, 256, 256)
    expected = np.asarray(Image.new("RGB", (1, 1), (204, 51, 102)).convert(mode).convert("RGB"))[0, 0]
    assert np.abs(pixels.astype(int) - expected[:, None, None]).max() <= 3


def test_a_broken_image_is_named_or_skipped(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    data = dataset(tmp_path)
    path = data.path(1)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=path.name):
        data.__getitems__([0, 1, 2])
    data.skip_broken = True
    with pytest.warns(UserWarning, match=path.name):
        batch = data.__getitems__([0, 1, 2])
    assert batch.indices.tolist() == [0, 2]
    assert (batch.images[1].numpy() == data.read(2)).all()


def write_png(path: Path, colour_type: int, channels: int) -> None:
    """16 bits a channel, which Pillow writes of grey images only."""
    header = struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(16 * channels * 2) for _ in range(16))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    written = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path, "PNG"),
        lambda path: write_png(path, 2, 3),
        lambda path: write_png(path, 6, 4),
        lambda path: write_png(path, 4, 2),
        lambda path: tifffile.imwrite(path, np.ones((16, 16), np.uint16)),
        lambda path: tifffile.imwrite(path, np.ones((16, 16, 3), np.uint16), photometric="rgb"),
        lambda path: tifffile.imwrite(path, np.ones((16, 16, 3), np.uint16), photometric="rgb", byteorder=">"),
        lambda path: tifffile.imwrite(path, np.ones((16, 16, 3), np.uint16), photometric="rgb", compression="deflate"),
        lambda path: tifffile.imwrite(path, np.ones((3, 16, 16), np.uint16), photometric="rgb", planarconfig=2),
    ],
    ids=[
        "PNG grey",
        "PNG",
        "PNG RGBA",
        "PNG LA",
        "TIFF grey",
        "TIFF",
        "TIFF big-endian",
        "TIFF deflate",
        "TIFF planes",
    ],
)
def test_deep_images_are_refused_by_name(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    data = dataset(tmp_path)
    write(data.path(0))
    with pytest.raises(DatasetError, match=rf"{data.path(0).name}: it has more than 8 bits"):
        data.read(0)


def test_absent_and_unlisted_images_are_counted_and_named(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    rng = np.random.default_rng(0)
    for i in range(1, 8):
        (tmp_path / "Images" / "lake" / f"lake_{i:05d}.jpg").unlink()
    write_photograph(tmp_path / "Images" / "lake" / "extra.jpg", rng)
    with pytest.raises(DatasetError) as caught:
        dataset(tmp_path)
    message = str(caught.value)
    assert "7 listed but absent (lake_00001.jpg, lake_00002.jpg" in message
    assert "lake_00005.jpg, ...)" in message
    assert "lake_00006" not in message
    assert "1 present but unlisted (extra.jpg)" in message


def test_a_category_without_folder_and_a_folder_without_category_are_named(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10, "park": 10}, labels=LABELS[:5])
    (tmp_path / "Images" / "lake").rename(tmp_path / "Images" / "pond")
    with pytest.raises(DatasetError, match=r"1 listed but absent \(lake\); 1 present but unlisted \(pond\)"):
        dataset(tmp_path)


def test_the_published_rars_are_to_be_unpacked(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    shutil.rmtree(tmp_path / "Images")
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images" / "lake.rar").write_bytes(b"Rar!")
    with pytest.raises(DatasetError, match="unpack each of them"):
        dataset(tmp_path)


def test_files_that_are_no_images_do_not_matter(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    (tmp_path / "Images" / "lake" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "Images" / "readme.txt").write_bytes(b"x")
    assert len(dataset(tmp_path)) == 4


def test_links_blanks_and_a_renamed_harbor_work(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path / "elsewhere", images={"harbor&port": 10, "old town": 10}, labels=LABELS[:5])
    images = tmp_path / "elsewhere" / "Images"
    (images / "harbor&port").rename(images / "harbor_port")
    target = images / "old town" / "old town_00001.jpg"
    target.rename(tmp_path / "moved away.jpg")
    target.symlink_to(tmp_path / "moved away.jpg")
    (tmp_path / "my data").symlink_to(tmp_path / "elsewhere")
    data = [dataset(tmp_path / "my data", split) for split in ("train", "val", "test")]
    assert sum(map(len, data)) == 20
    for part in data:
        part.__getitems__(range(len(part)))


@pytest.mark.parametrize("missing", ["labels", "Images"])
def test_a_source_path_that_is_no_mlrsnet_is_named(tmp_path: Path, missing: str) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    (tmp_path / missing).rename(tmp_path / "other")
    with pytest.raises(DatasetError, match=f"holds no folder `{missing}`"):
        dataset(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        dataset(tmp_path / "nowhere")


def test_a_split_that_would_be_empty_is_an_error(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 1}, labels=LABELS[:5])
    with pytest.raises(DatasetError, match="train split of these 1 images is empty"):
        dataset(tmp_path)


def test_it_is_built_from_its_flags(tmp_path: Path) -> None:
    write_mlrsnet(tmp_path, images={"lake": 10}, labels=LABELS[:5])
    settings = {"mlrsnet_labels": "repair", "mlrsnet_proportions": "40/30/30"}
    data = DATASETS.build("MLRSNet", settings, source_path=tmp_path, split="val", packed=None, seed=1)
    assert len(data) == 3
