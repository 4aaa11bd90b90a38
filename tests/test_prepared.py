"""The prepared array: equal pixels, resumed after a kill, refused when it does not match, never half-written."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import parameters
from datasets.base import SPLITS, RetrievalDataset
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.mlrsnet.dataset import MLRSNet
from datasets.open import open_data, open_split
from datasets.prepared import array, stage
from datasets.prepared import from_files as from_files
from tests.miniatures import write_bigearthnet, write_mlrsnet
from utilities.errors import DatasetError, RunFailure, UserError
from utilities.files import ABSENT

FORK = multiprocessing.get_context("fork")


class Noise(RetrievalDataset):
    """Image i of all 30 is noise that belongs to i; the splits hold 14, 6 and 10 of them, in scattered order."""

    title, bands, band_sides = "noise", ("R", "G", "B"), (8, 8, 8)
    mean = std = (1.0, 1.0, 1.0)
    dtype = np.dtype("uint8")
    label_names = ("a", "b")

    def __init__(self, tmp_path, split="train", seconds=0.0, broken=()):
        super().__init__(source_path=tmp_path, split=split)
        order = np.random.default_rng(0).permutation(30)
        self.numbers = dict(zip(SPLITS, np.split(order, (14, 20)), strict=True))[split]
        self.names = np.array([f"é {i}" for i in self.numbers])
        self.labels = np.eye(2, dtype=bool)[self.numbers % 2]
        self.seconds, self.broken = seconds, broken

    def files(self, row):
        return ()  # drawn, not stored

    def read(self, row):
        time.sleep(self.seconds)
        if self.numbers[row] in self.broken:
            raise DatasetError(f"{self.names[row]}.jpg is cut off")
        return noise(self.numbers[row])


def noise(number):
    return np.random.default_rng(number).integers(0, 256, (3, 8, 8), dtype=np.uint8)


def splits(tmp_path, **options):
    return [Noise(tmp_path, split, **options) for split in SPLITS]


@pytest.fixture(autouse=True)
def _blocks_of_four(monkeypatch):
    monkeypatch.setattr(stage, "BLOCK_BYTES", 4 * 3 * 8 * 8)


def prepare(tmp_path, *, processes=0, skip_broken=False, **options):
    return from_files.prepare(splits(tmp_path, **options), None, processes=processes, skip_broken=skip_broken)


CORRUPTED = pytest.mark.filterwarnings("ignore:.*corrupted")  # a miniature's labels are drawn at random


def assert_holds_noise(folder, tmp_path):
    """Every image of every split is what `read` gives, through batches in any order."""
    for dataset in splits(tmp_path):
        dataset.pixels = array.open_prepared(dataset, folder)
        rows = np.random.default_rng(1).permutation(len(dataset)).tolist()
        batch = dataset.__getitems__(rows)
        assert np.array_equal(batch.images, [noise(dataset.numbers[row]) for row in rows])
        assert batch.indices.tolist() == rows
        assert np.array_equal(batch.labels, dataset.labels[rows])


# --- what is written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, 2])
def test_every_split_reads_what_its_files_hold(tmp_path, processes, capsys):
    folder = prepare(tmp_path, processes=processes)
    assert_holds_noise(folder, tmp_path)
    said = capsys.readouterr().err
    assert "30 images" in said
    assert "0.0 MB" in said


def test_the_array_is_an_npy_file_in_the_order_of_its_names(tmp_path):
    folder = prepare(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["files.npy", "manifest.json", "names.npy", "pixels.npy"]
    assert folder.parent == tmp_path / ".cache"
    pixels, names = np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "names.npy")
    assert names.tolist() == sorted(f"é {i}".encode() for i in range(30))
    for row, name in enumerate(names):
        assert np.array_equal(pixels[row], noise(int(name.decode().split()[1])))


def test_the_manifest_says_what_the_array_holds(tmp_path):
    manifest = json.loads((prepare(tmp_path) / "manifest.json").read_text())
    assert manifest["shape"] == [30, 3, 8, 8]
    assert manifest["dtype"] == "uint8"
    assert manifest["bands"] == ["R", "G", "B"]
    assert manifest["band_sides"] == [8, 8, 8]
    assert manifest["label_names"] == ["a", "b"]
    assert manifest["fingerprints"] == {split: Noise(tmp_path, split).fingerprint() for split in SPLITS}
    assert manifest["broken"] == []
    assert {"decoder", "format", "libraries", "names_sha256", "finished"} <= manifest.keys()


@pytest.mark.parametrize("bands", ["all", "rgb", "B08,B01"])
def test_sentinel_bands_keep_their_resolution(tmp_path, bands):
    options = {"labels": 43, "bands": bands, "version": 1, "splits": "hashed", "index_path": None}
    write_bigearthnet(tmp_path, 10)
    opened = [BigEarthNet(source_path=tmp_path, split=split, **options) for split in SPLITS]
    folder = from_files.prepare(opened, tmp_path / "elsewhere", processes=0, skip_broken=False)
    if bands == "all":
        header = array.array_start(folder / "pixels.npy")
        assert (folder / "pixels.npy").stat().st_size == header + 10 * 160_000
    for dataset in opened:
        rows = list(range(len(dataset)))
        plain = dataset.__getitems__(rows)
        dataset.pixels = array.open_prepared(dataset, folder)
        prepared = dataset.__getitems__(rows)
        assert prepared.images.dtype == plain.images.dtype
        assert torch.equal(prepared.images, plain.images)


def mlrsnet(root, proportions="40/10/50"):
    return [MLRSNet(source_path=root, split=s, labels="as_is", proportions=proportions) for s in SPLITS]


@CORRUPTED
def test_other_proportions_use_the_same_array(tmp_path):
    root = write_mlrsnet(tmp_path / "M")
    folder = from_files.prepare(mlrsnet(root), None, processes=0, skip_broken=False)
    for dataset in mlrsnet(root, "20/10/70"):
        assert array.prepared_folder(dataset, None) == folder
        plain = dataset.__getitems__([0, 1])
        dataset.pixels = array.open_prepared(dataset, folder)
        assert torch.equal(dataset.__getitems__([0, 1]).images, plain.images)


def test_what_pixels_depend_on_chooses_the_folder(tmp_path):
    one, other = Noise(tmp_path), Noise(tmp_path)
    assert array.prepared_folder(one, None) == array.prepared_folder(Noise(tmp_path, "val"), None)
    other.variant = "v2"
    assert array.prepared_folder(one, None) != array.prepared_folder(other, None)
    other = Noise(tmp_path)
    other.bands = ("B", "G", "R")
    assert array.prepared_folder(one, None) != array.prepared_folder(other, None)


# --- killed, full, shared -------------------------------------------------------------------------------------


def test_a_killed_pass_goes_on_where_it_was(tmp_path, monkeypatch):
    process = FORK.Process(target=prepare, args=(tmp_path,), kwargs={"seconds": 0.02})
    process.start()
    done = array.prepared_folder(Noise(tmp_path), None)
    done = done.with_name(f".{done.name}.partial") / "done"
    deadline = time.monotonic() + 20
    while not (done.exists() and 1 in done.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = done.read_bytes()
    assert 0 < sum(kept) < len(kept), "killed in the middle"
    assert not done.parent.with_name(done.parent.name[1:].removesuffix(".partial")).exists()
    written = []
    write = from_files.write_at
    monkeypatch.setattr(from_files, "write_at", lambda *a: written.append(1) or write(*a))
    assert_holds_noise(prepare(tmp_path), tmp_path)
    assert len(written) == len(kept) - sum(kept), "only what was not done"
    assert not done.parent.exists()


def test_a_pass_killed_before_its_plan_was_written_begins_anew(tmp_path):
    folder = array.prepared_folder(Noise(tmp_path), None)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True)
    (partial / "pixels.npy").write_bytes(b"half a header")
    assert_holds_noise(prepare(tmp_path), tmp_path)


def test_an_unfinished_pass_of_other_images_is_refused_with_the_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(from_files, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    monkeypatch.undo()
    only = [Noise(tmp_path, "train")]
    with pytest.raises(DatasetError, match="images: 30 there, 14 expected"):
        from_files.prepare(only, None, processes=0, skip_broken=False)


def test_a_full_disk_in_the_middle_is_a_failure_and_resumable(tmp_path, monkeypatch):
    write, calls = os.pwrite, []

    def full_after_two(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", full_after_two)
    with pytest.raises(RunFailure, match="No space left"):
        prepare(tmp_path)
    assert not array.prepared_folder(Noise(tmp_path), None).exists()
    monkeypatch.undo()
    assert_holds_noise(prepare(tmp_path), tmp_path)


def test_a_full_disk_in_a_process_of_the_pool_is_a_failure(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunFailure, match="No space left"):
        prepare(tmp_path, processes=2)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[: min(len(data), 100)], at))
    assert_holds_noise(prepare(tmp_path), tmp_path)


def test_a_disk_that_is_too_small_is_refused_with_numbers(tmp_path, monkeypatch):
    free = stage.RESERVE + 30 * 192 - 1
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    with pytest.raises(UserError, match=r"takes 0.0 MB .* has 67.1 MB free.*--cache_path"):
        prepare(tmp_path)
    assert not list((tmp_path / ".cache").glob("Noise*"))


def prepare_and_note(tmp_path, queue):
    count = 0

    class Counted(Noise):
        def read(self, row):
            nonlocal count
            count += 1
            return super().read(row)

    Counted.__name__ = "Noise"
    opened = [Counted(tmp_path, split, seconds=0.01) for split in SPLITS]
    from_files.prepare(opened, None, processes=0, skip_broken=False)
    queue.put(count)


def test_of_two_processes_one_prepares_and_the_other_waits(tmp_path):
    queue = FORK.Queue()
    processes = [FORK.Process(target=prepare_and_note, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = sorted(queue.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    assert counts == [0, 30 + from_files.PROBES]
    assert_holds_noise(array.prepared_folder(Noise(tmp_path), None), tmp_path)


def test_a_read_only_source_asks_for_a_cache_path(tmp_path):
    source = tmp_path / "archive"
    source.mkdir(mode=0o555)
    with pytest.raises(UserError, match="--cache_path"):
        prepare(source)
    folder = from_files.prepare(splits(source), tmp_path / "fast", processes=0, skip_broken=False)
    assert folder.parent == tmp_path / "fast"
    assert_holds_noise(folder, source)


@pytest.mark.parametrize("replaced", ["another source", "in place"])
def test_an_array_of_other_pixels_under_the_same_names_is_refused(tmp_path, monkeypatch, replaced):
    folder = prepare(tmp_path)
    monkeypatch.setattr(Noise, "read", lambda self, row: noise(self.numbers[row]) ^ 0xFF)
    (tmp_path / "elsewhere").mkdir()
    for split in splits(tmp_path if replaced == "in place" else tmp_path / "elsewhere"):
        with pytest.raises(DatasetError, match=r"was prepared from other images: .* another --cache_path"):
            array.open_prepared(split, folder)


def test_an_array_outlives_the_files(tmp_path, monkeypatch):
    folder = prepare(tmp_path)

    def gone(self, row):
        raise DatasetError("cannot read the image: no such file")

    monkeypatch.setattr(Noise, "read", gone)
    for split in splits(tmp_path):
        assert len(array.open_prepared(split, folder).gather([0])) == 1


# --- broken images --------------------------------------------------------------------------------------------


def test_broken_images_are_all_named_and_mended_ones_alone_are_read_again(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"2 images cannot be decoded .*é 21.jpg.*é 5.jpg") as refused:
        prepare(tmp_path, broken=(5, 21))
    assert "--skip_broken_images" in str(refused.value)
    read = []
    monkeypatch.setattr(Noise, "read", lambda self, row: read.append(1) or noise(self.numbers[row]))
    assert_holds_noise(prepare(tmp_path), tmp_path)
    of_opening = sum(min(array.COMPARED, len(split)) for split in splits(tmp_path))  # compared with the array
    assert len(read) == from_files.PROBES + 8 + of_opening, "two blocks of four"


@pytest.mark.filterwarnings("ignore:skipped")
def test_skipped_images_stay_left_out(tmp_path):
    folder = prepare(tmp_path, broken=(5, 21), skip_broken=True)
    assert json.loads((folder / "manifest.json").read_text())["broken"] == ["é 21", "é 5"]
    dataset = next(d for d in splits(tmp_path) if 5 in d.numbers)
    dataset.pixels = array.open_prepared(dataset, folder)
    row = dataset.numbers.tolist().index(5)
    others = [r for r in range(len(dataset)) if r != row][:3]
    with pytest.raises(DatasetError, match="é 5 could not be decoded"):
        dataset.__getitems__([others[0], row])
    dataset.skip_broken = True
    batch = dataset.__getitems__([others[0], row, others[1]])
    assert batch.indices.tolist() == others[:2]
    assert np.array_equal(batch.images, [noise(dataset.numbers[r]) for r in others[:2]])


# --- what does not match --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", 0, "format: 0 there, 1 expected"),
        ("decoder", 7, "decoder: 7 there, 1 expected"),
        ("bands", ["B", "G", "R"], "bands"),
        ("item_shape", [3, 9, 9], "item_shape"),
        ("names_sha256", "0", "not the list"),
        ("images", 31, "bytes"),
    ],
)
def test_a_manifest_that_does_not_match_is_refused_with_the_difference(tmp_path, key, value, said):
    folder = prepare(tmp_path)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DatasetError, match=said):
        array.open_prepared(Noise(tmp_path), folder)


@pytest.mark.parametrize("name", ["manifest.json", "names.npy", "pixels.npy"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: os.truncate(path, 20),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes().replace(b"}", b" ")),
    ],
    ids=["absent", "cut off", "empty", "changed"],
)
def test_damaged_files_are_refused(tmp_path, name, damage):
    folder = prepare(tmp_path)
    damage(folder / name)
    with pytest.raises(DatasetError, match="delete"):
        array.open_prepared(Noise(tmp_path), folder)


@pytest.mark.parametrize("content", [np.arange(30.0), np.zeros((30, 2), "S4"), np.array("one")])
def test_names_that_are_none_are_refused(tmp_path, content):
    folder = prepare(tmp_path)
    np.save(folder / "names.npy", content)
    with pytest.raises(DatasetError, match=r"damaged \(names\.npy holds .*delete"):
        array.open_prepared(Noise(tmp_path), folder)


def test_a_manifest_whose_number_of_images_is_none_is_refused(tmp_path):
    folder = prepare(tmp_path)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": None}))
    with pytest.raises(DatasetError, match=r"damaged .*delete"):
        array.open_prepared(Noise(tmp_path), folder)


def test_images_that_the_array_lacks_are_named(tmp_path):
    folder = prepare(tmp_path)
    dataset = Noise(tmp_path)
    dataset.names = np.append(dataset.names, "new one")
    with pytest.raises(DatasetError, match=r"without 1 images of the train split \(new one\)"):
        array.open_prepared(dataset, folder)


def test_an_array_cut_off_while_open_is_named(tmp_path):
    dataset = Noise(tmp_path)
    dataset.pixels = array.open_prepared(dataset, prepare(tmp_path))
    os.truncate(dataset.pixels.folder / "pixels.npy", 300)
    with pytest.raises(DatasetError, match="ends early"):
        dataset.__getitems__(list(range(14)))


# --- feeding --------------------------------------------------------------------------------------------------


def test_workers_open_the_file_themselves(tmp_path):
    dataset = Noise(tmp_path)
    dataset.pixels = array.open_prepared(dataset, prepare(tmp_path))
    dataset.__getitems__([0])
    travelling = pickle.dumps(dataset.pixels)
    assert len(travelling) < 2_000, "the path travels, not the pixels"
    assert np.array_equal(pickle.loads(travelling).gather([5])[0], noise(dataset.numbers[5]))
    loader = DataLoader(dataset, batch_sampler=[[3, 1], [0, 13, 2]], collate_fn=as_is, num_workers=1)
    for batch, rows in zip(loader, ([3, 1], [0, 13, 2]), strict=True):
        assert np.array_equal(batch.images, [noise(dataset.numbers[row]) for row in rows])
        assert batch.images.is_shared()


def as_is(batch):
    return batch


def test_threads_may_read_at_once(tmp_path):
    dataset = Noise(tmp_path)
    dataset.pixels = array.open_prepared(dataset, prepare(tmp_path))
    wrong = []

    def read():
        for row in range(14):
            if not np.array_equal(dataset.__getitems__([row]).images[0], noise(dataset.numbers[row])):
                wrong.append(row)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_what_was_read(tmp_path):
    class Wide(Noise):
        band_sides = (256, 256, 256)

        def read(self, row):
            return np.full((3, 256, 256), self.numbers[row], np.uint8)

    opened = [Wide(tmp_path, split) for split in SPLITS]
    dataset = opened[0]
    dataset.pixels = array.open_prepared(dataset, from_files.prepare(opened, None, processes=0, skip_broken=False))
    dataset.__getitems__([0])
    before = resident()
    for row in range(14):
        dataset.__getitems__([row])
    assert resident() - before < 14 * 3 * 256 * 256 / 2, "less than half of what was read"


def test_names_of_files_are_made_as_they_are_looked_up(tmp_path):
    """All of BigEarthNet's at once would be a gigabyte, in every process of a training."""

    class Bands(Noise):
        def files(self, row):
            return [f"{tmp_path}/{row}/{'patch' * 20}_{band}.tif" for band in range(12)]

    dataset = Bands(tmp_path)
    dataset.names = np.arange(10_000)
    tracemalloc.start()
    facts = dataset.file_facts()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.tolist() == [[ABSENT, ABSENT]] * 10_000
    assert peak < 10_000 * 12 * 20, "a tenth of their names"


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- files that change afterwards -------------------------------------------------------------------------------


