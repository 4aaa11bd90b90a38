"""BigEarthNet: labels by name, the kept label table, splits, bands and thumbnails, versions 1 and 2."""

from __future__ import annotations

import bz2
import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from datasets import DATASETS
from datasets.bigearthnet import (
    labels_v1 as bigearthnet_index,
)
from datasets.bigearthnet import (
    metadata_v2 as bigearthnet_parquet,
)
from datasets.bigearthnet import (
    splits as bigearthnet_splits,
)
from datasets.bigearthnet.dataset import BigEarthNet, parse_bands
from datasets.bigearthnet.labels_v1 import decoded, default_index_folder, read_version_1
from datasets.bigearthnet.metadata_v2 import read_version_2
from datasets.bigearthnet.nomenclature import BAND_SIDES, CLC_TO_19, LABELS_19, LABELS_43, STATISTICS, mapping_to_19
from datasets.bigearthnet.splits import locate, split_rows
from datasets.files.split_lists import read_name_list
from datasets.query_files import PatchFolder
from tests.miniatures import SHARED, patch_names, write_bigearthnet, write_labels, write_patch, write_reben
from utilities.errors import DatasetError, UserError

REAL, LISTS = SHARED / "BigEarthNet", SHARED / "BigEarthNet-splits"
INLAND = ("Inland wetlands", "Inland waters")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no BigEarthNet patches in {REAL}")
needs_lists = pytest.mark.skipif(not LISTS.is_dir(), reason=f"no official lists in {LISTS}")


def dataset(root: Path, split: str = "train", **options: object) -> BigEarthNet:
    given = {"labels": 43, "bands": "all", "version": 1, "splits": "hashed", "index_path": None} | options
    return BigEarthNet(source_path=root, split=split, **given)  # type: ignore[arg-type]


