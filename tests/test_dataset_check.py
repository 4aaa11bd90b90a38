"""`python -m datasets`: what is broken is named and ends with exit code 1, misuse with 2; pictures are made."""

import json

import numpy as np
import pytest
from PIL import Image

import datasets.__main__ as program
from datasets.base import RetrievalDataset
from datasets.check import figures as check_figures
from datasets.check import inspect as check
from tests.miniatures import write_bigearthnet, write_mlrsnet, write_photograph
from utilities.errors import DatasetError, UserError

PICTURES = ("labels_per_image.png", "images_per_label.png", "co_occurrence.png", "contact_sheet.png")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(program, "usable_cores", lambda: 0)


def run(*argv, code=0):
    ended = 0
    try:
        program.main([str(word) for word in argv])
    except SystemExit as stop:
        ended = stop.code
    assert ended == code


def check_mlrsnet(root, out, *argv, code=0):
    run("MLRSNet", "--source_path", root, "--out", out, "--mlrsnet-labels", "as_is", *argv, code=code)
    return json.loads((out / "check.json").read_text())


def test_a_whole_data_set_passes_with_counts_statistics_and_pictures(tmp_path, capsys):
    content = check_mlrsnet(write_mlrsnet(tmp_path / "M"), tmp_path / "out")
    assert content["ok"]
    assert content["problems"] == []
    assert content["images"] == 40
    assert {split: values["images"] for split, values in content["splits"].items()} == {
        "train": 16,
        "val": 4,
        "test": 20,
    }
    for values in content["splits"].values():
        assert sum(values["labels_per_image"]) == values["images"]
        assert len(values["images_per_label"]) == 60
        assert len(values["fingerprint"]) == 64
    assert any("carry no label" in note for note in content["notes"])
    for name in PICTURES:
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300, name
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, f"{name} is not empty"
    said = capsys.readouterr().out
    assert "40 images" in said
    assert "nothing is broken" in said


def test_missing_broken_and_unlisted_files_are_named_with_exit_code_1(tmp_path, capsys):
    root = write_mlrsnet(tmp_path / "M")
    broken = root / "Images" / "lake" / "lake_00002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    content = check_mlrsnet(root, tmp_path / "out", code=1)
    assert not content["ok"]
    assert [problem for problem in content["problems"] if "lake_00002.jpg" in problem] == content["problems"]
    assert "lake_00002.jpg" in capsys.readouterr().out
    assert (tmp_path / "out" / "contact_sheet.png").exists(), "the others are shown"

    absent = [root / "Images" / "wetland" / f"wetland_{i:05d}.jpg" for i in range(1, 8)]
    for path in (*absent, broken):
        path.unlink()
    (root / "Images" / "airplane" / "more.jpg").write_bytes(b"")
    content = check_mlrsnet(root, tmp_path / "other", code=1)
    listed = (tmp_path / "other" / "check.txt").read_text()
    for path in (*absent, broken):
        assert f"absent: {path}" in listed
    assert f"unlisted: {root / 'Images' / 'airplane' / 'more.jpg'}" in listed
    assert content["images"] == 0


def test_quick_does_not_decode(tmp_path, capsys):
    root = write_mlrsnet(tmp_path / "M")
    (root / "Images" / "lake" / "lake_00002.jpg").write_bytes(b"no image")
    assert check_mlrsnet(root, tmp_path / "out", "--quick")["ok"]
    said = capsys.readouterr().out
    assert "no file is missing (images were not decoded: --quick)" in said
    assert "nothing is broken" not in said


def test_images_without_labels_are_checked_and_shown(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(12):
        write_photograph(tmp_path / "own" / f"{number}.png", rng)
    run("Folder", "--source_path", tmp_path / "own", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "12 images, 0 labels" in said
    assert "1 note:\n  the images of" in said
    assert "they can be searched; --labels_csv names a table of labels" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.json", "check.txt", "contact_sheet.png"}


def test_sentinel_patches_are_checked_and_shown(tmp_path):
    root = write_bigearthnet(tmp_path / "B", 10)
    flags = ("BigEarthNet", "--source_path", root, "--ben_splits", "hashed", "--ben_labels", 43, "--out")
    run(*flags, tmp_path / "out")
    patch = sorted(path for path in root.iterdir() if path.is_dir())[4]
    band = patch / f"{patch.name}_B11.tif"
    band.write_bytes(band.read_bytes()[:3000])
    run(*flags, tmp_path / "broken", code=1)
    problems = json.loads((tmp_path / "broken" / "check.json").read_text())["problems"]
    assert len(problems) == 1
    assert "\n1 problem:\n" in (tmp_path / "broken" / "check.txt").read_text()
    assert band.name in problems[0]


def test_the_pixels_are_prepared_on_request_unless_broken(tmp_path):
    root = write_mlrsnet(tmp_path / "M")
    check_mlrsnet(root, tmp_path / "out", "--use_npmem", "--cache_path", tmp_path / "fast")
    assert len(list((tmp_path / "fast").glob("MLRSNet-*/manifest.json"))) == 1
    (root / "Images" / "lake" / "lake_00002.jpg").write_bytes(b"no image")
    check_mlrsnet(root, tmp_path / "out", "--use_npmem", "--cache_path", tmp_path / "second", code=1)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["Atlantis", "--source_path", "."], "invalid choice"),
        (["UCMerced"], "--source_path DIR is needed"),
        (["UCMerced", "--source_path", "does/not/exist"], "is not there"),
        (["UCMerced", "--source_path", ".", "--depth", "3"], "unrecognized"),
        (["UCMerced", "--source_path", ".", "--write_splits"], "--write_splits is for MLRSNet"),
        (["UCMerced", "--source_path", "."], "holds no LandUse_Multilabeled.txt"),
        (["MLRSNet", "--source_path", "."], "holds no folder `labels`"),
        (["BigEarthNet", "--source_path", "."], "holds no patch folder"),
        (["BigEarthNet", "--source_path", ".", "--ben_version", "2"], "holds no metadata.parquet"),
        (["UCMerced", "--source_path", ".", "--contact_images", "0"], "--contact_images 0 must be at least 1"),
    ],
)
def test_misuse_ends_with_exit_code_2(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(*argv, code=2)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_mistyped_flag_leaves_an_earlier_report_alone(tmp_path, capsys):
    made = ("--demo_images_per_category", 4, "--demo_side", 32)
    run("Demo", "--source_path", tmp_path / "demo", "--out", tmp_path / "out", *made)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run("Demo", "--source_path", tmp_path / "demo", "--out", tmp_path / "out", code=2)
    assert "was generated from other settings" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "new/" + "x" * 300, "/proc/nowhere"])
