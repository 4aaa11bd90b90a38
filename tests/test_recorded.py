"""Flags as a run folder recorded them, and as somebody edited them since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import parameters
from tests.scripts import run_inside
from utilities.errors import UserError
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder


def recorded(folder: Path, of: str = "baseline", *argv: str, **edited: Any) -> dict[str, Any]:
    flags = parameters.parse(of, argv).recorded | edited
    (folder / "args.json").write_text(json.dumps(flags))
    return flags


def read_by(script: str, folder: Path) -> None:
    if script == "evaluate":
        parameters.of_run(folder, parameters.parse_evaluation(["--load_from_checkpoint", str(folder)]))
    else:
        parameters.parse(script, ["--load_from_checkpoint", str(folder)])


@pytest.mark.parametrize("script", ["baseline", "evaluate"])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("lr", "fast", "a number"),
        ("lr", None, "a number"),
        ("lr", [0.1], "a number"),
        ("lr", True, "a number"),
        ("sz_embedding", "64", "a whole number"),
        ("sz_embedding", 64.5, "a whole number"),
        ("optim", "sdg", "one of"),
        ("optim", ["sgd"], "one of"),
        ("frozen", "no", "true or false"),
        ("freeze_batch_norm", 1, "true or false"),
        ("source_path", 3, "a text"),
        ("eval_metric", "recall@1", "a list of one or more, each a text"),
        ("tau", [], "a list of one or more, each a whole number"),
        ("crop_area", [0.5], "a list of 2, each a number"),
        ("dataset", "ImageNet", "one of"),
        ("num_workers", {}, "a whole number"),
    ],
)
def test_a_value_that_its_flag_does_not_take_is_named(tmp_path, script, name, value, allowed):
    recorded(tmp_path, **{name: value})
    with pytest.raises(UserError) as error:
        read_by(script, tmp_path)
    message = str(error.value)
    assert message.startswith(f'{tmp_path / "args.json"} has "{name}": {json.dumps(value)}, but --{name} is {allowed}')


@pytest.mark.parametrize("script", ["baseline", "evaluate"])
def test_a_number_beyond_its_bounds_names_the_file(tmp_path, script):
    recorded(tmp_path, batch_size=0)
    with pytest.raises(UserError, match=r"args\.json: --batch_size 0 must be at least 1"):
        read_by(script, tmp_path)


@pytest.mark.parametrize("edited", [{"method": 3}, {"method": None}, {"dataset": ["Demo"]}])
def test_what_names_no_method_or_data_set_is_no_run(tmp_path, edited):
    recorded(tmp_path, **edited)
    with pytest.raises(UserError, match="does not hold the flags of a run"):
        read_by("baseline", tmp_path)


@pytest.mark.parametrize("method", parameters.METHODS)
@pytest.mark.parametrize("dataset", ["Demo", "BigEarthNet"])
def test_what_a_run_records_is_taken_back(tmp_path, method, dataset):
    """With every default, and with the presets of the authors."""
    presets = [f"--{method}_preset", "authors"] if method in parameters.PRESETS else []
    for argv in ([], presets, ["--crop_area", "0.25", "1", "--gpu_ids", "0"]):
        flags = recorded(tmp_path, method, "--dataset", dataset, *argv)
        checkpoint.save(tmp_path, checkpoint.LAST, {"settings": flags})
        read_by(method, tmp_path)
        read_by("evaluate", tmp_path)


@pytest.mark.parametrize("script", ["baseline", "evaluate"])
@pytest.mark.parametrize("name", [checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST])
def test_another_value_than_the_run_was_trained_with_is_named(tmp_path, script, name):
    flags = recorded(tmp_path, lr=0.5, batch_size=24, nb_epochs=9, source_path="elsewhere")
    checkpoint.save(tmp_path, name, {"settings": flags | {"nb_epochs": 3, "source_path": "here"}})
    if (script, name) != ("baseline", checkpoint.BEST):  # from which no training goes on
        read_by(script, tmp_path)
    recorded(tmp_path, lr=0.25, batch_size=48)
    with pytest.raises(UserError) as error:
        read_by(script, tmp_path)
    assert "changed since the run was trained" in str(error.value)
    assert "--batch_size 48, trained with 24" in str(error.value)
    assert "--lr 0.25, trained with 0.5" in str(error.value)
    del flags["random_seed"]
    (tmp_path / "args.json").write_text(json.dumps(flags))
    with pytest.raises(UserError, match="--random_seed -, trained with 0"):
        read_by(script, tmp_path)


def test_runs_of_before_and_damaged_checkpoints_tell_no_flags(tmp_path):
    recorded(tmp_path, lr=0.5)
    checkpoint.save(tmp_path, checkpoint.LAST, {"step": 1})
    read_by("baseline", tmp_path)
    (tmp_path / checkpoint.LAST).write_bytes(b"PK\x03\x04garbage")
    read_by("baseline", tmp_path)
    (tmp_path / "args.json").write_text(json.dumps({"method": "baseline", "dataset": "Demo"}))
    read_by("evaluate", tmp_path)


def test_a_run_whose_flags_were_edited_is_neither_trained_on_nor_evaluated(demo_run, tmp_path):
    folder = tmp_path / "baseline"
    shutil.copytree(demo_run[1], folder)
    flags = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(flags | {"random_seed": 7, "image_size": 64}))
    before = (folder / "metrics.jsonl").read_bytes()
    for script, more in (("train_baseline", ["--nb_epochs", 2]), ("evaluate_model", ["--dataset_type", "val"])):
        done = run_inside(script, "--load_from_checkpoint", folder, *more, code=2)
        assert "--image_size 64, trained with 32" in done.stderr
        assert "--random_seed 7, trained with 0" in done.stderr
        assert "Traceback" not in done.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "{}", '{"wandb_run_id": 3}', "{"])
def test_an_environment_that_does_not_name_the_run_of_wandb_is_named(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(UserError, match=r"environment\.json"):
        run_folder.wandb_run_id(tmp_path)