def write_lists(folder: Path, **lists: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, names in lists.items():
        (folder / f"{stem}.csv").write_text("".join(f"{name},S1{name[2:]}\n" for name in names))
    return folder


# Labels and tables ------------------------------------------------------------------------------------------


def test_the_19_labels_merge_and_drop_the_43() -> None:
    mapping = mapping_to_19()
    assert mapping.shape == (43, 19)
    assert mapping.any(0).all()
    assert mapping.sum(1).max() == 1
    assert (~mapping.any(1)).sum() == 11  # dropped: artificial surfaces without a class, bare rock, burnt, flats
    assert CLC_TO_19["Salines"] == "Coastal wetlands"
    assert CLC_TO_19["Airports"] is None
    at = {label: i for i, label in enumerate(LABELS_43)}
    assert (at["Continuous urban fabric"], at["Agro-forestry areas"], at["Sea and ocean"]) == (0, 21, 42)
    assert LABELS_19[7] == "Agro-forestry areas"
    assert [len(statistics) for statistics in STATISTICS.values()] == [12, 12]
    for band, published in STATISTICS[1].items():  # two sources, who counted nearly the same patches
        assert STATISTICS[2][band] == pytest.approx(published, rel=0.08), band


@pytest.mark.parametrize("labels", [43, 19])
def test_labels_are_mapped_by_name(tmp_path: Path, labels: int) -> None:
    write_bigearthnet(tmp_path, 43, bands=False)
    parts = [dataset(tmp_path, split, labels=labels) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [26, 8, 9]
    for part in parts:
        assert part.label_names == (LABELS_43 if labels == 43 else LABELS_19)
        for name, row in zip(part.names.tolist(), part.labels, strict=True):
            written = json.loads((tmp_path / name / f"{name}_labels_metadata.json").read_text())["labels"]
            expected = set(written) if labels == 43 else {CLC_TO_19[label] for label in written} - {None}
            assert {label for label, flag in zip(part.label_names, row, strict=True) if flag} == expected


@needs_real
def test_the_real_patches() -> None:
    with pytest.warns(UserWarning, match="269,69. of the 269,695 patches listed"):
        parts = [dataset(REAL, split, splits="auto", labels=19) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [3, 1, 1]  # the sixth is in the list of patches with snow
    assert "S2B_MSIL2A_20180204T94161_57_38" not in np.concatenate([part.names for part in parts])
    train = parts[0]
    row = train.names.tolist().index("S2B_MSIL2A_20170924T93020_69_24")
    found = {label for label, flag in zip(train.label_names, train.labels[row], strict=True) if flag}
    assert found == {"Coniferous forest", "Mixed forest", "Transitional woodland, shrub", *INLAND}
    assert not (REAL / ".index").exists()


def test_unusable_label_files_are_counted_and_named(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 14, bands=False)
    names = patch_names(14)
    broken = {
        0: "", 1: '{"labels": ["Pastures"', 2: '{"projection": ""}', 3: '{"labels": ["Meadow"]}', 4: "[]",
        5: '{"labels": null}', 6: None,
    }  # fmt: skip
    for i, text in broken.items():
        path = tmp_path / names[i] / f"{names[i]}_labels_metadata.json"
        path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DatasetError, match="7 label files of 14 patches are unusable"):
        dataset(tmp_path)
    for i in (0, 1, 4, 5, 6):
        write_labels(tmp_path / names[i], ["Pastures"])
    with pytest.raises(DatasetError) as caught:
        dataset(tmp_path)
    assert f"{names[2]}_labels_metadata.json: 'labels' is missing" in str(caught.value)
    assert f"{names[3]}_labels_metadata.json: 'Meadow' is not a label" in str(caught.value)


def test_a_patch_may_have_no_label(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 5, bands=False)
    write_labels(tmp_path / patch_names(5)[0], [])
    table = read_version_1(tmp_path, None)
    assert sorted(table.labels.sum(1).tolist()) == [0, 1, 1, 1, 2]


# The kept label table ---------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive that counts as large, so that its table is kept."""
    monkeypatch.setattr(bigearthnet_index, "SMALL", 3)
    return write_bigearthnet(tmp_path / "data", 9, bands=False)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the label files that are read from now on."""
    counts: list[int] = []
    read = bigearthnet_index.read_label_files

    def counting(root: Path, names: np.ndarray) -> np.ndarray:
        counts.append(len(names))
        return read(root, names)

    monkeypatch.setattr(bigearthnet_index, "read_label_files", counting)
    return counts


def test_labels_are_read_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_version_1(kept, None)
    counts = forbid_reading(monkeypatch)
    for _ in range(2):
        table = read_version_1(kept, None)
        assert (table.names == first.names).all()
        assert (table.labels == first.labels).all()
    assert counts == [], "not even listed anew, though the table lies in the folder"


def test_patches_that_come_and_go_are_noticed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_version_1(kept, None)
    counts = forbid_reading(monkeypatch)
    write_labels(kept / "S2A_MSIL2A_20170101T000000_9_9", ["Salines"])
    gone = kept / patch_names(9)[0]
    next(gone.iterdir()).unlink()
    gone.rmdir()
    table = read_version_1(kept, None)
    assert counts == [1]
    assert len(table.names) == 9
    row = table.names.tolist().index(b"S2A_MSIL2A_20170101T000000_9_9")
    assert np.flatnonzero(table.labels[row]).tolist() == [LABELS_43.index("Salines")]
    fresh = read_version_1(kept, kept.parent / "elsewhere")
    assert (fresh.labels == table.labels).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None])
def test_a_damaged_or_old_table_is_made_anew(kept: Path, tmp_path: Path, content: bytes | None) -> None:
    folder = tmp_path / "index"
    first = read_version_1(kept, folder)
    (path,) = folder.glob("labels-*.npz")
    if content is None:
        with np.load(path) as stored:
            np.savez(path, **{**stored, "format": 0})
    else:
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="cannot be used"):
        again = read_version_1(kept, folder)
    assert (again.labels == first.labels).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_version_1(kept, folder)
    assert [entry.name for entry in folder.iterdir()] == [path.name]


def test_a_table_that_cannot_be_kept_is_said_and_not_fatal(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not kept"):
        assert len(read_version_1(kept, tmp_path / "file" / "index").names) == 9


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EEXIST])
def test_a_full_disk_and_a_second_process_do_not_cost_the_labels_that_were_read(
    kept: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The folder of the table cannot be made, or was made since it was looked for."""
    make = Path.mkdir

    def late(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if number == errno.ENOSPC:
            raise OSError(number, os.strerror(number), str(path))
        make(path, mode, parents, exist_ok=True)
        if not exist_ok:
            raise FileExistsError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", late)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(read_version_1(kept, None).names) == 9
    assert [str(warning.message).partition(",")[0] for warning in caught] == (
        ["the label table is not kept"] if number == errno.ENOSPC else []
    )
    assert len(list(kept.glob(".index/*.npz"))) == (number == errno.EEXIST)


def test_a_read_only_archive_keeps_its_table_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_index_folder(tmp_path) == tmp_path / ".index"
    os.chmod(tmp_path, 0o555)
    assert default_index_folder(tmp_path) == tmp_path / "cache" / "multilabel-rs-retrieval"
    os.chmod(tmp_path, 0o755)


# Splits -----------------------------------------------------------------------------------------------------


@needs_lists
def test_the_official_lists_are_complete_and_disjoint() -> None:
    lists = {split: read_name_list(LISTS / f"{split}.csv.bz2") for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in lists.items()} == {
        "train": 269_695, "val": 123_723, "test": 125_866
    }  # fmt: skip
    names = np.sort(np.concatenate(list(lists.values())).astype(np.bytes_))
    assert (names[1:] != names[:-1]).all()
    assert not bigearthnet_splits.excluded(names, LISTS).any()
    rows = split_rows(names, "val", Path("nowhere"), str(LISTS))
    assert (names[rows] == lists["val"].astype(np.bytes_)).all()


def test_lists_beside_the_data_are_found_and_followed(tmp_path: Path) -> None:
    root, names = write_bigearthnet(tmp_path / "data", 10, bands=False), patch_names(10)
    lists = {"train": names[3:6], "val": names[0:1], "test": names[1:3]}
    for folder in (root / "splits", tmp_path / "data-splits", tmp_path / "splits"):
        write_lists(folder, **lists, patches_with_seasonal_snow=[names[4]])
        for stem in ("train", "val", "test"):
            path = folder / f"{stem}.csv"
            (folder / f"{stem}.csv.bz2").write_bytes(bz2.compress(path.read_bytes()))
            path.unlink()
        with pytest.warns(UserWarning, match=r"4 patches are in no list"):
            parts = {split: dataset(root, split, splits="auto").names.tolist() for split in lists}
        assert parts == lists | {"train": [names[3], names[5]]}
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with pytest.warns(UserWarning, match="no lists .* found; 10 patches are split 60/20/20"):
        assert len(dataset(root, "train", splits="auto")) == 6


def test_hashed_splits_leave_out_what_the_lists_exclude(tmp_path: Path) -> None:
    root, names = write_bigearthnet(tmp_path, 20, bands=False), patch_names(20)
    write_lists(root / "splits", train=names, val=[], test=[], patches_with_cloud_and_shadow=names[:5])
    parts = [dataset(root, split).names.tolist() for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [9, 3, 3]
    assert sorted(name for part in parts for name in part) == sorted(names[5:])


def test_a_sample_beside_the_official_lists_says_how_many_they_leave_out(tmp_path: Path) -> None:
    """Who counts the folders misses some otherwise."""
    root, names = write_bigearthnet(tmp_path, 10, bands=False), patch_names(10)
    elsewhere = [f"S2A_MSIL2A_20990101T000000_{i}_{i}" for i in range(20)]
    write_lists(root / "splits", train=elsewhere, val=[], test=[], patches_with_seasonal_snow=names[:2])
    said = (
        "20 of the 20 .* are absent; 8 patches are split 60/20/20 by hashing their names, without 2 that its lists name"
    )
    with pytest.warns(UserWarning, match=said):
        parts = [dataset(root, split, splits="auto") for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 8


def test_a_hashed_split_of_a_whole_archive_without_lists_says_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bigearthnet(tmp_path / "data", 10, bands=False)
    monkeypatch.setattr(bigearthnet_splits, "SMALL", 5)
    with pytest.warns(UserWarning, match="without the official lists .* snow, cloud or shadow .* are not left out"):
        dataset(root)


def test_lists_beside_the_current_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, names = write_bigearthnet(tmp_path / "data", 10, bands=False), patch_names(10)
    lists = write_lists(tmp_path / "data-splits", train=names[:4], val=names[4:6], test=names[6:])
    monkeypatch.chdir(root)
    assert bigearthnet_splits.find_lists(Path(".")) == lists


def test_listed_patches_that_are_absent_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, names = write_bigearthnet(tmp_path / "data", 10, bands=False), patch_names(10)
    absent = [f"S2A_MSIL2A_20990101T000000_{i}_{i}" for i in range(7)]
    lists = write_lists(tmp_path / "lists", train=names[:4] + absent, val=names[4:6], test=names[6:])
    with pytest.raises(
        DatasetError, match=r"7 patches of .*train\.csv are absent \(S2A_.*_0_0, .*_4_4, \.\.\.\)"
    ) as error:
        dataset(root, splits=str(lists))
    assert error.value.names == tuple(f"absent: {name}" for name in absent), "what the check program writes down"
    assert dataset(root, "val", splits=str(lists)).names.tolist() == names[4:6]
    lists.rename(root / "splits")
    with pytest.warns(UserWarning, match="7 of the 11 patches listed"):
        dataset(root, splits="auto")
    monkeypatch.setattr(bigearthnet_splits, "SMALL", 5)
    with pytest.raises(DatasetError, match="7 patches"):
        dataset(root, splits="auto")


def test_a_large_archive_without_lists_and_a_folder_without_them_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bigearthnet(tmp_path / "data", 10, bands=False)
    with pytest.raises(DatasetError, match=r"--ben_splits .*holds no train\.csv"):
        dataset(root, splits=str(tmp_path))
    monkeypatch.setattr(bigearthnet_splits, "SMALL", 5)
    with pytest.raises(DatasetError, match="no official lists"):
        dataset(root, splits="auto")


def test_a_list_that_names_a_patch_twice_or_nothing_is_an_error(tmp_path: Path) -> None:
    root, names = write_bigearthnet(tmp_path / "data", 4, bands=False), patch_names(4)
    lists = write_lists(tmp_path / "lists", train=names[:2] * 2, val=[], test=names[2:])
    with pytest.raises(DatasetError, match=r"train\.csv lists 2 patches twice"):
        dataset(root, splits=str(lists))
    with pytest.raises(DatasetError, match=r"val\.csv leaves no patch"):
        dataset(root, "val", splits=str(lists))


def test_locate_agrees_with_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    names = np.unique(rng.integers(0, 500, 200)).astype(np.bytes_)
    names.sort()
    wanted = rng.integers(0, 500, 300).astype(np.str_)
    rows, absent = locate(names, wanted)
    place = {name.decode(): i for i, name in enumerate(names.tolist())}
    assert rows.tolist() == [place[name] for name in wanted.tolist() if name in place]
    assert absent.tolist() == [name for name in wanted.tolist() if name not in place]


# Pixels -----------------------------------------------------------------------------------------------------


def test_items_are_the_bands_in_order_at_their_own_resolution(tmp_path: Path) -> None:
    rng, bands = np.random.default_rng(0), {}
    for name in patch_names(5):
        bands[name] = write_patch(tmp_path / name, rng)
        write_labels(tmp_path / name, ["Pastures"])
    data = dataset(tmp_path)
    assert data.bands == ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    assert data.item_shape == (80_000,)
    batch = data.__getitems__([2, 0])
    assert batch.images.numpy().dtype == np.uint16
    expected = np.concatenate([bands[str(data.names[2])][band].ravel() for band in data.bands])
    assert (batch.images[0].numpy() == expected).all()
    rgb = dataset(tmp_path, bands="rgb")
    assert rgb.item_shape == (3, 120, 120)
    assert (rgb.read(1) == np.stack([bands[str(rgb.names[1])][band] for band in ("B04", "B03", "B02")])).all()
    assert rgb.mean == (590.23569706, 614.21682446, 429.9430203)
    assert dataset(tmp_path, bands="B12,B8A").band_sides == (60, 60)


def test_bands_by_set_or_by_name() -> None:
    assert parse_bands("all") == tuple(BAND_SIDES)
    assert parse_bands("10m") == ("B02", "B03", "B04", "B08")
    assert parse_bands("B8A, B02") == ("B8A", "B02")
    for text, words in (("B10", "unknown 'B10'"), ("B02,B02", "occurs twice"), ("", "unknown ''")):
        with pytest.raises(UserError, match=words):
            parse_bands(text)


def test_thumbnails_are_stretched_colours(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 5)
    data = dataset(tmp_path, bands="B12")
    picture = data.thumbnail(0, 120)
    assert picture.shape == (120, 120, 3)
    assert picture.dtype == np.uint8
    assert [(channel == 0).mean() for channel in picture.reshape(-1, 3).T] == pytest.approx([0.02] * 3, abs=0.005)
    assert [(channel == 255).mean() for channel in picture.reshape(-1, 3).T] == pytest.approx([0.02] * 3, abs=0.005)


@needs_real
def test_a_thumbnail_of_a_real_patch_is_neither_dark_nor_burnt_out() -> None:
    picture = dataset(REAL, "train").thumbnail(0)
    assert picture.shape == (128, 128, 3)
    assert 40 < picture.mean() < 200
    assert picture.std() > 20


def test_a_missing_band_is_named_or_skipped(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 5)
    data = dataset(tmp_path)
    name = data.names[1]
    (tmp_path / str(name) / f"{name}_B8A.tif").unlink()
    with pytest.raises(DatasetError, match=f"{name}_B8A.tif: No such file"):
        data.__getitems__([0, 1])
    data.skip_broken = True
    with pytest.warns(UserWarning, match="B8A"):
        assert data.__getitems__([0, 1]).indices.tolist() == [0]


# Arguments and layouts --------------------------------------------------------------------------------------


def test_it_is_built_from_its_flags(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path, 10, bands=False)
    settings = {
        "ben_labels": 19,
        "ben_bands": "rgb",
        "ben_version": 1,
        "ben_splits": "hashed",
        "ben_index_path": str(tmp_path),
    }
    data = DATASETS.build("BigEarthNet", settings, source_path=tmp_path, split="test", packed=None, boa_offset=0)
    assert len(data) == 2


@pytest.mark.parametrize("options", [{"labels": 20}, {"version": 3}, {"labels": 43, "version": 2}])
def test_impossible_combinations_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="--ben_labels"):
        dataset(tmp_path, **options)


def test_the_published_archive_may_be_unpacked_as_it_is(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path / "BigEarthNet-v1.0", 5)
    data = dataset(tmp_path)
    assert data.read(0).shape == (80_000,)


def test_links_to_patches_work_and_other_folders_do_not_matter(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path / "store", 5)
    root = tmp_path / "my archive & more"
    (root / "notes").mkdir(parents=True)
    for name in patch_names(5):
        (root / name).symlink_to(tmp_path / "store" / name)
    data = dataset(root)
    assert len(data.__getitems__(range(len(data))).indices) == 3


def test_a_folder_without_patches_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no patch folder"):
        dataset(tmp_path)


# Version 2 --------------------------------------------------------------------------------------------------


def reben(root: Path, split: str = "train", **options: object) -> BigEarthNet:
    return dataset(root, split, **({"version": 2, "labels": 19, "splits": "auto"} | options))


def test_version_2_follows_its_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_reben(tmp_path, 12)
    parts = [reben(tmp_path, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 3, 3]  # the two last patches have cloud and snow
    train = parts[0]
    assert train.label_names == LABELS_19
    for name, row in zip(train.names.tolist(), train.labels, strict=True):
        i = int(name.rsplit("_", 2)[1])
        assert np.flatnonzero(row).tolist() == sorted([i % 19, (i + 1) % 19])
    assert train.read(0).shape == (80_000,)
    assert train.mean[0] == 361.0768
    assert len(reben(tmp_path, splits="hashed")) == 6
    lists = write_lists(tmp_path / "lists", train=train.names[:2].tolist(), val=[], test=[])
    with pytest.warns(UserWarning, match="in no list"):
        assert reben(tmp_path, splits=str(lists)).names.tolist() == train.names[:2].tolist()


def test_a_hashed_split_of_version_2_leaves_out_what_its_table_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists or none: it needs none, and nothing is said of them."""
    pytest.importorskip("pyarrow")
    write_reben(tmp_path, 12)
    monkeypatch.setattr(bigearthnet_splits, "SMALL", 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(reben(tmp_path, splits="hashed")) == 6


def test_version_2_names_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_reben(tmp_path, 12)
    patch = next(iter(sorted((tmp_path / "BigEarthNet-S2").glob("*/*_0_40"))))
    patch.rename(patch.with_name("moved"))
    with pytest.raises(DatasetError, match=rf"1 patches of metadata\.parquet are absent .*{patch.name}") as error:
        reben(tmp_path)
    assert error.value.names == (f"absent: {patch.name}",)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DatasetError, match=r"cannot read the table of patches .*metadata\.parquet"):
        reben(tmp_path)
    with pytest.raises(DatasetError, match=r"metadata\.parquet"):
        read_version_2(tmp_path / "absent" / "metadata.parquet")


REBEN = {"patch_id": ["a_1_1", "a_1_2"], "labels": [["Pastures"], []], "split": ["train", "validation"]}


def write_table(path: Path, **columns: object) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(REBEN | columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"labels": [["Pastures"], None]}, "labels is null for a_1_2 where a list of names is expected"),
        ({"labels": ["Pastures", "Pastures"]}, "labels is Pastures for a_1_1 where a list of names is expected"),
        ({"labels": [["Pastures"], [None]]}, "unknown label None"),
        ({"patch_id": ["a_1_1", "a_1_1"]}, "the patch_id a_1_1 stands in several rows"),
        ({"patch_id": ["a_1_1", None]}, "patch_id is None where a name is expected"),
        ({"patch_id": [1, 2]}, "patch_id is 1 where a name is expected"),
        ({"split": [1, 2]}, "split is 1 for a_1_1 where a name is expected"),
        ({"patch_id": [], "labels": [], "split": []}, "it holds no row"),
    ],
)
def test_rows_that_are_no_patches_are_named(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    path = write_table(tmp_path / "metadata.parquet", **columns)
    with pytest.raises(DatasetError, match=said) as error:
        read_version_2(path)
    assert str(path) in str(error.value)


def test_a_patch_without_split_is_in_none(tmp_path: Path) -> None:
    table = read_version_2(write_table(tmp_path / "metadata.parquet", split=[None, "validation"]))
    assert table.splits is not None
    assert table.splits.tolist() == ["", "val"]
    table = read_version_2(write_table(tmp_path / "none.parquet", split=[None, None]))
    assert table.splits is not None
    assert table.splits.tolist() == ["", ""]


def test_the_table_is_read_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = write_table(tmp_path / "metadata.parquet")
    table = read_version_2(path)
    assert read_version_2(path) is table
    assert table.splits is not None
    assert not any(array.flags.writeable for array in (table.names, table.labels, table.splits))
    assert table.labels.any(1).tolist() == [True, False]
    write_table(path, labels=[["Pastures"], ["Pastures", "Marine waters"]])
    assert read_version_2(path).labels.sum(1).tolist() == [1, 2]


def test_text_of_the_table_may_be_stored_as_categories_or_views(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    plain = read_version_2(write_table(tmp_path / "plain.parquet"))
    for number, kind in enumerate((pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), pyarrow.large_string())):
        columns = {name: pyarrow.array(REBEN[name], kind) for name in ("patch_id", "split")}
        columns["labels"] = pyarrow.array(REBEN["labels"], pyarrow.list_(kind))
        stored = read_version_2(write_table(tmp_path / f"{number}.parquet", **columns))
        assert all(map(np.array_equal, stored, plain))
    view = pyarrow.array(["a", None], pyarrow.string_view())
    assert bigearthnet_parquet._plain(view).type == pyarrow.string()


def test_snow_and_clouds_of_the_table_leave_patches_out(tmp_path: Path) -> None:
    flags = {"contains_seasonal_snow": [None, False], "contains_cloud_or_shadow": [False, True]}
    table = read_version_2(write_table(tmp_path / "metadata.parquet", **flags))
    assert table.splits is not None
    assert table.splits.tolist() == ["train", ""]


@pytest.mark.parametrize("kind", ["text", "numbers", "mixed case"])
def test_flags_of_snow_and_cloud_may_be_text_or_numbers(tmp_path: Path, kind: str) -> None:
    """As a way through CSV leaves them: 'False' is no snow."""
    flags: dict[str, list[object]] = {
        "text": {"contains_seasonal_snow": ["False", "True"], "contains_cloud_or_shadow": ["False", ""]},
        "numbers": {"contains_seasonal_snow": [0, 1], "contains_cloud_or_shadow": [0.0, None]},
        "mixed case": {"contains_seasonal_snow": ["false", "TRUE"], "split": ["Train", "TEST"]},
    }[kind]
    table = read_version_2(write_table(tmp_path / "metadata.parquet", **flags))
    assert table.splits.tolist() == ["train", ""]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"contains_seasonal_snow": ["no", "yes"]}, "contains_seasonal_snow is 'no' for a_1_1 where one of true, 1"),
        ({"contains_cloud_or_shadow": [0, 2]}, "contains_cloud_or_shadow is 2 for a_1_2 where one of"),
        ({"split": ["train", "dev"]}, "split is 'dev' for a_1_2 where one of train, validation, val, test, or nothing"),
    ],
)
def test_columns_that_decide_are_checked(tmp_path: Path, columns: dict[str, list[object]], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_version_2(write_table(tmp_path / "metadata.parquet", **columns))


def test_lists_of_labels_of_any_kind(tmp_path: Path) -> None:
    """As polars and others store them: codes, views, fixed sizes."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    rows = [["Pastures"], ["Marine waters"]]
    for kind in (
        pyarrow.list_(pyarrow.dictionary(pyarrow.uint32(), text)),
        pyarrow.large_list(pyarrow.dictionary(pyarrow.uint8(), pyarrow.large_string())),
        pyarrow.list_(pyarrow.string_view()),
        pyarrow.list_view(text),
        pyarrow.list_(text, 1),
    ):
        coded = pyarrow.array(rows, pyarrow.list_(text))
        if pyarrow.types.is_dictionary(kind.value_type):
            values = coded.values.dictionary_encode().cast(kind.value_type)
            make = pyarrow.LargeListArray if pyarrow.types.is_large_list(kind) else pyarrow.ListArray
            column = make.from_arrays(coded.offsets, values)
        else:
            column = pyarrow.array(rows, kind)
        stored = bigearthnet_parquet._plain_lists(column)
        assert stored.to_pylist() == rows, kind
        pyarrow.parquet.write_table(pyarrow.table(REBEN | {"labels": column}), tmp_path / "metadata.parquet")
        read = read_version_2(tmp_path / "metadata.parquet")
        assert [[name for name, flag in zip(LABELS_19, row, strict=True) if flag] for row in read.labels] == rows, kind


@pytest.mark.parametrize(
    "text",
    [
        "patch,labels\n{0},x\n{1},y\n",
        ",0\n0,{0}\n1,{1}\n",
        "0\n{0}\n{1}\n",
        "S2_name,S1_name\n{0},a\n{1},b\n",
        "{0},a\n{1},b\n",
    ],
)
def test_lists_with_a_header_of_pandas(tmp_path: Path, text: str) -> None:
    """Also beside a small archive, where a list that is not whole once meant another split."""
    root = write_bigearthnet(tmp_path / "v1", 10, bands=False)
    names = sorted(patch_names(10))
    for place, split in enumerate(("train", "val", "test")):
        (root / f"{split}.csv").write_text(text.format(*names[2 * place : 2 * place + 2]))
    with pytest.warns(UserWarning, match="4 patches are in no list"):
        assert sorted(dataset(root, "val", splits="auto").names) == names[2:4]


@pytest.mark.parametrize("place", ["patches", "patches/splits", "splits"])
def test_some_of_the_lists_are_no_reason_for_another_split(tmp_path: Path, place: str) -> None:
    root = write_bigearthnet(tmp_path / "patches", 10, bands=False)
    write_lists(tmp_path / place, train=sorted(patch_names(10))[:4])
    with pytest.raises(DatasetError, match=r"holds train\.csv and no val\.csv and test\.csv: all three .* hashed"):
        dataset(root, splits="auto")
    assert len(dataset(root, splits="hashed")) == 6


def test_a_list_with_one_name_too_many_is_no_reason_for_another_split(tmp_path: Path) -> None:
    root = write_bigearthnet(tmp_path / "v1", 10, bands=False)
    names = sorted(patch_names(10))
    for place, split in enumerate(("train", "val", "test")):
        absent = "S2A_MSIL2A_20170613T101031_99_99\n" if split == "val" else ""
        (root / f"{split}.csv").write_text("".join(f"{name}\n" for name in names[3 * place : 3 * place + 3]) + absent)
    with pytest.raises(DatasetError, match=r"1 patches of .*val\.csv are absent \(S2A_MSIL2A_20170613T101031_99_99"):
        dataset(root, "val", splits="auto")


def test_names_of_patches_may_be_any_utf_8(tmp_path: Path) -> None:
    table = read_version_2(write_table(tmp_path / "metadata.parquet", patch_id=["é_1_1", "a_1_2"]))
    assert decoded(table.names).tolist() == ["a_1_2", "é_1_1"]
    root = write_bigearthnet(tmp_path / "v1", 10, bands=False)
    write_labels(root / "S2A_é", ["Pastures"])
    assert "S2A_é" in np.concatenate([dataset(root, split).names for split in ("train", "val", "test")])
    names = ["S2A_é", *patch_names(10)]
    lists = write_lists(tmp_path / "lists", train=names[:4], val=names[4:7], test=names[7:])
    assert "S2A_é" in dataset(root, splits=str(lists)).names
    write_lists(lists, train=["S2A_ü"])
    with pytest.raises(DatasetError, match=r"1 patches of .* are absent \(S2A_ü\)"):
        dataset(root, splits=str(lists))
    write_labels(root / os.fsdecode(b"S2A_\xff"), ["Pastures"])
    with pytest.raises(DatasetError, match=r"S2A_\\xff is not UTF-8"):
        dataset(root)


def test_nothing_is_located_among_no_names() -> None:
    rows, absent = locate(np.zeros(0, "S1"), np.array(["a", "b"]))
    assert (rows.tolist(), absent.tolist()) == ([], ["a", "b"])


def test_a_query_may_hold_no_more_than_the_bands_of_the_run(tmp_path: Path) -> None:
    root = write_bigearthnet(tmp_path / "data", 10)
    like = dataset(root, bands="B08,B11")
    patch = tmp_path / "query"
    patch.mkdir()
    for band in ("B08", "B11"):
        write = f"{patch_names(10)[0]}_{band}.tif"
        (patch / write).write_bytes((root / patch_names(10)[0] / write).read_bytes())
        (patch / f"._{write}").write_bytes(b"\0\5\x16\7")  # of macOS
    query = PatchFolder(patch, like)
    assert query.read(0).shape == like.item_shape
    shown = query.thumbnail(0, 32)
    assert shown.shape == (32, 32, 3)
    assert (shown == shown[..., :1]).all(), "one band, in gray"