def exchange(path, like):
    """The pixels of another image under this name, and a time of its own."""
    path.write_bytes(like.read_bytes())
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@CORRUPTED
def test_pixels_exchanged_after_they_were_prepared_are_refused(tmp_path):
    """Any image of the split, and not the few alone that are compared at every start."""
    root = write_mlrsnet(tmp_path / "M", images={"airplane": 40, "lake": 40})
    args = settings(root, "--use_npmem", "--mlrsnet_proportions", "80/10/10")
    train = open_split(args, "train")
    compared = np.unique(np.linspace(0, len(train) - 1, array.COMPARED).astype(int))
    row = next(row for row in range(len(train)) if row not in compared)
    kept = train.path(row).read_bytes()
    exchange(train.path(row), train.path(row - 1))
    with pytest.raises(DatasetError, match=f"{train.names[row]} of .* is another; delete it to prepare it again"):
        open_split(args, "train")
    open_split(args, "test")  # which does not hold it
    train.path(row).write_bytes(kept)
    open_split(args, "train")  # another time, and the same pixels


@CORRUPTED
def test_what_cannot_be_compared_whole_is_said(tmp_path, monkeypatch):
    root = write_mlrsnet(tmp_path / "M")
    args = settings(root, "--use_npmem", "--skip_broken_images")
    monkeypatch.setattr(array, "MOST_CHANGED", 3)
    train = mlrsnet(root)[0]
    good = train.path(2).read_bytes()
    train.path(2).write_bytes(b"no image")
    open_split(args, "train")
    for row in range(4, 10):
        os.utime(train.path(row))
    train.path(2).write_bytes(good)
    with pytest.warns(UserWarning, match="have another size or time|have been changed since") as said:
        open_split(args, "train")
    said = [str(each.message) for each in said]
    assert any("6 files of the train split have another size or time than when" in line for line in said)
    assert any(
        f"1 images that could not be decoded then have been changed since ({train.names[2]})" in line for line in said
    )


