"""A disk that fills up while results are written: one sentence, exit code 1, and what was there before as it was."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.scripts import run_inside
from utilities.errors import RunFailure, UserError, main_guard
from utilities.files import check_writable, filling, replacing
from utilities.report import figures
from utilities.runs.logger import Logger, read_metrics
from utilities.training.run import Run

RECORD = {"epoch": 1, "step": 1, "split": "train", "seconds": 1.0, "images_per_second": 1.0, "losses": {"a": 1.0}}


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of that size at `folder`, or the test is skipped: it takes the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run_folder(demo_run, tmp_path):
    folder = tmp_path / "baseline"
    shutil.copytree(demo_run[1], folder, ignore=shutil.ignore_patterns("*_results"))
    return folder


@pytest.mark.parametrize("script", ["evaluate", "search", "check"])
def test_results_that_do_not_fit_leave_those_of_before(demo_run, run_folder, tmp_path, script):
    evaluation = ("evaluate_model", "--load_from_checkpoint", run_folder, "--dataset_type", "val")
    image = next((demo_run[0] / "Images").glob("*/*.jpg"))
    where, command, target = {
        "evaluate": (run_folder / "evaluation_results", evaluation, "best_val"),
        "search": (run_folder / "search_results", (*evaluation, "--query", image), f"best_val/{image.stem}"),
        "check": (
            tmp_path / "out",
            ("datasets.__main__", "Demo", "--source_path", demo_run[0], "--quick", "--out", tmp_path / "out" / "demo",
             "--demo_images_per_category", 8, "--demo_side", 48),
            "demo",
        ),
    }[script]  # fmt: skip
    with small_disk(where, "200k"):
        (where / target).mkdir(parents=True)
        for name in ("scores.json", "retrievals.png", "check.json", "hits.csv"):
            (where / target / name).write_text("of before")
        before = contents(where / target)
        done = run_inside(*command, code=1)
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: {where / target} could not be written ("), last
        assert last.endswith("what was there before is as it was. Free some space and start again")
        assert "Traceback" not in done.stderr
        assert contents(where / target) == before
        assert not list((where / target).glob(".*"))


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "results"

    def write(text: str, *, fail: bool = False) -> None:
        with filling(folder, ("picture.png", "old.txt")) as fresh:
            (fresh / "scores.json").write_text(text)
            (fresh / "queries").mkdir()
            (fresh / "queries" / f"{text}.png").write_text(text)
            assert fresh.parent == folder, "on the same disk"
            if fail:
                raise OSError("encoder error -2 when writing image file")  # Pillow's, which tells no number

    with pytest.raises(RunFailure, match="encoder error -2"):
        write("first", fail=True)
    assert not folder.exists()
    write("first")
    for name in ("picture.png", "notes.txt"):
        (folder / name).write_text("mine")
    before = contents(folder)
    with pytest.raises(RunFailure):
        write("second", fail=True)
    assert contents(folder) == before
    write("second")
    assert contents(folder) == {"scores.json": b"second", "queries/second.png": b"second", "notes.txt": b"mine"}


def test_a_place_in_a_folder_of_somebody_else_is_refused_as_what_it_is(tmp_path, monkeypatch):
    """What lies in a folder that may not be entered cannot be looked up: `Path.exists` raises there."""
    home = tmp_path / "of somebody else"
    home.mkdir()
    stat, access = os.stat, os.access
    refused = PermissionError(errno.EACCES, "Permission denied")

    def entered(path, *given, **options):
        if str(path).startswith(f"{home}/"):
            raise refused
        return stat(path, *given, **options)

    monkeypatch.setattr(os, "stat", entered)  # root, as which tests may run, may enter it
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home and access(path, mode))
    with pytest.raises(UserError, match=f"--save_path {home}/runs/Demo: {home} may not be written to; give another"):
        check_writable(home / "runs" / "Demo", "--save_path")
    check_writable(tmp_path / "new" / "runs", "--save_path")


def test_a_file_that_does_not_fit_is_named(tmp_path, capsys):
    def write() -> None:
        with replacing(tmp_path / "array.npy"):
            raise OSError("1000 requested and 500 written")  # numpy's

    with pytest.raises(SystemExit) as stop:
        main_guard(write)()
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'array.npy'}: 1000 requested and 500 written\n"

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SystemExit) as stop:
        main_guard(fail)()
    assert stop.value.code == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_log_that_does_not_fit_says_how_to_go_on(tmp_path):
    with small_disk(tmp_path / "run", "8k") as folder:
        log = Logger(folder, wandb_mode=None, run={})

        def fill() -> None:
            for step in range(1000):
                log.log(RECORD | {"step": step})

        with pytest.raises(RunFailure, match=r"metrics\.jsonl could not be written .* --load_from_checkpoint"):
            fill()
        log.close()
        kept = read_metrics(folder)
        assert [r["step"] for r in kept] == list(range(len(kept)))


def test_curves_that_cannot_be_drawn_end_no_training(tmp_path, capsys):
    """A file where `figures/` should be."""
    Logger(tmp_path, wandb_mode=None, run={}).log(RECORD)
    (tmp_path / "figures").write_text("mine")
    Run.draw_curves(SimpleNamespace(folder=tmp_path, args={"dataset": "Demo"}), last=True)
    assert f"note: {tmp_path / 'figures'} could not be drawn" in capsys.readouterr().out
    assert (tmp_path / "figures").read_text() == "mine"


def test_a_picture_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path, **options: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.save(figures.Figure(), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
