"""`open_loader`: each flag that changes images changes what it should, and nothing else. Labels that say nothing."""

import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import parameters
from datasets.base import RetrievalDataset
from datasets.batches.transforms import Augmentation
from datasets.check.inspect import about_labels
from datasets.open import open_loader, refuse_alike
from tests.scripts import TINY, run_inside
from utilities.errors import UserError

CPU = torch.device("cpu")


class Noise(RetrievalDataset):
    """Four RGB images of 32 px, a band's values around its own mean."""

    title = "noise"

    def __init__(self, folder):
        super().__init__(source_path=folder, split="train")
        self.bands, self.band_sides, self.dtype = ("R", "G", "B"), (32, 32, 32), np.dtype("uint8")
        self.mean, self.std = (60.0, 90.0, 120.0), (15.0, 15.0, 15.0)
        self.names, self.label_names = np.array(list("abcd")), ("label",)
        self.labels = np.ones((4, 1), bool)

    def read(self, row):
        noise = np.random.default_rng(row).integers(-25, 25, (3, 32, 32))
        return (noise + np.array(self.mean).reshape(3, 1, 1) + 10 * row).astype(np.uint8)


def loader(folder, *argv):
    common = ["--weights", "none", "--image_size", "16", "--resize_to", "32", "--num_workers", "0"]
    return open_loader(parameters.parse("baseline", [*common, *argv]), Noise(folder), CPU)


def trained(feed, epoch=0):
    ((_, batch),) = feed.training([np.arange(4)], seed=0, epoch=epoch)
    return batch.images


def evaluated(feed):
    (batch,) = feed.evaluation(np.arange(4), 4)
    return batch.images


def test_without_flags_images_are_whole_crops_by_the_statistics_of_the_data_set(tmp_path):
    feed = loader(tmp_path)
    assert feed.augmentation == Augmentation(None, flips=True, jitter=0.0)
    stored = np.stack([feed.dataset.read(row) for row in range(4)])[..., 8:24, 8:24]
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (feed.dataset.mean, feed.dataset.std))
    np.testing.assert_allclose(evaluated(feed), (stored - mean) / std, atol=1e-5)
    assert [trained(feed, epoch).shape[-1] for epoch in (0, 1)] == [16, 16]


def test_per_image_normalisation_holds_in_training_in_small_epochs_and_in_evaluation(tmp_path):
    feed = loader(tmp_path, "--per_image_normalisation", "--small_epochs", "1")
    for images in (trained(feed), trained(feed, 1), evaluated(feed)):
        torch.testing.assert_close(images.mean((2, 3)), torch.zeros(4, 3), atol=1e-4, rtol=0)
        torch.testing.assert_close(images.std((2, 3)), torch.ones(4, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--crop_area", "0.3", "0.6"], Augmentation([0.3, 0.6])),
        (["--no_flips"], Augmentation(flips=False)),
        (["--color_jitter", "0.3"], Augmentation(jitter=0.3)),
    ],
)
def test_augmentation_is_what_its_flag_says_and_leaves_evaluation_alone(tmp_path, flags, changed):
    feed, plain = loader(tmp_path, *flags), loader(tmp_path)
    assert feed.augmentation == changed
    assert not torch.equal(trained(feed), trained(plain))
    assert torch.equal(evaluated(feed), evaluated(plain))


@pytest.mark.parametrize(("flags", "side", "resized"), [([], 8, 16), (["--small_image_size", "12"], 12, 24)])
def test_small_epochs_are_small_in_proportion_and_the_others_are_as_without(tmp_path, flags, side, resized):
    feed, plain = loader(tmp_path, "--small_epochs", "2", *flags), loader(tmp_path)
    assert [trained(feed, epoch).shape[-1] for epoch in range(3)] == [side, side, 16]
    assert feed.small[1].resize_to == resized
    assert torch.equal(trained(feed, 2), trained(plain, 2))
    assert torch.equal(evaluated(feed), evaluated(plain))


def test_labels_that_tell_no_images_apart_are_refused_and_noted():
    """Whatever the method: SNDL would train on them to zeros."""

    def split(labels: list[list[int]]) -> Any:
        rows = np.asarray(labels, bool)
        return type("Split", (), {"labels": rows, "label_names": ("sea", "sand"), "split": "train",
                                  "__len__": lambda self: len(rows)})()  # fmt: skip

    with pytest.raises(UserError, match="none of the 3 images of the train split carries a label"):
        refuse_alike(split([[0, 0]] * 3))
    with pytest.raises(UserError, match=r"all 3 images of the train split carry the same labels \(sea\)"):
        refuse_alike(split([[1, 0]] * 3))
    refuse_alike(split([[1, 0], [1, 0], [0, 0]]))
    assert "all 3 images of train carry the same labels: nothing tells them apart" in about_labels(
        [split([[1, 1]] * 3)]
    )
    assert not about_labels([split([[1, 1], [1, 0]])])


def test_a_run_on_images_without_any_label_is_refused(demo_run, tmp_path):
    shutil.copytree(demo_run[0], tmp_path / "Demo")
    for table in (tmp_path / "Demo" / "labels").glob("*.csv"):
        head, *rows = table.read_text().splitlines()
        table.write_text("\n".join([head, *(re.sub(",1", ",0", row) for row in rows)]) + "\n")
    given = ["--source_path", tmp_path, "--save_path", tmp_path / "runs", *TINY]
    done = run_inside("train_sndl", *given, code=2)
    assert "images of the train split carries a label" in done.stderr
    assert not (tmp_path / "runs").exists()
