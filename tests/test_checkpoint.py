"""Checkpoints: atomic, plain, and with a way back when the disk or the file fails."""

import contextlib
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from utilities.errors import RunFailure, UserError
from utilities.files import read_json, replacing, write_json
from utilities.runs import checkpoint


def payload(step):
    return {"step": step, "method": {"weight": torch.full((1000,), float(step))}}


def test_what_is_saved_comes_back(tmp_path):
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, checkpoint.LAST, payload(1))
    loaded = checkpoint.load(tmp_path)
    assert loaded["step"] == 1
    assert torch.equal(loaded["method"]["weight"], torch.ones(1000))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"], "no temporary file stays"


def test_a_truncated_last_falls_back_to_the_one_before_and_says_so(tmp_path, capsys):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint.LAST, payload(step))
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert checkpoint.load(tmp_path)["step"] == 2
    said = capsys.readouterr().err
    assert "last.pt is damaged" in said
    assert "last.previous.pt (step 2)" in said
    last.unlink()  # killed between the two renames
    assert checkpoint.load(tmp_path)["step"] == 2


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.LAST, payload(step))
    last = tmp_path / "last.pt"
    whole = last.read_bytes()
    random, found = np.random.default_rng(0), set()
    for place in random.integers(0, len(whole), 300).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(random.integers(8))
        last.write_bytes(changed)
        loaded = checkpoint.load(tmp_path)
        found.add(loaded["step"])
        assert torch.equal(loaded["method"]["weight"], torch.full((1000,), float(loaded["step"])))
    assert found == {1, 2}, "some bits are of names and times that nothing reads"


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"hello world", b"PK\x03\x04" + b"\0" * 100, *np.random.default_rng(0).bytes(4000).split(b"\0")],
)
def test_nothing_readable_is_a_clear_error(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="no readable checkpoint"):
        checkpoint.load(tmp_path)


def test_a_pickle_with_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    (tmp_path / "last.pt").write_bytes(pickle.dumps({"format": 1, "x": Evil()}, protocol=2))
    with pytest.raises(UserError, match="no readable checkpoint"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_another_format_is_named(tmp_path):
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="format 1"):
        checkpoint.load(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path):
    """RLIMIT_FSIZE stands in for the full disk: the write fails half-way through the file."""
    checkpoint.save(tmp_path, checkpoint.LAST, payload(1))
    code = f"""
        import resource, torch
        from pathlib import Path
        from utilities.runs import checkpoint
        from utilities.errors import RunFailure
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            checkpoint.save(Path({str(tmp_path)!r}), "last.pt", {{"step": 2, "w": torch.zeros(1_000_000)}})
        except RunFailure as error:
            print("RunFailure:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "RunFailure" in done.stdout, done.stderr
    assert "--load_from_checkpoint" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(tmp_path)["step"] == 1


def test_an_unwritable_folder_is_a_run_failure(tmp_path):
    with pytest.raises(RunFailure, match="could not be written"):
        checkpoint.save(tmp_path / "absent", checkpoint.BEST, payload(1))


def test_other_files_of_the_data_are_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.note_other_files({}, {"train_files": "a", "val_files": "b"})  # a checkpoint of before they were kept
        checkpoint.note_other_files({"train_files": "a"}, {"train_files": "a", "val_files": "b"})
    with pytest.warns(UserWarning, match="files of the val split have another size or time"):
        checkpoint.note_other_files({"train_files": "a", "val_files": "c"}, {"train_files": "a", "val_files": "b"})


def test_what_is_written_durably_uses_one_name_and_leaves_none(tmp_path):
    """A kill may leave the name: the next write takes it again. Without, names of two processes would collide."""
    target, kept = tmp_path / "plan.json", tmp_path / "before.json"
    (tmp_path / "plan.json.tmp").write_text("left by a kill")
    write_json(target, {"a": 1}, durable=True)
    with replacing(target, durable=True, previous=kept) as temporary:
        assert temporary.name == "plan.json.tmp"
        temporary.write_text("{}")
    assert (read_json(target), read_json(kept)) == ({}, {"a": 1})
    with contextlib.suppress(ArithmeticError), replacing(target, durable=True, previous=kept) as temporary:
        temporary.write_text("half")
        raise ArithmeticError
    assert (read_json(target), read_json(kept)) == ({}, {"a": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.json", "plan.json"]


def test_what_is_sound_is_offered_in_place_of_what_is_damaged(tmp_path):
    for name in (checkpoint.LAST, checkpoint.BEST):
        checkpoint.save(tmp_path, name, payload(1))
    sound = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(sound[:500])
    with pytest.raises(UserError, match=r"best\.pt damaged; last\.pt is sound: evaluate it with --checkpoint last, or"):
        checkpoint.load(tmp_path, checkpoint.BEST)
    (tmp_path / "last.pt").write_bytes(sound[:500])
    with pytest.raises(UserError, match=r"best\.pt damaged; train again"):
        checkpoint.load(tmp_path, checkpoint.BEST)
    (tmp_path / "best.pt").write_bytes(sound)
    with pytest.raises(UserError, match=r"last\.pt damaged; best\.pt is sound: .* --checkpoint best, or train again"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_folder_of_this_name_is_damaged_and_not_written_over(tmp_path, name):
    (tmp_path / name / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name} damaged"):
        checkpoint.load(tmp_path, name)
    if name == checkpoint.BEST:
        with pytest.raises(RunFailure, match="could not be written"):
            checkpoint.save(tmp_path, name, payload(1))
        assert (tmp_path / name / "mine").is_dir()
