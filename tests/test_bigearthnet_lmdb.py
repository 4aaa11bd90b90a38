"""Patches in an LMDB of rico-hdl: the pixels of the folder, in other processes too, and what is missing is named."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch.utils.data import DataLoader

from datasets.base import SPLITS
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.bigearthnet.lmdb_patches import LmdbPatches, find_lmdb
from datasets.bigearthnet.nomenclature import BAND_SIDES
from datasets.files.geotiff import read_band
from datasets.prepared.array import open_prepared
from datasets.prepared.from_files import prepare
from tests.miniatures import write_reben
from utilities.errors import DatasetError, UserError

lmdb = pytest.importorskip("lmdb")


def write_lmdb(folder, patches):
    """name -> bands as rico-hdl writes them, with a patch of Sentinel-1 among them."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for name, bands in patches.items():
            transaction.put(name.encode(), save(bands))
        radar = {band: np.zeros((120, 120), np.float32) for band in ("VH", "VV")}
        transaction.put(b"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", save(radar))


def read_patches(root):
    return {
        folder.name: {band: read_band(f"{folder}/{folder.name}_{band}.tif", side) for band, side in BAND_SIDES.items()}
        for folder in sorted((root / "BigEarthNet-S2").glob("*/*"))
    }


@pytest.fixture
def both(tmp_path):
    """The same patches in folders and in an LMDB."""
    plain = write_reben(tmp_path / "plain", 12)
    packed = tmp_path / "packed"
    write_lmdb(packed / "BigEarthNet-V2-LMDB", read_patches(plain))
    shutil.copy(plain / "metadata.parquet", packed)
    return plain, packed


def dataset(root, split="train", bands="all"):
    return BigEarthNet(source_path=root, split=split, labels=19, bands=bands, version=2, splits="auto", index_path=None)


@pytest.mark.parametrize("bands", ["all", "rgb", "B11,B01"])
def test_pixels_labels_and_thumbnails_are_those_of_the_folder(both, bands):
    for split in SPLITS:
        plain, packed = (dataset(root, split, bands) for root in both)
        assert packed.names.tolist() == plain.names.tolist()
        assert np.array_equal(packed.labels, plain.labels)
        rows = list(range(len(plain)))
        assert torch.equal(packed.__getitems__(rows).images, plain.__getitems__(rows).images)
        assert np.array_equal(packed.thumbnail(0), plain.thumbnail(0))


def as_is(batch):
    return batch


def test_workers_open_it_themselves(both):
    plain, packed = (dataset(root) for root in both)
    packed.read(0)  # opened here, before the workers begin
    loader = DataLoader(
        packed, batch_sampler=[[1, 0], [2, 3]], collate_fn=as_is, num_workers=1, multiprocessing_context="fork"
    )
    for batch, rows in zip(loader, ([1, 0], [2, 3]), strict=True):
        assert torch.equal(batch.images, plain.__getitems__(rows).images)
    travelling = pickle.dumps(packed._lmdb)
    assert len(travelling) < 1000, "the path travels"
    assert np.array_equal(
        pickle.loads(travelling).read(str(packed.names[0]), ("B02",))[0], packed.read(0)[400:14_800].reshape(120, 120)
    )


def test_the_array_can_be_prepared_from_it(both):
    plain, packed = ([dataset(root, split) for split in SPLITS] for root in both)
    folder = prepare(packed, None, processes=0, skip_broken=False)
    packed[0].pixels = open_prepared(packed[0], folder)
    assert torch.equal(packed[0].__getitems__([0, 1]).images, plain[0].__getitems__([0, 1]).images)


def test_a_patch_that_is_listed_and_absent_is_named(both, tmp_path):
    patches = read_patches(both[0])
    name = dataset(both[0]).names[0]
    del patches[name]
    shutil.rmtree(both[1] / "BigEarthNet-V2-LMDB")
    write_lmdb(both[1] / "BigEarthNet-V2-LMDB", patches)
    with pytest.raises(DatasetError, match=rf"1 patches of metadata\.parquet are absent .*{name}"):
        dataset(both[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bands: bands.pop("B8A"), "has no band B8A"),
        (lambda bands: bands.update(B8A=bands["B8A"][:30]), "is 30 x 60 uint16 where 60 x 60 uint16"),
        (lambda bands: bands.update(B8A=bands["B8A"].astype(np.float32)), "is 60 x 60 float32 where"),
    ],
)
def test_a_band_that_is_missing_or_wrong_is_named(tmp_path, change, said):
    bands = {band: np.zeros((side, side), np.uint16) for band, side in BAND_SIDES.items()}
    change(bands)
    write_lmdb(tmp_path / "a", {"S2A_patch": bands})
    patches = LmdbPatches(tmp_path / "a")
    with pytest.raises(DatasetError, match=f"S2A_patch.*{said}|B8A of S2A_patch.*{said}"):
        patches.read("S2A_patch", tuple(BAND_SIDES))
    with pytest.raises(DatasetError, match="S2A_other is not in"):
        patches.read("S2A_other", ("B01",))


def test_what_else_lies_beside_the_bands_may_be_of_any_type(tmp_path):
    """A tensor of bf16, which numpy has no type for, is nobody's business until it is asked for."""
    import torch
    from safetensors.torch import save

    value = save(
        {"B01": torch.full((20, 20), 7, dtype=torch.uint16), "B02": torch.zeros(120, 120, dtype=torch.bfloat16)}
    )
    with lmdb.open(str(tmp_path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"S2A_patch", value)
    patches = LmdbPatches(tmp_path)
    assert (patches.read("S2A_patch", ("B01",))[0] == 7).all()
    with pytest.raises(DatasetError, match=r"B02 of S2A_patch .* is 120 x 120 bfloat16 where 120 x 120 uint16"):
        patches.read("S2A_patch", ("B02",))


def test_damaged_values_and_files_are_named(tmp_path):
    write_lmdb(tmp_path / "a", {"S2A_patch": {"B01": np.zeros((20, 20), np.uint16)}})
    with lmdb.open(str(tmp_path / "a"), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"S2A_patch", transaction.get(b"S2A_patch")[:-5])
    with pytest.raises(DatasetError, match="cannot read the patch S2A_patch"):
        LmdbPatches(tmp_path / "a").read("S2A_patch", ("B01",))
    os.truncate(tmp_path / "a" / "data.mdb", 3 * 4096)
    with pytest.raises(DatasetError, match="is cut off after"):
        LmdbPatches(tmp_path / "a").read("S2A_patch", ("B01",))
    (tmp_path / "a" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DatasetError, match="cannot open the LMDB"):
        LmdbPatches(tmp_path / "a").read("S2A_patch", ("B01",))


def test_the_database_is_found_in_its_folder(tmp_path):
    assert find_lmdb(tmp_path) is None
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert find_lmdb(tmp_path) == (tmp_path / "a" if name == "b" else None)
        (tmp_path / name / "data.mdb").write_bytes(b"")
    assert find_lmdb(tmp_path / "b") == tmp_path / "b"
    with pytest.raises(UserError, match=r"several LMDBs \(a, b\)"):
        find_lmdb(tmp_path)
