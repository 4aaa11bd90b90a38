"""Preparing the array straight from an archive: pixels and labels of the folder route, resumed, nothing half taken."""

import errno
import gzip
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import tarfile
import threading
import time
import warnings
from multiprocessing import get_context

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import tifffile
import torch

import datasets.__main__ as program
import parameters
from datasets.base import SPLITS
from datasets.bigearthnet.archive import BigEarthNetArchive
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.demo.dataset import write_mlrsnet_layout
from datasets.files.tar import TarStream, find_archive
from datasets.mlrsnet.archive import MLRSNetArchive
from datasets.open import open_data, open_split
from datasets.prepared import archive_layout, stage
from datasets.prepared import from_archive as from_archive
from tests.miniatures import patch_names, write_bigearthnet, write_mlrsnet, write_reben
from tests.sentinel.patches import write_bigearthnet_layout
from utilities.errors import DatasetError, RunFailure, UserError
from utilities.files import sample_sha256

FORK = get_context("fork")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
pytestmark = pytest.mark.filterwarnings("ignore:.*(corrupted|split 60/20/20|absent)")


@pytest.fixture(autouse=True)
def _blocks_of_two_patches(monkeypatch):
    monkeypatch.setattr(stage, "BLOCK_BYTES", 2 * 160_000)


def compressed(data, suffix):
    if suffix.endswith("gz"):
        return gzip.compress(data, 1)
    return pyarrow.Codec("zstd").compress(data, asbytes=True) if suffix.endswith("zst") else data


def pack(folder, archive, root="", tar_format=tarfile.GNU_FORMAT):
    """The folder as an archive, its entries in no order; the archive's suffix says how it is compressed."""
    written = io.BytesIO()
    entries = sorted(folder.iterdir())
    with tarfile.open(fileobj=written, mode="w", format=tar_format) as tar:
        for i in np.random.default_rng(1).permutation(len(entries)):
            tar.add(entries[i], f"{root or folder.name}/{entries[i].name}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(compressed(written.getvalue(), archive.suffix))
    return archive


# --- reading a tar archive ------------------------------------------------------------------------------------


def random_tar(tar_format):
    """Files, folders and links with short, long and non-ASCII names; the regular files as a dictionary."""
    rng, written, files = np.random.default_rng(0), io.BytesIO(), {}
    with tarfile.open(fileobj=written, mode="w", format=tar_format) as tar:
        for i in range(60):
            accent = "e" if tar_format == tarfile.USTAR_FORMAT else "é"
            name = f"{'a' * 80}/{'b' * 90}{i}" if i % 7 == 0 else f"folder & {i // 13}/file {accent}{i}.tif"
            files[name] = rng.bytes(int(rng.integers(0, 3000)))
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                member = tarfile.TarInfo(f"other {i} {kind.decode()}")
                member.type, member.linkname = kind, "c" * 90
                tar.addfile(member)
    return written.getvalue(), files


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
def test_every_file_is_read_as_tarfile_reads_it(tmp_path, tar_format, suffix):
    data, files = random_tar(tar_format)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(data, suffix))
    with TarStream(path) as stream:
        assert {member.path: member.data for member in stream} == files
        assert stream.consumed == stream.bytes


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9])
def test_an_archive_cut_off_anywhere_is_named(tmp_path, suffix, share):
    data = compressed(random_tar(tarfile.GNU_FORMAT)[0], suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DatasetError, match=rf"a{suffix} is cut off or damaged after .* bytes"), TarStream(path) as tar:
        list(tar)


def test_frames_of_zstd_may_follow_skippable_ones(tmp_path):
    """As pzstd writes them: before each of its frames stands how long it is."""
    data, files = random_tar(tarfile.GNU_FORMAT)
    frames = [compressed(part, ".zst") for part in (data[:9999], data[9999:])]
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"".join(struct.pack("<III", 0x184D2A50, 4, len(frame)) + frame for frame in frames))
    with TarStream(path) as stream:
        assert {member.path: member.data for member in stream} == files