@CORRUPTED
def test_a_pass_that_goes_on_reads_again_what_changed(tmp_path, monkeypatch):
    root = write_mlrsnet(tmp_path / "M")
    monkeypatch.setattr(stage, "BLOCK_BYTES", 4 * 3 * 256 * 256)
    opened = mlrsnet(root)
    opened[1].path(0).write_bytes(b"no image")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        from_files.prepare(opened, None, processes=0, skip_broken=False)
    exchange(opened[1].path(0), opened[0].path(1))
    for dataset in opened:  # in blocks that were done
        exchange(dataset.path(len(dataset) - 1), opened[0].path(1))
    folder = from_files.prepare(opened, None, processes=0, skip_broken=False)
    for dataset in opened:
        prepared = array.open_prepared(dataset, folder)
        for row in (0, len(dataset) - 1):
            assert np.array_equal(prepared.gather([row])[0].numpy(), dataset.read(row))


# --- flags ----------------------------------------------------------------------------------------------------


def settings(root, *argv):
    common = [
        "--dataset",
        "MLRSNet",
        "--mlrsnet_labels",
        "as_is",
        "--num_workers",
        "0",
        "--batch_size",
        "4",
        "--device",
        "cpu",
    ]
    return parameters.parse("baseline", [*common, "--source_path", str(root), *map(str, argv)])


