"""UC Merced: label file, stored split and pixels, on a miniature and on the real archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DATASETS
from datasets.files.label_csv import read_label_file
from datasets.files.split_lists import hashed_split, names_fingerprint, read_stored_split, write_stored_split
from datasets.ucmerced import dataset as ucmerced
from datasets.ucmerced.dataset import LABELS, STORED_SPLITS, UCMerced
from tests.miniatures import SHARED, write_photograph, write_ucmerced
from utilities.errors import DatasetError

REAL = SHARED / "UCMerced"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no UC Merced in {REAL}")


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a small UC Merced and a stored split that belongs to it."""

    def write(**options: object) -> Path:
        root = write_ucmerced(tmp_path / "data", **options)  # type: ignore[arg-type]
        names = read_label_file(root / "LandUse_Multilabeled.txt", "\t").names
        scenes = np.asarray([name[:-2] for name in names])
        write_stored_split(tmp_path / "splits", names, hashed_split(names, scenes, (70, 10, 20), seed=0))
        monkeypatch.setattr(ucmerced, "STORED_SPLITS", tmp_path / "splits")
        return root

    return write


def test_stored_split_is_seeded_and_holds_70_10_20_of_every_scene() -> None:
    parts = [read_stored_split(STORED_SPLITS, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1470, 210, 420]
    names = np.concatenate(parts)
    assert len(set(names.tolist())) == 2100
    scenes = np.asarray([name[:-2] for name in names])
    part = hashed_split(names, scenes, (70, 10, 20), seed=0)
    assert part.tolist() == [0] * 1470 + [1] * 210 + [2] * 420
    for scene in set(scenes.tolist()):
        assert np.bincount(part[scenes == scene]).tolist() == [70, 10, 20]


def test_how_much_of_grns_test_split_chose_the_settings_of_the_study() -> None:
    """What docs/study.md says of it: those settings were chosen on val of the stored split."""
    parts = {split: read_stored_split(STORED_SPLITS, split).tolist() for split in ("train", "val", "test")}
    files = {name: f"{name[:-2]}/{name}.tif" for part in parts.values() for name in part}
    tested = set(ucmerced.grn_split(files)["test"])
    shared = len(tested & set(parts["val"]))
    text = " ".join((Path(__file__).parent.parent / "docs" / "study.md").read_text().split())
    assert f"{shared} of its {len(tested)} test images are among the {len(parts['val'])} of val" in text


def test_a_changed_split_file_is_refused(tmp_path: Path) -> None:
    names = np.asarray([f"beach{i:02d}" for i in range(10)])
    write_stored_split(tmp_path, names, hashed_split(names, np.zeros(10, int), (70, 10, 20), seed=0))
    assert len(read_stored_split(tmp_path, "train")) == 7
    (tmp_path / "train.txt").write_text((tmp_path / "train.txt").read_text() + "beach99\n")
    with pytest.raises(DatasetError, match=r"train\.txt was changed"):
        read_stored_split(tmp_path, "train")


@needs_real
def test_the_real_archive() -> None:
    parts = {split: UCMerced(source_path=REAL, split=split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1470, "val": 210, "test": 420}
    labels = np.concatenate([part.labels for part in parts.values()])
    assert labels.sum(1).mean() == pytest.approx(3.335, abs=5e-4)  # published
    assert (labels.sum(1).min(), labels.sum(1).max()) == (1, 7)
    assert all((part.labels.sum(0) > 0).all() for part in parts.values())
    train = parts["train"]
    row = train.names.tolist().index("airplane00")
    assert train.labels[row, LABELS.index("airplane")]
    assert names_fingerprint(train.names.tolist()) == names_fingerprint(read_stored_split(STORED_SPLITS, "train"))
    batch = train.__getitems__([row, 3])
    assert batch.images.shape == (2, 3, 256, 256)
    assert 40 < batch.images.float().mean() < 200


@needs_real
def test_an_image_of_another_size_is_resized() -> None:
    for split in ("train", "val", "test"):
        data = UCMerced(source_path=REAL, split=split)
        for row in range(len(data)):
            with Image.open(data.path(row)) as image:
                if image.size != (256, 256):
                    expected = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
                    assert (data.read(row).transpose(1, 2, 0) == np.asarray(expected)).all()
                    return
    pytest.fail("the archive holds 48 images of another size; none was found")


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
def test_images_of_any_format_are_found(miniature: Callable[..., Path], suffix: str) -> None:
    root = miniature(suffix=suffix)
    data = UCMerced(source_path=root, split="train")
    assert len(data) == 14
    assert data.path(0).suffix == suffix
    assert data.read(0).shape == (3, 256, 256)
    assert data.thumbnail(0, 64).shape == (64, 64, 3)
    lines = (root / "LandUse_Multilabeled.txt").read_text().splitlines()[1:]
    flags = {line.split("\t")[0]: [int(v) for v in line.split("\t")[1:18]] for line in lines}
    assert data.labels.astype(int).tolist() == [flags[name] for name in data.names.tolist()]


def test_it_is_built_from_the_registry(miniature: Callable[..., Path]) -> None:
    data = DATASETS.build("UCMerced", {}, source_path=miniature(), split="val", split_rule="hashed")
    assert (len(data), data.label_names) == (2, LABELS)


def test_absent_unlisted_and_doubled_images_are_named(miniature: Callable[..., Path]) -> None:
    root = miniature()
    folder = root / "Images" / "beach"
    (folder / "beach03.tif").rename(folder / "beach 77.tif")
    with pytest.raises(DatasetError, match=r"absent \(beach03\); 1 present but unlisted \(beach 77\)"):
        UCMerced(source_path=root, split="train")
    (folder / "beach 77.tif").rename(folder / "beach03.tif")
    write_photograph(folder / "beach03.png", np.random.default_rng(0))
    with pytest.raises(DatasetError, match=r"beach03 twice: beach/beach03\.png and beach/beach03\.tif"):
        UCMerced(source_path=root, split="train")


def test_an_archive_other_than_that_of_the_stored_split_is_refused(tmp_path: Path) -> None:
    root = write_ucmerced(tmp_path)
    with pytest.raises(DatasetError, match=r"not those of the stored splits: 2,080 listed but absent") as error:
        UCMerced(source_path=root, split="train")
    named = [Path(name.removeprefix("absent: ")).relative_to(root / "Images") for name in error.value.names]
    assert len(named) == 2_080
    assert all(path.parent.name == path.name.rstrip("0123456789") for path in named), "as beach/beach05"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bare-soil", "bare soil", "unknown column 'bare soil'"),
        ("\twater\t", "\t", "17 values where the header names 16 labels"),
        ("\t1\t\r\n", "\t\r\n", "16 values"),
        ("beach01", "beach00", "beach00 is listed more than once"),
    ],
)
def test_a_wrong_label_file_is_named(miniature: Callable[..., Path], old: str, new: str, words: str) -> None:
    root = miniature()
    path = root / "LandUse_Multilabeled.txt"
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(DatasetError, match=words) as caught:
        UCMerced(source_path=root, split="train")
    assert "LandUse_Multilabeled.txt" in str(caught.value)


@pytest.mark.parametrize("missing", ["LandUse_Multilabeled.txt", "Images"])
def test_a_folder_that_is_no_uc_merced_is_named(miniature: Callable[..., Path], missing: str) -> None:
    root = miniature()
    (root / missing).rename(root / "other")
    with pytest.raises(DatasetError, match=f"holds no .*{missing}"):
        UCMerced(source_path=root, split="train")


def test_a_truncated_image_is_named(miniature: Callable[..., Path]) -> None:
    data = UCMerced(source_path=miniature(suffix=".jpg"), split="train")
    data.path(2).write_bytes(data.path(2).read_bytes()[:150])
    with pytest.raises(DatasetError, match=data.path(2).name):
        data.read(2)