def test_a_fault_of_the_disk_is_none_of_the_archive(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(random_tar(tarfile.GNU_FORMAT)[0])

    def fails(self):
        raise OSError(errno.EIO, "Input/output error")

    with TarStream(path) as stream:
        monkeypatch.setattr(TarStream, "_next_header", fails)
        with pytest.raises(OSError, match="Input/output error"):
            list(stream)


def test_an_archive_cut_between_two_files_lacks_its_end_mark(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tarfile.TarInfo("empty").tobuf())
    with pytest.raises(DatasetError, match="without the end mark"), TarStream(path) as tar:
        list(tar)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
def test_a_long_window_is_no_damage(tmp_path):
    """Its content is sound, and downloading it again would change nothing."""
    path = tmp_path / "a.tar.zst"
    data = np.random.default_rng(0).bytes(10240)
    made = subprocess.run(["zstd", "-1", "--long=28"], input=data, capture_output=True, check=True)
    path.write_bytes(made.stdout)
    with pytest.raises(DatasetError, match=r"a window of more than 128 MiB.*zstd -dc --long=31 .*a\.tar\.zst"):
        list(TarStream(path))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_a_compressed_stream_without_its_last_byte_is_cut_off(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(random_tar(tarfile.GNU_FORMAT)[0], suffix)[:-1])
    with pytest.raises(DatasetError, match="cut off"), TarStream(path) as tar:
        list(tar)


def test_flipped_bytes_are_noticed(tmp_path):
    data, _ = random_tar(tarfile.GNU_FORMAT)
    header = bytearray(data)
    header[3] ^= 1
    stream = bytearray(gzip.compress(data))
    stream[-6] ^= 1  # in the check sum
    for name, damaged in (("a.tar", header), ("b.tar.gz", stream)):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"check sum|CRC"), TarStream(tmp_path / name) as tar:
            list(tar)


