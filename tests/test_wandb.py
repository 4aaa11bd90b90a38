"""Weights & Biases offline: history in the run file, `wandb sync` takes it, a resume goes on, no key anywhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts import ENVIRONMENT, records, run, run_inside
from tests.test_scripts import TINY
from tests.wandb_file import read
from utilities.runs.logger import Logger, is_known_to_wandb, scrub_key

pytest.importorskip("wandb")
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def resumed_run(tmp_path_factory):
    """Two epochs, one that is not logged, and one more that is; the key once as a flag, once in the environment."""
    tmp_path = tmp_path_factory.mktemp("wandb")
    online = ("--log_online", "--wandb_dryrun")
    argv = ["--source_path", tmp_path / "data", "--save_path", tmp_path, *TINY, "--nb_epochs", 2]
    run("train_baseline", *argv, *online, "--wandb_key", KEY, "--project", "retrieval")
    folder = tmp_path / "Demo" / "baseline"
    unlogged = run_inside("train_baseline", "--load_from_checkpoint", folder, "--nb_epochs", 3).stdout
    assert "note: earlier parts of this run were logged to Weights & Biases and this one is not" in unlogged
    run(
        "train_baseline",
        "--load_from_checkpoint",
        folder,
        "--nb_epochs",
        4,
        *online,
        env={"WANDB_API_KEY": KEY},
    )
    return folder


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)


def test_the_history_is_metrics_jsonl_under_one_id_with_growing_steps(resumed_run):
    ids, steps, logged = set(), [], {}
    for piece in pieces(resumed_run):
        run_id, rows = read(piece)
        ids.add(run_id)
        steps += [row["_step"] for row in rows]
        for row in rows:
            logged.setdefault(row["_step"], {}).update(row)
    assert len(pieces(resumed_run)) == 2
    assert len(ids) == 1
    assert steps == sorted(steps)
    lines = records(resumed_run)
    assert {r["step"] for r in lines} == set(logged)
    for line in lines:
        for kind in ("losses", "scores"):
            for name, value in line.get(kind, {}).items():
                assert logged[line["step"]][f"{line['split']}/{kind}/{name}"] == pytest.approx(value)


def test_the_key_is_written_nowhere(resumed_run):
    files = [p for p in resumed_run.rglob("*") if p.is_file()]
    assert len(files) > 8
    assert not [str(p) for p in files if KEY.encode() in p.read_bytes()]


def test_wandb_sync_takes_the_run(resumed_run):
    """As far as it goes without the service: it accepts both pieces and begins to set the run up."""
    wandb = str(Path(sys.executable).parent / "wandb")
    folders = [str(p.parent) for p in pieces(resumed_run)]
    environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    listed = subprocess.run([wandb, "sync", "--dry-run", *folders], capture_output=True, text=True, env=environment)
    assert listed.returncode == 0, listed.stderr
    assert all(Path(f).name in listed.stdout + listed.stderr for f in folders)
    log = resumed_run / "sync.log"
    with log.open("w") as file:
        process = subprocess.Popen([wandb, "sync", "--verbose", *folders], stdout=file, stderr=file, env=environment)
        deadline = time.monotonic() + 60
        run_id = read(pieces(resumed_run)[0])[0]
        while f"{run_id}] setting up run" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.kill()
        process.wait()
    assert f"{run_id}] setting up run" in log.read_text()
    assert "error" not in log.read_text().split("setting up run")[0].lower()


def test_a_kill_loses_no_record_and_an_empty_piece_is_gone(tmp_path):
    """W&B holds back the last step of a run; a run that goes on logs it again, and leaves nothing that stops a sync."""
    about = {"wandb_run_id": "abc", "project": "retrieval", "group": "g", "savename": "s", "config": {}}
    speed = {"seconds": 1.0, "images_per_second": 2.0}
    lines = [{"epoch": e, "step": 5 * e, "split": "train", "losses": {"all": 1.0 / e}, **speed} for e in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    empty = tmp_path / "wandb" / "offline-run-20260101_000000-abc"
    (empty / "files").mkdir(parents=True)
    (empty / "run-abc.wandb").write_bytes(b":W&B\0\0\0")
    os.utime(empty, (1, 1))
    logger = Logger(tmp_path, wandb_mode="offline", run=about)
    logger.close()
    assert not empty.exists()
    (piece,) = pieces(tmp_path)
    deadline = time.monotonic() + 30
    while not read(piece)[1] and time.monotonic() < deadline:  # it is written when the run has ended
        time.sleep(0.05)
    assert read(piece)[1][0]["train/losses/all"] == 0.5
    assert [row["_step"] for row in read(piece)[1]] == [10]


def test_a_run_that_was_not_logged_from_its_beginning_on_is_logged_whole(tmp_path):
    about = {"wandb_run_id": "abc", "project": "retrieval", "group": "g", "savename": "s", "config": {}}
    speed = {"seconds": 1.0, "images_per_second": 2.0}
    lines = [{"epoch": e, "step": 5 * e, "split": "train", "losses": {"all": 1.0 / e}, **speed} for e in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not is_known_to_wandb(tmp_path)
    Logger(tmp_path, wandb_mode="offline", run=about).close()
    assert is_known_to_wandb(tmp_path)
    (piece,) = pieces(tmp_path)
    deadline = time.monotonic() + 30
    while len(read(piece)[1]) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [row["_step"] for row in read(piece)[1]] == [5, 10, 15]


@pytest.mark.parametrize(
    "spelling", [["--wandb_key", KEY], [f"--wandb-key={KEY}"], [f"--wandb_key={KEY}", "--wandb-key", KEY]]
)
def test_every_key_leaves_the_command_line(spelling):
    words = ["train_baseline.py", *spelling, "--nb_epochs", "3"]
    scrub_key(words)
    assert words == ["train_baseline.py", "--nb_epochs", "3"]


def test_a_key_of_wandb_login_is_found_without_a_word_of_what_is_deprecated(tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    check = "from utilities.runs.logger import check_wandb; check_wandb('online', 'retrieval')"
    environment = ENVIRONMENT | {"NETRC": str(tmp_path / "netrc"), "HOME": str(tmp_path), "WANDB_SILENT": "false"}
    environment.pop("WANDB_API_KEY", None)
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stdout + done.stderr


def test_a_new_run_that_the_service_does_not_take_is_to_be_started_again(demo_run, tmp_path, monkeypatch):
    """Its folder is gone with it."""
    monkeypatch.setenv("WANDB_API_KEY", "short")
    argv = ["--source_path", demo_run[0], "--save_path", tmp_path, *TINY, "--log_online"]
    said = run_inside("train_baseline", *argv, code=1).stderr.splitlines()[-1]
    assert said.startswith("error: Weights & Biases does not take the run (")
    assert said.endswith("leave out --log_online or give --wandb_dryrun, and start the run again")
    assert not list((tmp_path / "Demo").iterdir())


def test_logging_online_without_a_key_is_misuse(tmp_path):
    argv = ["--source_path", tmp_path / "data", "--save_path", tmp_path, *TINY, "--log_online"]
    environment = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = run("train_baseline", *argv, code=2, env=environment)
    assert "WANDB_API_KEY" in done.stderr
