"""`from architectures import load_network`: a saved run in Python embeds what `--query` embeds, to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_model
from architectures import load_network
from datasets.network_input import Prepare
from tests.miniatures import write_patch
from tests.scripts import ROOT, run_inside
from utilities.errors import UserError
from utilities.runs import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*are split 60/20/20")


def searched(monkeypatch, folder, query, *argv):
    """The embedding that `--query` searches for."""
    found = []
    monkeypatch.setattr(evaluate_model, "search_each", lambda examples, asked, *rest, **more: found.append(asked))
    fixed = ("--num_workers", 0, "--precision", "fp32")
    run_inside("evaluate_model", "--load_from_checkpoint", folder, *fixed, "--query", query, *argv)
    return found[0].embeddings


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_photograph_as_path_array_and_tensor(demo_run, tmp_path, monkeypatch, name):
    folder, path = demo_run[1], tmp_path / "elsewhere.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    wanted = searched(monkeypatch, folder, path, "--checkpoint", name)
    network, prepare = load_network(folder, name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for image in (str(path), path, pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels).permute(2, 0, 1)):
        found = network.embed(prepare(image))
        assert torch.equal(found, wanted)
        assert not found.requires_grad
    torch.set_num_threads(threads)
    for wrong in (pixels[:, :, :2], pixels.astype(np.float32), pixels[0]):
        with pytest.raises(UserError, match=r"no photograph; give uint8, \(H, W, 3\)"):
            prepare(wrong)
    with pytest.raises(UserError, match=r"nowhere\.png is not there"):
        prepare("nowhere.png")


def test_a_patch_as_folder_and_as_bands(sentinel_run, tmp_path, monkeypatch):
    source, folder = sentinel_run
    patch = next(path for path in sorted(source.iterdir()) if any(path.glob("*_B02.tif")))
    elsewhere = tmp_path / patch.name.replace("S2", "X2")
    elsewhere.symlink_to(patch)  # a patch of the archive would be searched for by the embedding of its split
    wanted = searched(monkeypatch, folder, elsewhere)
    network, prepare = load_network(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(network.embed(prepare(elsewhere)), wanted)
    bands = [np.asarray(Image.open(next(patch.glob(f"*_{band}.tif")))) for band in network.bands]
    stacked = np.stack([band.repeat(120 // len(band), 0).repeat(120 // len(band), 1) for band in bands])
    assert torch.equal(network.embed(prepare(stacked)), wanted)
    assert torch.equal(network.embed(prepare(torch.from_numpy(stacked.astype(np.int32)))), wanted)
    torch.set_num_threads(threads)
    with pytest.raises(UserError, match=r"no patch of this run; give digital numbers \(12, 120, 120\)"):
        prepare(stacked[:3])


def test_a_checkpoint_of_before_says_less_of_its_data(demo_run, monkeypatch):
    """The keys that were added since."""
    load = checkpoint.load
    image = np.zeros((48, 48, 3), np.uint8)
    network, prepare = load_network(demo_run[1])
    now = network.embed(prepare(image))

    def before(folder, name):
        payload = load(folder, name)
        known = ("label_names", "bands", "mean", "std", "image_size", "resize_to", "per_image_normalisation")
        return payload | {"data": {key: payload["data"][key] for key in known}}

    monkeypatch.setattr(checkpoint, "load", before)
    network, prepare = load_network(demo_run[1])
    assert torch.equal(network.embed(prepare(image)), now)


def test_the_python_of_the_readme_embeds(demo_run, tmp_path):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    Image.new("RGB", (60, 60)).save(tmp_path / "image.jpg")
    names: dict = {}
    exec(code.replace("RUN", str(demo_run[1])).replace("image.jpg", str(tmp_path / "image.jpg")), names)
    assert names["embeddings"].shape == (1, 16)
    torch.testing.assert_close(names["embeddings"].norm(dim=1), torch.ones(1))


def test_the_offset_is_taken_off_arrays_as_off_files(tmp_path):
    """A run with --boa_offset knows digital numbers without it, whichever way they are given."""
    patch = tmp_path / "patch"
    stored = write_patch(patch, np.random.default_rng(0))
    bands = ["B02", "B05"]
    data = {"bands": bands, "label_names": ["a"], "mean": [0, 0], "std": [1, 1], "image_size": 100, "resize_to": 120}
    run = {"dataset": "BigEarthNet", "channels_last": False, "boa_offset": 1000}
    prepare = Prepare(run, {**data, "per_image_normalisation": False})
    pixels = np.stack([stored["B02"], stored["B05"].repeat(2, 0).repeat(2, 1)])
    wanted = prepare(patch)
    assert torch.equal(prepare(pixels), wanted)
    assert torch.equal(prepare(torch.from_numpy(pixels.astype(np.float32))), wanted)
    middle = np.where(pixels > 1000, pixels - 1000.0, 0)[:, 10:110, 10:110]
    assert torch.equal(wanted[0], torch.from_numpy(middle).float())
    own = {"dataset": "Folder", "folder_side": 120, "folder_band_scale": [0.0, 1.0], "channels_last": False}
    scaled = Prepare({**own, "boa_offset": 1000}, {**data, "per_image_normalisation": False})(pixels)
    assert torch.equal(scaled[0], torch.from_numpy(pixels[:, 10:110, 10:110]).float()), "no offset of scaled values"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        load_network(Path(tmp_path))
    with pytest.raises(UserError, match="no checkpoint 'initial' of a run; choices: best, last"):
        load_network(Path(tmp_path), "initial")