def test_the_archive_is_found_in_its_folder(tmp_path):
    assert find_archive(tmp_path, "a") is None
    assert find_archive(tmp_path / "none", "a") is None
    for name in ("b.tar.gz", "a.txt", "a1.tar.zst"):
        (tmp_path / name).write_bytes(b"")
    assert find_archive(tmp_path, "a") == tmp_path / "a1.tar.zst"
    assert find_archive(tmp_path / "b.tar.gz", "a") == tmp_path / "b.tar.gz"
    with pytest.raises(UserError, match="neither a folder nor an archive"):
        find_archive(tmp_path / "a.txt", "a")
    (tmp_path / "a2.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"several archives \(a1.tar.zst, a2.tar\)"):
        find_archive(tmp_path, "a")


# --- the same data set as from its folder ---------------------------------------------------------------------


def settings(dataset, source, *argv):
    common = ["--dataset", dataset, "--num_workers", "0", "--batch_size", "2", "--device", "cpu"]
    return parameters.parse("baseline", [*common, "--source_path", str(source), *map(str, argv)])


def assert_equal(dataset, folder, source, *argv):
    """Names, labels, pixels and thumbnails of all splits, from the unpacked folder and through --use_npmem."""
    for split in SPLITS:
        plain = open_split(settings(dataset, folder, *argv), split)
        packed = open_split(settings(dataset, source, *argv, "--use_npmem"), split)
        assert packed.names.tolist() == plain.names.tolist()
        assert np.array_equal(packed.labels, plain.labels)
        assert packed.fingerprint() == plain.fingerprint()
        rows = list(range(len(plain)))
        a, b = plain.__getitems__(rows).images, packed.__getitems__(rows).images
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert np.array_equal(plain.read(0), packed.read(0))
        if dataset == "BigEarthNet":
            assert np.array_equal(plain.thumbnail(0), packed.thumbnail(0))
        assert packed.thumbnail(0, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
@pytest.mark.parametrize("root", ["MLRSNet", "."])
def test_mlrsnet_with_labels_in_the_archive(tmp_path, suffix, root):
    folder = write_mlrsnet(tmp_path / "plain")
    archive = pack(folder, tmp_path / "packed" / f"MLRSNet{suffix}", root)
    assert_equal("MLRSNet", folder, archive)
    archive.unlink()
    assert_equal("MLRSNet", folder, archive.parent)  # what is prepared needs the archive no more


def test_what_macos_keeps_beside_files_is_passed_over(tmp_path):
    folder = write_mlrsnet(tmp_path / "plain")
    other = shutil.copytree(folder, tmp_path / "other")
    for path in list(other.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert_equal("MLRSNet", folder, pack(other, tmp_path / "packed" / "MLRSNet.tar.gz", "plain"))
    assert_equal("MLRSNet", folder, other)


def test_the_demo_as_an_archive_of_images_beside_its_labels(tmp_path):
    folder = tmp_path / "plain"
    write_mlrsnet_layout(folder, images_per_category=3, side=64, seed=0)
    archive = pack(folder / "Images", tmp_path / "packed" / "Images.tar.gz")
    shutil.copytree(folder / "labels", archive.parent / "labels")
    assert_equal("MLRSNet", folder, archive.parent, "--mlrsnet_proportions", "40/30/30")


def test_bigearthnet_version_1_takes_its_labels_from_the_archive(tmp_path):
    folder = tmp_path / "plain"
    write_bigearthnet_layout(folder, patches=9, seed=0)
    archive = pack(folder, tmp_path / "packed" / "BigEarthNet-S2-v1.0.tar.gz", "BigEarthNet-v1.0")
    for bands in ("all", "rgb"):
        assert_equal("BigEarthNet", folder, archive.parent, "--ben_bands", bands)
    assert not [path for path in archive.parent.iterdir() if path.name not in (archive.name, ".cache")]


def test_the_offset_is_taken_off_patches_of_an_archive(tmp_path):
    """And asked for where they seem to carry it; either array stands beside the other."""
    folder = write_bigearthnet(tmp_path / "plain", 9)
    before = {row.name: row for row in folder.iterdir()}
    for patch in before.values():
        for path in patch.glob("*.tif"):
            band = tifffile.imread(path)
            tifffile.imwrite(path, np.where(band > 0, band + np.uint16(1000), band))
    archive = pack(folder, tmp_path / "packed" / "BigEarthNet-v1.0.tar.gz")
    flags = ("--ben_splits", "hashed", "--ben_labels", "43", "--use_npmem")
    for bands in ("all", "B08,B02"):
        with pytest.warns(UserWarning, match=r"1000 or more in \d of \d patches looked at.*--boa_offset 1000"):
            shifted = open_split(settings("BigEarthNet", archive, *flags, "--ben_bands", bands), "train")
        given = (*flags, "--ben_bands", bands, "--boa_offset", "1000")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            whole = open_split(settings("BigEarthNet", archive, *given), "train")
        for row in range(len(whole)):
            stored = shifted.prepared(row)
            assert np.array_equal(whole.prepared(row), np.where(stored > 0, stored - 1000, 0))
    assert_equal("BigEarthNet", folder, archive, *flags[:-1], "--boa_offset", 1000)


def test_bigearthnet_version_2_takes_its_table_from_beside_the_archive(tmp_path):
    folder = write_reben(tmp_path / "plain", 12)
    archive = pack(folder / "BigEarthNet-S2", tmp_path / "packed" / "BigEarthNet-S2.tar.zst")
    (archive.parent / "metadata.parquet").symlink_to(folder / "metadata.parquet")
    assert_equal("BigEarthNet", folder, archive, "--ben_version", 2)
    names = np.load(next((archive.parent / ".cache").glob("*/names.npy")))
    assert len(names) == 10, "the patches with snow and cloud are passed over"


def test_patches_with_snow_are_passed_over_where_lists_name_them(tmp_path):
    folder = write_bigearthnet(tmp_path / "plain", 8)
    archive = pack(folder, tmp_path / "packed" / "BigEarthNet-v1.0.tar")
    lists = archive.parent / "splits"
    lists.mkdir()
    for stem in SPLITS:
        (lists / f"{stem}.csv").write_text("")
    (lists / "patches_with_seasonal_snow.csv").write_text(f"{patch_names(8)[3]}\n")
    done = from_archive.prepare_archive(ben(archive), archive, None, processes=1, skip_broken=False)
    assert set(np.load(done / "names.npy").tolist()) == {name.encode() for name in patch_names(8)} - {
        patch_names(8)[3].encode()
    }


def test_a_run_reads_the_archive_only_with_use_npmem(tmp_path):
    folder = write_mlrsnet(tmp_path / "plain")
    archive = pack(folder, tmp_path / "packed" / "MLRSNet.tar.gz")
    with pytest.raises(UserError, match="give --use_npmem"):
        open_data(settings("MLRSNet", archive), torch.device("cpu"))
    plain = open_data(settings("MLRSNet", folder), torch.device("cpu"))
    packed = open_data(settings("MLRSNet", archive, "--use_npmem"), torch.device("cpu"))
    files = ("train_files", "val_files")
    assert packed.description | dict.fromkeys(files) == plain.description | dict.fromkeys(files)


def test_what_was_prepared_from_files_is_not_taken_for_the_archive(tmp_path):
    folder = write_mlrsnet(tmp_path / "plain")
    archive = pack(folder, tmp_path / "packed" / "MLRSNet.tar.gz")
    options = ("--use_npmem", "--cache_path", tmp_path / "cache")
    open_split(settings("MLRSNet", folder, *options), "train")
    with pytest.raises(UserError, match="was prepared from unpacked files"):
        open_split(settings("MLRSNet", archive, *options), "train")


def test_a_file_is_no_source_of_a_data_set_that_is_read_from_folders(tmp_path):
    (tmp_path / "UCMerced.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"UCMerced\.zip is not a folder"):
        open_split(settings("UCMerced", tmp_path / "UCMerced.zip"), "train")


def test_the_check_program_prepares_and_checks_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "usable_cores", lambda: 0)
    folder = write_bigearthnet(tmp_path / "plain", 10)
    archive = pack(folder, tmp_path / "packed" / "BigEarthNet-v1.0.tar.gz")
    out = tmp_path / "out"
    argv = ["BigEarthNet", "--source_path", str(archive), "--ben_splits", "hashed", "--out", str(out)]
    with pytest.raises(SystemExit, match="2"):
        program.main(argv)
    program.main([*argv, "--use_npmem"])
    content = json.loads((out / "check.json").read_text())
    assert (content["ok"], content["images"]) == (True, 10)
    archive.write_bytes(archive.read_bytes()[:-100])
    shutil.rmtree(archive.parent / ".cache")
    with pytest.raises(SystemExit, match="1"):
        program.main([*argv, "--use_npmem"])
    (problem,) = json.loads((out / "check.json").read_text())["problems"]
    assert "BigEarthNet-v1.0.tar.gz is cut off" in problem


# --- the pass -------------------------------------------------------------------------------------------------


def ben(archive, bands="all"):
    return BigEarthNetArchive(source_path=archive.parent, bands=bands, version=1, splits="auto")


@pytest.fixture
def archive(tmp_path):
    return pack(write_bigearthnet(tmp_path / "plain", 9), tmp_path / "packed" / "BigEarthNet-v1.0.tar.gz")


def prepare(archive, *, processes=2, skip_broken=False):
    return from_archive.prepare_archive(ben(archive), archive, None, processes=processes, skip_broken=skip_broken)


def assert_whole(folder, tmp_path):
    names, pixels = np.load(folder / "names.npy"), np.load(folder / "pixels.npy", mmap_mode="r")
    assert sorted(names.tolist()) == sorted(name.encode() for name in patch_names(9))
    for split in SPLITS:
        plain = BigEarthNet(
            source_path=tmp_path / "plain", split=split, labels=43, bands="all", version=1, splits="hashed",
            index_path=None,
        )  # fmt: skip
        for row, name in enumerate(plain.names):
            assert np.array_equal(pixels[names.tolist().index(name.encode())], plain.read(row))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "names.npy", "pixels.npy", "source"]


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_the_array_is_the_same_with_any_number_of_threads(archive, tmp_path, processes, capsys):
    folder = prepare(archive, processes=processes)
    assert_whole(folder, tmp_path)
    said = capsys.readouterr().err
    assert "about 9 images, 1.4 MB" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shape"] == [9, 80_000]
    assert manifest["archive"] == archive.name
    assert len(manifest["label_names"]) == 43
    assert len(manifest["fingerprints"]["all"]) == 64


def slow_prepare(archive):
    decode = BigEarthNetArchive.decode

    def slow(self, image, files):
        time.sleep(0.03)
        return decode(self, image, files)

    BigEarthNetArchive.decode = slow
    prepare(archive, processes=1)


def test_a_killed_pass_writes_only_what_is_missing(archive, tmp_path, monkeypatch):
    process = FORK.Process(target=slow_prepare, args=(archive,))
    process.start()
    partial = archive.parent / ".cache" / f".{prepared_name(archive)}.partial"
    deadline = time.monotonic() + 20
    while not ((partial / "done").exists() and 1 in (partial / "done").read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    kept = (partial / "done").read_bytes()
    assert 0 < sum(kept) < 5, "killed in the middle"
    written, write = [], from_archive.write_at
    monkeypatch.setattr(from_archive, "write_at", lambda *a: written.append(1) or write(*a))
    assert_whole(prepare(archive), tmp_path)
    assert len(written) == 5 - sum(kept)
    assert not partial.exists()


def prepared_name(archive):
    return from_archive.prepared_folder(ben(archive), None).name


def test_nothing_of_an_archive_that_ends_early_is_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(from_archive, "PROBED", 2)  # it begins before the end is known
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-2000])
    with pytest.raises(DatasetError, match=r"v1\.0\.tar\.gz is cut off or damaged after"):
        prepare(archive)
    assert not [path for path in (archive.parent / ".cache").iterdir() if path.is_dir()]
    archive.write_bytes(whole)
    assert_whole(prepare(archive), tmp_path)


def test_an_unfinished_pass_over_another_archive_is_refused(archive, monkeypatch):
    monkeypatch.setattr(from_archive, "_stream", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(archive)
    monkeypatch.undo()
    os.utime(archive, (0, 0))
    with pytest.raises(DatasetError, match=r"archive_time: .* there, 0 expected\); delete it"):
        prepare(archive)


def test_an_unfinished_pass_with_other_lists_is_refused(archive, monkeypatch):
    """Its images would come to lie in other rows."""
    monkeypatch.setattr(from_archive, "_stream", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(archive)
    monkeypatch.undo()
    for stem in (*SPLITS, "patches_with_seasonal_snow"):
        (archive.parent / f"{stem}.csv").write_text(f"{patch_names(9)[3]}\n")
    with pytest.raises(DatasetError, match=r"selection_sha256: .* expected\); delete it"):
        prepare(archive)


def test_a_full_disk_is_a_failure_and_resumable(archive, tmp_path, monkeypatch):
    write, calls = os.pwrite, []

    def full(file, data, at):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return write(file, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunFailure, match="No space left"):
        prepare(archive)
    assert not (archive.parent / ".cache" / prepared_name(archive)).exists()
    monkeypatch.undo()
    monkeypatch.setattr(stage, "BLOCK_BYTES", 999_999)  # an unfinished pass keeps its blocks
    assert_whole(prepare(archive), tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_the_pass(archive, monkeypatch):
    free = stage.RESERVE + 9 * 160_000 - 1
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    with pytest.raises(UserError, match=r"takes 1.4 MB .* free.*--cache_path"):
        prepare(archive)


def test_a_disk_that_may_be_too_small_is_noted(archive, tmp_path, monkeypatch, capsys):
    """An archive may hold half of the images that its first ones let expect."""
    monkeypatch.setattr(from_archive, "_probe", lambda *_: from_archive._Estimate(18, False, 1.0))
    free = stage.RESERVE + 9 * 160_000
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free - 1}))
    with pytest.raises(UserError, match=r"takes 1.4 MB .* free.*--cache_path"):
        prepare(archive)
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert_whole(prepare(archive), tmp_path)
    assert "68.5 MB are free, which may not be enough" in capsys.readouterr().err


def test_of_two_processes_one_prepares_and_the_other_waits(archive, tmp_path):
    processes = [FORK.Process(target=slow_prepare, args=(archive,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_whole(archive.parent / ".cache" / prepared_name(archive), tmp_path)


def test_few_blocks_are_held_at_a_time(tmp_path, monkeypatch):
    """The reader waits for the threads: what is read and not yet written does not grow with the archive."""
    archive = pack(write_bigearthnet(tmp_path / "plain", 40), tmp_path / "packed" / "BigEarthNet-v1.0.tar")
    lock, read, written, most = threading.Lock(), [], [], []
    take, write = BigEarthNetArchive.take, from_archive.write_at

    def counting_take(self, image, files):
        read.append(1)
        most.append(len(read) - len(written))
        take(self, image, files)

    def slow_write(path, pixels, position):
        time.sleep(0.01)
        write(path, pixels, position)
        with lock:
            written.extend([1] * len(pixels))

    monkeypatch.setattr(BigEarthNetArchive, "take", counting_take)
    monkeypatch.setattr(from_archive, "write_at", slow_write)
    prepare(archive, processes=2)
    assert max(most) <= 2 * (2 + 2), "two threads, one block waiting and one being read, of two patches each"


# --- what is wrong with the archive's contents ----------------------------------------------------------------


def repack(tmp_path, change):
    """An archive of nine patches after `change(first patch's folder)`."""
    root = write_bigearthnet(tmp_path / "plain", 9)
    change(root / patch_names(9)[0])
    return pack(root, tmp_path / "packed" / "BigEarthNet-v1.0.tar")


def link(path):
    """In the archive a link, which has no pixels of its own."""
    path.unlink()
    path.symlink_to("elsewhere.tif")


def shorten(path):
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / f"{folder.name}_B8A.tif").unlink(), "lacks B8A"),
        (lambda folder: link(folder / f"{folder.name}_B05.tif"), "lacks B05"),
        (lambda folder: shorten(folder / f"{folder.name}_B01.tif"), r"B01\.tif.*cut off"),
        (lambda folder: shutil.copy(folder / f"{folder.name}_B01.tif", folder / f"{folder.name}_B02.tif"),
         r"B02\.tif is 20 x 20"),
    ],
)  # fmt: skip
def test_broken_patches_are_named_or_left_out(tmp_path, change, said):
    archive = repack(tmp_path, change)
    name = patch_names(9)[0]
    with pytest.raises(DatasetError, match=f"1 images cannot be decoded .*{name}.*{said}.*Delete .* mended archive"):
        prepare(archive)
    folder = prepare(archive, skip_broken=True)
    assert json.loads((folder / "manifest.json").read_text())["broken"] == [name]


