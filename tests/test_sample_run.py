"""`SampleRun.sh`: folders with blanks, commands that can be pasted, and a set-up that mends what was interrupted."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import parameters

ROOT = Path(__file__).parent.parent

# Stands for the system's python and for that of .venv: notes what it is asked for, a word a line.
PYTHON = """#!/bin/bash
case "$*" in
  "-c "*) ;;
  "-m venv "*)
    echo "$*" >> made
    sleep 0.3
    [[ " $* " == *" --clear "* ]] && rm -rf .venv
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    ;;
  "-m pip --version") ;;
  "-m pip install "*) echo "$*" >> installed ;;
  *) printf '%s\\n' .venv/bin/python "$@" "" >> called ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, the files that it reads and `python3`, all of them its own."""
    folder = tmp_path / "check out"
    folder.mkdir()
    shutil.copy(ROOT / "SampleRun.sh", folder)
    for name in (
        "parameters.py",
        "requirements.txt",
        "requirements-study.txt",
        "requirements-dev.txt",
        "constraints.txt",
    ):
        (folder / name).write_text("")
    write_python(folder / "python3")
    return folder


def write_python(path: Path, text: str = PYTHON) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(folder: Path, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", folder / "SampleRun.sh", *words],
        cwd=cwd or folder,
        env={**os.environ, "PYTHON": str(folder / "python3"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sample_run(folder: Path, *words: str, cwd: Path | None = None, **environment: str) -> str:
    process = start(folder, *words, cwd=cwd, **environment)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def called(folder: Path) -> list[list[str]]:
    """The commands that were run, in words."""
    return [command.split("\n") for command in (folder / "called").read_text().split("\n\n")[:-1]]


@pytest.mark.parametrize("recipe", ["demo", "ucmerced", "mlrsnet", "bigearthnet", "evaluate"])
def test_folders_with_blanks_reach_every_command_in_one_piece(checkout: Path, recipe: str) -> None:
    folders = {"RESULTS": "my results & more", "DATA": "/the user's data"}
    said = sample_run(checkout, recipe, **folders)
    commands = called(checkout)
    evaluation = commands[-1]
    saved = [word for word in evaluation if word.startswith("my results & more/")]
    methods = ["baseline", "diva", "dac", "bier", "sndl"]
    assert [Path(word).name for word in saved] == (["baseline"] if recipe == "evaluate" else methods)
    for command in commands:
        for flag, value in (("--save_path", folders["RESULTS"]), ("--source_path", folders["DATA"])):
            if flag in command and recipe != "demo":
                assert command[command.index(flag) + 1].startswith(value)
    shown = [shlex.split(line) for line in said.splitlines() if line.startswith(".venv/")]
    assert shown == commands, "what is shown can be pasted"
    printed = sample_run(checkout, recipe, "--print", **folders).splitlines()
    assert [shlex.split(line) for line in printed] == commands


def test_folders_are_those_of_the_caller_in_whatever_folder(checkout: Path, tmp_path: Path) -> None:
    """A relative path of somebody in another folder is no path in the checkout; what is not given lies in that."""
    elsewhere = tmp_path / "else where"
    write_python(elsewhere / "bin" / "my python", '#!/bin/sh\nprintf "%s\\n" "$0" "$@" "" >> called\n')
    given = {"RESULTS": "out", "DATA": "../archives", "USE_PYTHON": "bin/my python"}
    sample_run(checkout, "mlrsnet", cwd=elsewhere, **given)
    for command in called(checkout):
        assert command[0] == f"{elsewhere}/bin/my python"
        assert f"{elsewhere}/../archives/MLRSNet" in command
        assert f"{elsewhere}/out" in {word.removesuffix("/MLRSNet/baseline") for word in command}
    printed = sample_run(checkout, "resume", "--print", cwd=elsewhere, USE_PYTHON="python3")
    assert printed.startswith("python3 ")
    assert " Training_Results/Demo/baseline " in printed


def test_a_copy_elsewhere_runs_in_the_folder_it_is_called_from(checkout: Path, tmp_path: Path) -> None:
    """`sbatch SampleRun.sh` runs a copy in its spool folder, called from the folder of the submission."""
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.move(checkout / "SampleRun.sh", spool)
    sample_run(spool, "resume", cwd=checkout, USE_PYTHON="./python3")
    assert called(checkout)
    process = start(spool, "list", cwd=tmp_path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith(f"error: neither {tmp_path} nor the folder of this script holds the code"), said


def test_the_trial_is_the_first_thing_the_readme_shows(checkout: Path) -> None:
    """One small run and its evaluation, by flags that the programs know, in the folder that README names."""
    training, evaluation = map(shlex.split, sample_run(checkout, "trial", "--print").splitlines())
    args = parameters.parse("baseline", training[2:])
    assert args.nb_epochs * args.demo_images_per_category <= 100, "half a minute"
    assert evaluation[2:4] == ["--load_from_checkpoint", f"{args.save_path}/{args.dataset}/{args.savename}"]
    readme = (ROOT / "README.md").read_text()
    assert readme.index("bash SampleRun.sh trial") < readme.index("python train_baseline.py")
    assert f"`{evaluation[3]}/evaluation_results/best_{evaluation[5]}/report.html`" in readme
    assert f"{22 * args.demo_images_per_category} scenes" in readme


def test_a_run_goes_on_with_the_data_where_they_lie_now(checkout: Path) -> None:
    """A job has them on a disk of its own, under a path that the next one has not."""
    for name in ("baseline", "baseline-best"):
        (checkout / "Training_Results" / "UCMerced" / name).mkdir(parents=True)
        (checkout / "Training_Results" / "UCMerced" / name / "args.json").touch()
    sample_run(checkout, "ucmerced", DATA="/scratch/job 2")
    sample_run(checkout, "ucmerced_baseline", DATA="/scratch/job 2")
    resumed = [
        command[2:] for command in called(checkout) if command[1:3] == ["train_baseline.py", "--load_from_checkpoint"]
    ]
    data = ["--source_path", "/scratch/job 2/UCMerced"]
    assert resumed == [
        ["--load_from_checkpoint", "Training_Results/UCMerced/baseline", *data],
        [
            "--load_from_checkpoint",
            "Training_Results/UCMerced/baseline-best",
            *data,
            "--cache_path",
            "Training_Results/prepared",
        ],
    ]
    assert {"source_path", "cache_path"} <= parameters.RESUMABLE


def test_seeds_are_runs_of_their_own_and_evaluated_together(checkout: Path) -> None:
    printed = sample_run(checkout, "demo", "--print", SEEDS="0 1 7").splitlines()
    *training, evaluation = map(shlex.split, printed)
    named = [words[words.index("--savename") + 1] for words in training]
    assert named[:4] == ["baseline", "baseline-seed1", "baseline-seed7", "diva"]
    seeds = [words[words.index("--random_seed") + 1] if "--random_seed" in words else "0" for words in training]
    assert seeds == ["0", "1", "7"] * 5
    assert [Path(word).name for word in evaluation if "/Demo/" in word] == named


def test_words_that_mean_nothing_to_a_shell_are_shown_as_they_are(checkout: Path) -> None:
    shown = sample_run(checkout, "evaluate", "--print", RESULTS="/scratch/a,b:c=1%+_x@y").splitlines()[-1]
    assert not set(shown) & set("\\'\"$")
    assert "/scratch/a,b:c=1%+_x@y/Demo/baseline" in shown
    assert " recall@K hit@K " in shown


@pytest.mark.parametrize("left", [None, "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n"])
def test_an_interrupted_set_up_is_begun_anew_and_a_whole_one_is_kept(checkout: Path, left: str | None) -> None:
    if left is not None:
        write_python(checkout / ".venv" / "bin" / "python", left)
        (checkout / ".venv" / "installed-requirements-of-long-ago").touch()
    for _ in range(2):
        sample_run(checkout, "setup")
        assert len((checkout / "made").read_text().splitlines()) == 1
        assert len((checkout / "installed").read_text().splitlines()) == 1
        stamps = [path.name for path in (checkout / ".venv").glob("installed-*")]
        assert len(stamps) == 1
        assert "installed-requirements-of-long-ago" not in stamps
    sample_run(checkout, "setup", "dev")
    assert len((checkout / "made").read_text().splitlines()) == 1, "it has pip"
    assert len((checkout / "installed").read_text().splitlines()) == 2


def test_of_two_set_ups_at_once_one_waits(checkout: Path) -> None:
    """Also while the folder is emptied."""
    write_python(checkout / ".venv" / "bin" / "python", "#!/bin/sh\nexit 1\n")
    both = [start(checkout, "setup") for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert len((checkout / "made").read_text().splitlines()) == 1
    assert len((checkout / "installed").read_text().splitlines()) == 1


def test_a_python_that_has_everything_is_used_as_it_is(checkout: Path) -> None:
    own = checkout / "my python"
    write_python(own, '#!/bin/sh\nprintf "%s\\n" "$0" "$@" "" >> called\n')
    sample_run(checkout, "demo", USE_PYTHON=str(own))
    assert {(words[0], words[1].split("_")[0]) for words in called(checkout)} == {
        (str(own), "train"),
        (str(own), "evaluate"),
    }
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("recipe", ["setup", "list"])
def test_what_has_no_commands_installs_nothing_to_show_them(checkout: Path, recipe: str) -> None:
    process = start(checkout, recipe, "--print")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"{recipe} has no commands to print" in said
    assert not (checkout / ".venv").exists()


def test_the_study_installs_what_it_needs_runs_and_draws(checkout: Path) -> None:
    sample_run(checkout, "study", DATA="/the data", RESULTS="/the results", STUDY_JOBS="3")
    assert "requirements-study.txt" in (checkout / "installed").read_text()
    run, drawn = called(checkout)
    assert run[1:4] == ["-m", "utilities.study", "run"]
    assert run[run.index("--source_path") + 1] == "/the data/UCMerced"
    assert run[run.index("--runs") + 1] == "/the results/study"
    assert run[run.index("--jobs") + 1] == "3"
    assert drawn[1:4] == ["-m", "utilities.study", "draw"]


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_how_to_call_it_and_names_every_recipe(checkout: Path, word: str) -> None:
    said = sample_run(checkout, word)
    assert "bash SampleRun.sh NAME --print" in said
    assert "ucmerced_baseline" in said.splitlines()[-1]
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("seeds", ["x", "0 1 x", "-1", "1,2", " "])
def test_seeds_that_are_no_numbers_are_refused(checkout: Path, seeds: str) -> None:
    process = start(checkout, "demo", "--print", SEEDS=seeds)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith(f"error: SEEDS='{seeds}' must be whole numbers")
