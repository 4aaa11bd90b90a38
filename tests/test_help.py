"""`--help`: short and at once, and the same flags as the program's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import datasets.__main__ as check
import parameters
from datasets import DATASETS
from tests.scripts import ROOT, run_inside
from utilities.flags import early

SCRIPTS = [*(f"train_{method}" for method in parameters.METHODS), "evaluate_model"]


def start(folder: Path, torch: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A script with another module for torch, as `python train_bier.py` starts it."""
    (folder / "torch.py").write_text(torch)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, argv[0] if argv[0] == "-m" else str(ROOT / argv[0]), *argv[1:]]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_waits_for_no_torch(tmp_path, script, word):
    done = start(tmp_path, "raise RuntimeError('imported')", f"{script}.py", "--source_path", "x", word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip() == early.short_help(script)
    flags = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  --")]
    assert len(flags) == 15
    assert "--load_from_checkpoint" in flags
    assert len(done.stdout.splitlines()) < 60
    assert max(map(len, done.stdout.splitlines())) <= early.WIDTH


@pytest.mark.parametrize("argv", [["--help"], ["UCMerced", "--source_path", "x", "-h"]])
def test_help_of_the_check_waits_for_no_torch(tmp_path, argv):
    done = start(tmp_path, "raise RuntimeError('imported')", "-m", "datasets", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip() == early.short_help("-m datasets")
    flags = [line.split()[0].removeprefix("--") for line in done.stdout.splitlines() if line.startswith("  --")]
    assert flags == [flag.name for flag in check.FLAGS]
    assert f"NAME: {', '.join(DATASETS.names())}." in done.stdout


def test_help_all_of_the_check_has_the_flags_of_data_sets(capsys):
    for argv, told in ((["--help"], False), (["--help", "all"], True)):
        with pytest.raises(SystemExit):
            check.parse(argv)
        assert ("--mlrsnet_labels" in capsys.readouterr().out) is told


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_says_what_the_flags_are(script):
    """The file is read, not imported: names, defaults, presets, choices and texts are those of the parser."""
    method = script.removeprefix("train_")
    groups = {"": parameters.EVALUATION} if script == "evaluate_model" else parameters.groups_of(method)
    flags = {flag.name: flag for group in groups.values() for flag in group}
    names = early.OF_EVALUATION if script == "evaluate_model" else early.OF_TRAINING | {"": early.OF_METHOD[method]}
    words = " ".join(early.short_help(script).split())
    for name in (name for group in names.values() for name in group):
        flag = flags[name]
        assert f"--{name} " in words
        assert " ".join(flag.help.split()[:8]) in words
        if flag.default not in (None, False) and "metric" not in name:
            assert f"[{flag.default}]" in words
    if script != "evaluate_model":
        assert f"--dataset {{{','.join(DATASETS.names())}}} " in words
    if method == "sndl":
        assert "--load_from_checkpoint RUN run folder to resume" in words


def test_all_lists_every_flag_without_its_aliases(capsys):
    for method in parameters.METHODS:
        with pytest.raises(SystemExit) as stop:
            parameters.parse(method, ["--help", "all"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        flags = [flag for group in parameters.groups_of(method).values() for flag in group]
        assert all(f"--{flag.name}" in told for flag in flags)
        assert not [alias for flag in flags for alias in flag.aliases if f"--{alias} " in told or f"--{alias}," in told]
        assert "--nb_epochs N" in told


def test_help_inside_a_program_is_the_same():
    assert run_inside("train_baseline", "--help").stdout.rstrip() == early.short_help("train_baseline")
    assert "--gamma" not in early.short_help("train_baseline")


def test_ctrl_c_during_imports_is_one_word(tmp_path):
    done = start(tmp_path, "raise KeyboardInterrupt", "train_sndl.py")
    assert done.stderr == "interrupted\n"
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    done = start(tmp_path, "raise RuntimeError('broken')", "train_sndl.py")
    assert "RuntimeError: broken" in done.stderr, "what is no interruption is told in full"