@CORRUPTED
def test_the_flags_reach_the_loaders(tmp_path):
    root = write_mlrsnet(tmp_path / "M")
    plain = open_data(settings(root), torch.device("cpu"))
    assert plain.train.dataset.pixels is None
    assert not (root / ".cache").exists()
    prepared = open_data(settings(root, "--use_npmem", "--cache_path", tmp_path / "fast"), torch.device("cpu"))
    assert prepared.train.dataset.pixels.folder.parent == tmp_path / "fast"
    for one, other in ((plain.train, prepared.train), (plain.val, prepared.val)):
        rows = np.arange(len(one.dataset))
        for a, b in zip(one.evaluation(rows, 3), other.evaluation(rows, 3), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
    assert plain.description == prepared.description


@CORRUPTED
def test_the_test_split_is_prepared_with_the_others(tmp_path):
    root = write_mlrsnet(tmp_path / "M")
    open_data(settings(root, "--use_npmem"), torch.device("cpu"))
    for image in (root / "Images").rglob("*.jpg"):
        image.write_bytes(b"")  # from here on nothing can be decoded
    test = open_split(settings(root, "--use_npmem"), "test")
    assert len(test.__getitems__([0, 1]).images) == 2


@CORRUPTED
def test_images_known_to_be_broken_are_refused_before_the_first_batch(tmp_path):
    root = write_mlrsnet(tmp_path / "M")
    opened = {dataset.split: dataset for dataset in mlrsnet(root)}
    broken = sorted(opened["train"].names[:7].tolist())
    for name in broken:
        next((root / "Images").rglob(name)).write_bytes(b"no image")
    skipping = open_data(settings(root, "--use_npmem", "--skip_broken_images"), torch.device("cpu")).train.dataset
    assert skipping.pixels.broken.sum() == 7
    for open_again in (lambda args: open_data(args, torch.device("cpu")), lambda args: open_split(args, "train")):
        with pytest.raises(DatasetError, match="7 images cannot be decoded") as refused:
            open_again(settings(root, "--use_npmem"))
        said = str(refused.value)
        assert sorted(refused.value.names) == broken
        assert sum(name in said for name in broken) == 5
        assert f"Mend them and delete {skipping.pixels.folder} to prepare it again" in said
        assert "--skip_broken_images" in said
    assert len(open_split(settings(root, "--use_npmem"), "test")), "none of its images is broken"


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_to_be_installed_is_said_in_one_message(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(stage, "BLOCK_BYTES", 8 * 192)

    def refuse(self, row):
        raise UserError("reading needs lmdb: pip install lmdb")

    monkeypatch.setattr(Noise, "read", refuse)
    monkeypatch.setattr(from_files, "_announce", lambda *given: None)
    with pytest.raises(UserError) as error:
        from_files.prepare(splits(tmp_path), tmp_path / "cache", processes=processes, skip_broken=False)
    assert str(error.value) == "reading needs lmdb: pip install lmdb"


def test_a_lock_ends_with_its_block_though_a_forked_worker_lives_on(tmp_path, capsys):
    """Workers of a DataLoader inherit the open lock file, and may outlive what was locked."""
    done = multiprocessing.get_context("fork").Event()
    with stage.locked(tmp_path / ".lock", tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=done.wait, args=(30,))
        worker.start()
    with stage.locked(tmp_path / ".lock", tmp_path):
        said = capsys.readouterr()
    done.set()
    worker.join()
    assert "another process" not in said.out + said.err