@pytest.mark.parametrize("gone", [False, True])
def test_broken_patches_of_a_prepared_archive_are_refused_before_the_first_batch(tmp_path, gone):
    archive = repack(tmp_path, lambda folder: shorten(folder / f"{folder.name}_B01.tif"))
    prepare(archive, skip_broken=True)
    given = archive
    if gone:
        archive.unlink()
        given = archive.parent
    flags = ("--ben_splits", "hashed", "--ben_labels", "43", *(() if gone else ("--use_npmem",)))
    refused = []
    for split in SPLITS:
        assert len(open_split(settings("BigEarthNet", given, *flags, "--skip_broken_images"), split))
        try:
            open_split(settings("BigEarthNet", given, *flags), split)
        except DatasetError as error:
            refused.append(str(error))
    (said,) = refused  # one split holds it
    assert f"1 images cannot be decoded ({patch_names(9)[0]}). Mend them and delete" in said


@pytest.mark.parametrize("other", ["name", "size", "bytes"])
def test_an_array_of_another_archive_is_refused(tmp_path, archive, other):
    """By its bytes even where name, size and time are those of before."""
    folder = prepare(archive)
    another = archive.with_name("BigEarthNet-v1.1.tar.gz") if other == "name" else archive
    was, content = archive.stat(), bytearray(archive.read_bytes())
    if other == "bytes":
        content.reverse()
    another.write_bytes(content + b"\0" * (other == "size"))
    os.utime(another, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(DatasetError, match=r"was prepared from something else .* another\s+--cache_path"):
        from_archive.open_packed(folder, another)
    assert from_archive.open_packed(folder, None) is not None, "the archive may be gone"


def test_a_copy_of_the_archive_is_the_archive(archive):
    """With a time of its own, which is noted of an array that was prepared before samples were kept."""
    folder = prepare(archive)
    os.utime(archive, (0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_archive.open_packed(folder, archive) is not None
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["archive_sample_sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="has another time than when .* if it was exchanged, delete"):
        assert from_archive.open_packed(folder, archive) is not None


def test_samples_cover_small_files_and_both_ends_of_large_ones(tmp_path):
    path = tmp_path / "archive"
    for size in (0, 1, 70_000, 5_000_000):
        content = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        path.write_bytes(content.tobytes())
        before = sample_sha256(path)
        for place in {0, size - 1} if size else ():
            content[place] ^= 1
            path.write_bytes(content.tobytes())
            assert sample_sha256(path) != before, (size, place)
            content[place] ^= 1


def test_a_named_archive_may_be_gone(archive):
    flags = ("--use_npmem", "--ben_splits", "hashed")
    before = open_split(settings("BigEarthNet", archive, *flags), "train")
    archive.unlink()
    after = open_split(settings("BigEarthNet", archive, *flags), "train")
    assert before.names.tolist() == after.names.tolist()
    assert np.array_equal(before.prepared(0), after.prepared(0))


def test_patches_outside_the_table_of_version_2_are_passed_over(tmp_path):
    """As published: patches with snow, cloud or shadow stand in a table of their own."""
    root = write_reben(tmp_path / "plain")
    table = pq.read_table(root / "metadata.parquet")
    kept = table.slice(0, len(table) - 2)
    packed = pack(root / "BigEarthNet-S2", tmp_path / "packed" / "BigEarthNet-S2.tar.zst")
    pq.write_table(kept, packed.parent / "metadata.parquet")
    layout = BigEarthNetArchive(source_path=packed.parent, bands="all", version=2, splits="auto")
    folder = from_archive.prepare_archive(layout, packed, None, processes=1, skip_broken=False)
    names = from_archive.open_packed(folder, packed).names.tolist()
    assert set(names) == set(kept["patch_id"].to_pylist())


def test_what_lists_elsewhere_leave_out_is_passed_over(tmp_path, archive):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "patches_with_seasonal_snow.csv").write_text("".join(f"{name}\n" for name in patch_names(9)[:4]))
    layout = BigEarthNetArchive(source_path=archive.parent, bands="all", version=1, splits=str(lists))
    assert layout.selection() == (None, set(patch_names(9)[:4]))


def test_a_damaged_list_of_names_is_refused(tmp_path):
    archive = pack(write_bigearthnet(tmp_path / "plain", 3), tmp_path / "packed" / "BigEarthNet-v1.0.tar")
    folder = prepare(archive)
    for content in (b"", b"x", (folder / "names.npy").read_bytes()[:-1]):
        (folder / "names.npy").write_bytes(content)
        with pytest.raises(DatasetError, match=f"{folder} is damaged .*delete"):
            from_archive.open_packed(folder, archive)


@pytest.mark.parametrize(
    ("text", "said"), [('{"labels": ["Meadow"]}', "'Meadow' is not a label"), ("{}", "'labels' is missing"), ("[", "")]
)
def test_unusable_labels_are_named(tmp_path, text, said):
    archive = repack(tmp_path, lambda f: (f / f"{f.name}_labels_metadata.json").write_text(text))
    with pytest.raises(DatasetError, match=f"1 label files of 9 patches are unusable.*{said}"):
        prepare(archive, skip_broken=True)


def test_a_patch_that_comes_twice_is_named(tmp_path):
    archive = pack(write_bigearthnet(tmp_path / "plain", 3), tmp_path / "packed" / "BigEarthNet-v1.0.tar")
    with tarfile.open(archive, "a") as tar:
        name = patch_names(3)[1]
        tar.add(tmp_path / "plain" / name, f"again/{name}")
    with pytest.raises(DatasetError, match=f"{name} twice"):
        prepare(archive)


def test_an_archive_sorted_by_band_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_layout, "MOST_INCOMPLETE", 3)
    root = write_bigearthnet(tmp_path / "plain", 5)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(root.rglob("*.tif"), key=lambda path: path.name[-7:]):
            tar.add(path, path.relative_to(root))
    with pytest.raises(DatasetError, match="do not lie together"):
        prepare(tmp_path / "a.tar")


def test_an_archive_of_something_else_is_named(tmp_path):
    archive = pack(write_mlrsnet(tmp_path / "plain"), tmp_path / "packed" / "MLRSNet.tar.gz")
    with pytest.raises(DatasetError, match="holds no image of BigEarthNet"):
        prepare(archive)


def test_listed_images_that_the_archive_lacks_and_unlisted_ones_are_named(tmp_path):
    folder = write_mlrsnet(tmp_path / "plain")
    shutil.move(folder / "Images" / "lake" / "lake_00002.jpg", folder / "Images" / "lake" / "new one.jpg")
    archive = pack(folder, tmp_path / "packed" / "MLRSNet.tar.gz")
    with pytest.raises(DatasetError, match=r"1 listed but absent \(lake_00002.jpg\); 1 present but unlisted \(new one"):
        open_split(settings("MLRSNet", archive, "--use_npmem"), "train")


def test_damaged_photographs_in_the_archive_are_named(tmp_path):
    folder = write_mlrsnet(tmp_path / "plain")
    lake = folder / "Images" / "lake"
    for number, data in ((2, (lake / "lake_00002.jpg").read_bytes()[:300]), (3, b"")):
        (lake / f"lake_{number:05d}.jpg").write_bytes(data)
    archive = pack(folder, tmp_path / "packed" / "MLRSNet.tar.gz")
    layout = MLRSNetArchive(source_path=archive.parent, labels="as_is")
    with pytest.raises(DatasetError, match=r"2 images cannot be decoded .*lake_00002\.jpg.*lake_00003\.jpg"):
        from_archive.prepare_archive(layout, archive, None, processes=1, skip_broken=False)


def test_a_name_that_is_not_utf_8_is_refused_before_the_pass(tmp_path):
    source = write_mlrsnet(tmp_path / "M")
    (source / "Images" / "lake" / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    with tarfile.open(tmp_path / "M.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(source, "MLRSNet")
    layout = MLRSNetArchive(source_path=tmp_path, labels="as_is")
    with pytest.raises(DatasetError, match=r"M\.tar holds the image '\\udcff\.jpg', whose name is not UTF-8"):
        from_archive.prepare_archive(layout, tmp_path / "M.tar", tmp_path / "cache", processes=1, skip_broken=False)
