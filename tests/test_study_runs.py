"""The study's runs as they are made: processes that train, score and leave a line; killed, and gone on with."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.files.split_lists import write_stored_split
from tests.miniatures import write_ucmerced
from tests.scripts import ENVIRONMENT, ROOT
from utilities.study import table

# Four runs in the place of the plan: a trial, two rows of heads on stored features, one with all weights.
STUDY = """
import sys
from pathlib import Path
from datasets.ucmerced import dataset
from utilities.study import __main__ as study
from utilities.study.plan import Run

dataset.STORED_SPLITS = Path(sys.argv.pop(1))

TINY = (
    "--arch", "resnet18", "--weights", "none", "--image_size", "32", "--resize_to", "32", "--sz_embedding", "16",
    "--batch_size", "8", "--nb_epochs", "2", "--eval_epoch", "1", "--backend", "torch",
)
RUNS = [
    Run("trials", "margin", 1000, "baseline", TINY, 0),
    Run("frozen", "features", 0, "baseline", (*TINY, "--head", "none", "--nb_epochs", "0")),
    Run("frozen", "margin", 0, "baseline", TINY),
    Run("finetuned", "sndl", 1, "sndl", (*TINY, "--small_epochs", "1", "--small_image_size", "24")),
]
study.plan = lambda finished, tiers: RUNS
study.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A study that was killed when its second run had ended, and then run to its end."""
    folder = tmp_path_factory.mktemp("study")
    write_ucmerced(folder / "data", scenes={"beach": 24, "river": 24})
    names = np.asarray([f"{scene}{i:02d}" for scene in ("beach", "river") for i in range(24)])
    write_stored_split(folder / "lists", names, np.arange(48) // 2 % 3)
    places = ["--source_path", folder / "data", "--runs", folder / "runs", "--results", folder / "results"]
    command = [sys.executable, "-c", STUDY, str(folder / "lists"), "run", *map(str, places), "--jobs", "1"]
    options = {"cwd": ROOT, "env": ENVIRONMENT, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **options) as first:  # type: ignore[call-overload]
        assert first.stdout is not None
        printed = [first.stdout.readline() for _ in range(2)]
        os.killpg(first.pid, signal.SIGKILL)
    assert [text.split()[:2] for text in printed] == [
        ["1/4", "trials-margin-trial0"],
        ["2/4", "frozen-features-seed0"],
    ]
    second = subprocess.run(command, timeout=300, check=False, **options)  # type: ignore[call-overload]
    logs = "\n".join(path.read_text()[-2000:] for path in (folder / "runs" / "logs").iterdir())
    assert second.returncode == 0, second.stdout + logs
    assert [line.split()[:2] for line in second.stdout.splitlines()] == [
        ["3/4", "frozen-margin-seed0"],
        ["4/4", "finetuned-sndl-seed1"],
    ]
    return folder


def test_a_killed_study_goes_on_to_its_end(made):
    lines = {line["name"]: line for line in table.read(made / "results")}
    assert set(lines) == {
        "trials-margin-trial0",
        "frozen-features-seed0",
        "frozen-margin-seed0",
        "finetuned-sndl-seed1",
    }
    for name, line in lines.items():
        assert 0 <= float(line["val recall@1"]) <= 1
        assert line["threads"] == "1"
        if name.startswith("trials"):
            assert line["recall@1"] == line["chance recall@1"] == ""  # the test split was not read for it
        else:
            assert all(0 <= float(line[measure]) <= 1 for measure in table.MEASURES)
    assert lines["frozen-features-seed0"]["images_per_second"] == ""  # nothing was trained
    assert float(lines["finetuned-sndl-seed1"]["images_per_second"]) > 0


def test_curves_queries_and_what_was_found_are_kept_for_those_that_are_shown(made):
    results = made / "results"
    curves = {(line["name"], line["epoch"]) for line in table.read_csv(results / table.CURVES)}
    assert {("frozen-margin-seed0", "1"), ("frozen-margin-seed0", "2")} <= curves
    assert not any(name.startswith(("trials", "finetuned")) for name, _ in curves)
    found = table.read_csv(results / table.FOUND)
    assert {line["name"] for line in found} == {"frozen-features-seed0", "frozen-margin-seed0"}
    assert {line["rank"] for line in found} == {"1", "2", "3", "4", "5"}
    with gzip.open(results / table.QUERIES, "rt") as file:
        assert {line.split(",")[0] for line in list(file)[1:]} == {
            "frozen-features-seed0",
            "frozen-margin-seed0",
            "finetuned-sndl-seed1",
        }


def test_a_trial_leaves_no_network_and_no_scores_of_the_test_split(made):
    runs = made / "runs" / "UCMerced"
    assert not list((runs / "trials-margin-trial0").glob("*.pt"))
    assert not list((runs / "trials-margin-trial0").glob("evaluation_results/*test*"))
    assert [path.name for path in (runs / "frozen-margin-seed0").glob("*.pt")] == ["last.pt"]
    assert not list((runs / "finetuned-sndl-seed1").glob("*.pt"))