def test_a_place_that_cannot_be_written_is_refused_before_the_images_are_read(place, capsys, tmp_path, monkeypatch):
    root = write_mlrsnet(tmp_path / "M")
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(program, "look_at", lambda args: pytest.fail("the images were read"))
    run("MLRSNet", "--source_path", root, "--out", tmp_path / place, code=2)
    assert f"--out {tmp_path / place} cannot be written (" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["M", "file"]
    assert (tmp_path / "file").read_text() == "kept"


class Plain(RetrievalDataset):
    title, bands, band_sides, dtype = "plain", ("R", "G", "B"), (4, 4, 4), np.dtype("uint8")
    label_names = ("a", "b", "c")

    def __init__(self, tmp_path, split, names, labels):
        super().__init__(source_path=tmp_path, split=split)
        self.names, self.labels = np.array(names), np.array(labels, bool)

    def read(self, row):
        return np.full((3, 4, 4), 7, np.uint8)


def test_an_image_in_two_splits_is_a_problem_and_an_even_image_is_noted(tmp_path):
    def open_split(split):
        if split == "test":
            raise DatasetError("the list is gone", names=["test.csv"])
        return Plain(tmp_path, split, ["x", split], [[1, 0, 0], [1, 1, 0]])

    result = check.inspect(open_split, decode=True, processes=0)
    assert result.problems == ["the list is gone", "    test.csv", "1 images are in train and in val (x)"]
    assert "no image of train carries: c" in result.notes
    assert "val has one value in all pixels" in result.notes


def test_co_occurrence_counts_images_and_colours_shares_of_the_rows_label(tmp_path, drawn):
    labels = np.random.default_rng(0).random((50, 6)) < 0.4
    labels[:, 5] = False
    labels[:, 3] &= ~labels[:, 4]
    counts = check.co_occurrence(labels)
    assert [[(labels[:, i] & labels[:, j]).sum() for j in range(6)] for i in range(6)] == counts.tolist()
    check_figures.co_occurrence(tmp_path / "a.png", counts, list("abcdef"), title="labels")
    axes = drawn[0].axes[0]
    shares = np.asarray(axes.images[0].get_array()) / 100
    for i in range(5):
        for j in range(6):
            assert shares[i, j] == pytest.approx(labels[labels[:, i], j].mean())
    assert np.isnan(shares[5]).all()
    (written,) = axes.collections
    assert written.get_offsets().tolist() == [[j, i] for i in range(6) for j in range(6) if counts[i, j]]
    assert [3, 4] not in written.get_offsets().tolist()
    widths = [path.get_extents().width for path in written.get_paths()]
    assert max(widths) < 0.2


def test_labels_per_image_counts_empty_sets():
    labels = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
    assert check.labels_per_image(labels).tolist() == [1, 0, 2, 1]


def test_the_sample_is_spread_over_all_splits(tmp_path):
    splits = [Plain(tmp_path, split, [f"{split}{i}" for i in range(9)], np.ones((9, 3))) for split in ("train", "val")]
    chosen = check.sample(splits, 6)
    assert len({(split.split, row) for split, row in chosen}) == 6
    assert {split.split for split, _ in chosen} == {"train", "val"}
    assert len(check.sample(splits, 100)) == 18


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_to_be_installed_is_said_in_one_message(tmp_path, processes):
    class Unreadable(RetrievalDataset):
        names = np.arange(2 * check.BLOCK)

        def read(self, row):
            raise UserError("reading needs lmdb: pip install lmdb")

    with pytest.raises(UserError) as error:
        check.decode_all([Unreadable(source_path=tmp_path, split="train")], processes)
    assert str(error.value) == "reading needs lmdb: pip install lmdb"
