"""The folder of a data set or the one above it, as one row of a data set, and what is said where neither holds it."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import parameters
from datasets.base import stacked
from datasets.batches.transforms import assemble
from datasets.open import folder_of_data, open_files, open_split
from tests.miniatures import write_bigearthnet, write_mlrsnet, write_reben
from tests.scripts import run_inside
from utilities.errors import DatasetError

pytestmark = pytest.mark.filterwarnings("ignore:.*(are split 60/20/20|no stored split)")


@pytest.fixture(scope="module")
def above(tmp_path_factory):
    """PATH/Dataset of the original's README, in small."""
    root = tmp_path_factory.mktemp("Dataset")
    write_mlrsnet(root / "MLRSNet")
    write_bigearthnet(root / "BigEarthNet", 10)
    (root / "BigEarthNet-splits").mkdir()
    return root


def settings(dataset, source, *more):
    flags = ["--dataset", dataset, "--source_path", str(source), "--mlrsnet_labels", "as_is", "--ben_splits", "hashed"]
    return parameters.parse("baseline", [*flags, *map(str, more)])


@pytest.mark.parametrize("dataset", ["MLRSNet", "BigEarthNet"])
def test_the_folder_above_does_as_well_as_the_data_set_s_own(above, dataset):
    one, other = (open_split(settings(dataset, source), "train") for source in (above, above / dataset))
    assert one.source_path == other.source_path == above / dataset
    assert np.array_equal(one.read(0), other.read(0))
    assert one.fingerprint() == other.fingerprint()


def test_where_both_would_do_the_folder_itself_wins(above, tmp_path):
    write_mlrsnet(tmp_path, seed=1)
    shutil.copytree(above / "MLRSNet", tmp_path / "MLRSNet")
    assert folder_of_data(settings("MLRSNet", tmp_path)) == tmp_path
    reben = write_reben(tmp_path / "two")
    (reben / "BigEarthNet").mkdir()
    assert folder_of_data(settings("BigEarthNet", reben, "--ben_version", 2)) == reben


def test_an_archive_in_the_folder_above(above, tmp_path):
    """Prepared in its own folder; one beside the unpacked folder is read only with --use_npmem."""
    inner = tmp_path / "a" / "MLRSNet"
    inner.mkdir(parents=True)
    with tarfile.open(inner / "MLRSNet.tar", "w") as tar:
        tar.add(above / "MLRSNet", "MLRSNet")
    packed = open_split(settings("MLRSNet", tmp_path / "a", "--use_npmem"), "train")
    assert packed.pixels.folder.parent == inner / ".cache"
    plain = open_split(settings("MLRSNet", above), "train")
    assert packed.names.tolist() == plain.names.tolist()
    assert np.array_equal(packed[0].pixels, plain[0].pixels)
    beside = tmp_path / "b"
    beside.mkdir()
    shutil.copy(inner / "MLRSNet.tar", beside)
    shutil.copytree(above / "MLRSNet", beside / "MLRSNet")
    assert folder_of_data(settings("MLRSNet", beside)) == beside / "MLRSNet"
    assert folder_of_data(settings("MLRSNet", beside, "--use_npmem")) == beside


@pytest.mark.parametrize("dataset", ["MLRSNet", "BigEarthNet", "UCMerced"])
def test_a_message_names_both_places(tmp_path, dataset):
    for made in (tmp_path, tmp_path / dataset):
        made.mkdir(exist_ok=True)
        with pytest.raises(DatasetError) as error:
            open_files(settings(dataset, tmp_path), "train")
        assert f"looked at {tmp_path} and {tmp_path / dataset}:" in str(error.value)


def test_the_demo_is_generated_in_the_folder_above(demo_run):
    root = demo_run[0].parent
    flags = ("--demo_images_per_category", 8, "--demo_side", 48)
    folders = {open_files(settings("Demo", source, *flags), "val").source_path for source in (root, root / "Demo")}
    assert folders == {root / "Demo"}


def test_checks_take_the_folder_above(above, tmp_path):
    said = run_inside("datasets.__main__", "MLRSNet", "--source_path", above, "--quick", "--out", tmp_path).stdout
    assert "train" in said


def test_a_data_set_by_rows(above):
    train = open_split(settings("MLRSNet", above), "train")
    item = train[0]
    path = train.path(0)
    assert item.name == path.name == train.names[0]
    assert item.pixels.shape == (3, 256, 256)
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    assert np.array_equal(item.pixels.transpose(1, 2, 0), np.asarray(resized))
    assert np.array_equal(item.labels, train.labels[0])
    assert train[-1].name == train.names[-1]
    assert [each.name for each in train] == train.names.tolist()
    with pytest.raises(IndexError):
        train[len(train)]


def test_bands_of_a_patch_are_stacked_as_the_network_sees_them(above):
    train = open_split(settings("BigEarthNet", above), "train")
    pixels = train[0].pixels
    assert (pixels.shape, pixels.dtype) == ((12, 120, 120), np.uint16)
    seen = assemble(torch.from_numpy(train.read(0).astype(np.float32))[None], train.band_sides)[0]
    assert np.array_equal(pixels, seen.numpy())
    square = np.arange(12).reshape(3, 2, 2)
    assert stacked(square, (2, 2, 2)) is square
