"""Flags: spelling, defaults that follow from others, resume, and every mistake answered with exit code 2."""

import inspect
import json
import os
import re
from pathlib import Path

import pytest
import torch

import parameters
from batchminer import MINERS
from criteria import CRITERIA
from utilities.errors import UserError
from utilities.flags import of_cv4rs
from utilities.flags.derive import derive
from utilities.flags.flag import AUTO

ROOT = Path(__file__).parent.parent
# what scripts know and flags do not say: shapes, labels, which embeddings there are
WIRED = {"relation", "num_classes", "source_path", "split", "features", "sizes", "width", "widths", "directions",
         "batch_size", "labels"}  # fmt: skip


def parse(*argv):
    return parameters.parse("baseline", argv)


def test_both_spellings_and_aliases():
    assert parse("--nb-epochs", "3").nb_epochs == 3
    assert parse("--nb_epochs=3").nb_epochs == 3
    assert parse("--dataset-name", "UCMerced").dataset == "UCMerced"
    assert parse("--savename", "a-b_c").savename == "a-b_c", "values keep their dashes"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nb_epoch", "3"], "unrecognized arguments: --nb_epoch 3; near: --nb_epochs"),  # no abbreviations
        (["--margin-gama=.1", "--lr", "1"], "near: --margin_gamma"),
        (["--nothing_like_it"], "unrecognized arguments: --nothing_like_it\n"),
        (["--lr", "1", "--frozen", "True"], "--frozen takes no value, it is on where it stands"),
        (["--gpu_ids", "0,1"], "invalid int value: '0,1'; several values are given with blanks between"),
        (["--nb_epochs", "three"], "invalid int"),
        (["--dataset", "ImageNet"], "invalid choice"),
        (["--baseline_batch_miner", "hardest"], "invalid choice"),
    ],
)
def test_mistakes_of_the_command_line_exit_with_2(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) <= 2, "one message, not the whole usage"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nb_epochs", "-1"], "--nb_epochs -1 must be at least 0"),
        *(
            ([f"--{name}", value], f"--{name} {value} must be at {bound}")
            for name, value, bound in (
                ("lr", "-1", "least 0"),
                ("tau", "-5", "least 0"),
                ("weight_decay", "-1", "least 0"),
                ("color_jitter", "-1", "least 0"),
                ("color_jitter", "3", "most 1"),
                ("random_seed", "-1", "least 0"),
                ("save_every_steps", "-1", "least 0"),
                ("clip_gradient", "-1", "least 0"),
                ("gamma", "-1", "least 0"),
                ("num_workers", "-1", "least 0"),
            )
        ),
        (["--image_size", "1"], "--image_size 1 must be at least 2"),
        (
            ["--image_size", "32", "--small_image_size", "64", "--small_epochs", "1"],
            "64 is larger than --image_size 32",
        ),
        (["--demo_seed", "-1"], "--demo_seed -1 must be at least 0"),
        (["--nb_epochs", "3", "--small_epochs", "4"], "--small_epochs 4 is more than --nb_epochs 3"),
        (["--batch_size", "121"], "no multiple of --num_samples_per_class"),
        (["--image_size", "64", "--resize_to", "32"], "--resize_to 32 is smaller"),
        (["--crop_area", "0.5", "0.2"], "0 < LOW <= HIGH <= 1"),
        (["--negative_threshold", "0.6"], "negative < positive"),
        (["--margin_gamma", "inf"], "--margin_gamma inf must be a finite number"),
        *((["--savename", name], "names one folder") for name in ("a/b", "", ".a", "a\0b", "é" * 101)),
        (["--save_path", str(ROOT / "README.md")], "README.md is a file; give a folder"),
        (["--save_path", str(ROOT / "README.md" / "runs")], "README.md is a file; give a folder"),
        (["--eval_metric", "recal@1"], "recal@1"),
        (["--load_from_checkpoint", "nowhere"], "not a run folder"),
        (["--num_workers", "-1"], "--num_workers -1 must be at least 0"),
        (["--relevance_threshold", "nan"], "--relevance_threshold nan must be a finite number"),
    ],
)
def test_wrong_combinations_name_the_flags(argv, said):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("method", "flag", "value"),
    [
        *(("diva", name, "-1") for name in ("diva_alpha_nce", "diva_adversarial_lr")),
        ("diva", "diva_adversarial_hidden", "0"),
        *(("dac", name, "0") for name in ("dac_kmeans_iterations", "dac_kmeans_redo")),
        *(("bier", name, "-1") for name in ("bier_prefit_steps", "bier_prefit_lr", "bier_adversarial_lr")),
        ("bier", "bier_hidden", "0"),
        ("sndl", "sndl_bce_weight", "-1"),
    ],
)
def test_numbers_of_a_method_have_bounds(method, flag, value):
    with pytest.raises(UserError, match=f"--{flag} {value} must be at least"):
        parameters.parse(method, [f"--{flag}", value])


@pytest.mark.parametrize(
    ("method", "argv", "said"),
    [
        ("bier", "--bier_groups 2 --bier_sizes 128 128 256", "--bier_groups without effect with --bier_sizes 128 128"),
        ("bier", "--bier_shrinkage 0.1", "--bier_shrinkage without effect with --bier_boosting eta"),
        ("bier", "--bier_prefit_lr 0.1", "--bier_prefit_lr without effect with --bier_prefit_steps 0"),
        ("sndl", "--num_samples_per_class 4", "--num_samples_per_class without effect in SNDL"),
        ("baseline", "--tau 3 --gamma 0.5", "--tau, --gamma without effect with --scheduler onecycle"),
        ("baseline", "--scheduler exp --tau 3 --gamma 0.9", "--tau without effect with --scheduler exp"),
        ("baseline", "--frozen --freeze_batch_norm no", "--freeze_batch_norm without effect with --frozen"),
        ("dac", "--frozen --backbone_lr 1e-4", "--backbone_lr without effect with --frozen"),
        ("diva", "--criterion_lr 1e-3", "--criterion_lr without effect with --margin_learn_beta no"),
        (
            "baseline",
            "--baseline_batch_miner multilabel_semihard --positive_threshold 0.3 --negative_threshold 0.1",
            "--positive_threshold, --negative_threshold without effect with --baseline_batch_miner multilabel_semihard",
        ),
        ("baseline", "--momentum 0.5", "--momentum without effect with --optim adamw"),
        ("baseline", "--small_image_size 32", "--small_image_size without effect with --small_epochs 0"),
        ("baseline", "--ben_labels 43", "--ben_labels without effect with --dataset Demo"),
        ("baseline", "--dataset BigEarthNet --color_jitter 0.2", "--color_jitter without effect with --dataset Big"),
        (
            "baseline",
            "--dataset Folder --boa_offset 1000 --bands 1,2 --band_scale 0 1",
            "--boa_offset without effect with --folder_band_scale 0.0 1.0",
        ),
        ("baseline", "--dataset Folder --boa_offset 1000", "--boa_offset without effect with --folder_bands rgb"),
        ("baseline", "--relevance_threshold 0.3", "--relevance_threshold without effect with --relevance subset"),
        ("baseline", "--positive_threshold 0.3 --label_relation identical", "with --label_relation identical"),
        ("baseline", "--semihard_margin 0.1", "--semihard_margin without effect with --baseline_batch_miner softhard"),
        ("baseline", "--triplet_margin 0.1", "--triplet_margin without effect with --baseline_loss margin"),
        (
            "baseline",
            "--baseline_loss triplet --margin_beta 1",
            "--margin_beta without effect with --baseline_loss tri",
        ),
        (
            "baseline",
            "--baseline_loss batch_nca --label_relation jaccard",
            "--label_relation without effect with --base",
        ),
        ("baseline", "--smoothap_temperature 0.1 --baseline_loss mulsupcon", "--smoothap_temperature without effect"),
        ("baseline", "--baseline_batches shuffled --num_samples_per_class 3", "--num_samples_per_class without effect"),
        ("diva", "--nearest_beyond_lower_cutoff 0.3", "without effect with --diva_batch_miner distance --diva_shared"),
        (
            "diva",
            "--distance_positive distance --diva_shared_miner random_distance",
            "--distance_positive without effect",
        ),
    ],
)
def test_training_flags_without_effect_are_noted(method, argv, said, capsys):
    parameters.start_run(method, argv.split())
    notes = capsys.readouterr().out.splitlines()
    assert len(notes) == 1
    assert said in notes[0]


@pytest.mark.parametrize(
    ("method", "argv"),
    [
        ("baseline", "--scheduler exp --gamma 0.9"),
        ("bier", "--frozen --backbone_lr 1e-4"),
        ("diva", "--criterion_lr 1e-3 --margin_learn_beta yes"),
        ("diva", "--diva_batch_miner multilabel_semihard --diva_shared_miner random_distance --positive_threshold 0.3"),
        ("baseline", "--baseline_loss multi_similarity --label_relation identical"),
        ("bier", "--bier_shrinkage 0.1 --bier_boosting additive --bier_groups 2 --positive_threshold 0.3"),
        ("baseline", "--tau 3 --scheduler step --num_samples_per_class 3 --margin_beta 1 --criterion_lr 0.1"),
        ("baseline", "--semihard_margin 0.1 --baseline_batch_miner semihard --demo_side 64 --color_jitter 0.2"),
        (
            "baseline",
            "--baseline_loss batch_nca --batch_nca_temperature 0.2 --relevance jaccard --relevance_threshold 0.3",
        ),
        ("baseline", "--baseline_loss multi_similarity --multi_similarity_base 1 --positive_threshold 0.3"),
        ("diva", "--distance_upper_cutoff 1 --distance_positive distance --intra_random_with_replacement yes"),
        ("dac", "--distance_lower_cutoff 0.3 --dac_batch_miner distance --momentum 0.5 --optim sgd"),
        ("sndl", "--sndl_temperature 0.1 --dataset MLRSNet --mlrsnet_labels as_is --weights none"),
    ],
)
def test_flags_that_have_an_effect_are_not(method, argv, capsys):
    parameters.start_run(method, argv.split())
    assert "without effect" not in capsys.readouterr().out


def test_of_several_processes_one_notes_flags_without_effect(capsys, monkeypatch):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        parameters.start_run("baseline", ["--momentum", "0.5"])
        assert len(capsys.readouterr().out.splitlines()) == lines


def test_a_search_by_no_head_is_refused():
    with pytest.raises(UserError, match="--diva_head_weights are all 0"):
        parameters.parse("diva", ["--diva_head_weights", "0", "0", "0", "0"])


def test_a_name_that_wandb_refuses_is_refused_before_the_run():
    pytest.importorskip("wandb")
    with pytest.raises(UserError, match="--project 'a/b' is no name"):
        parameters.start_run("baseline", ["--log_online", "--wandb_dryrun", "--project", "a/b"])


def test_a_batch_of_broken_classes_names_the_preset_and_the_nearest_sizes():
    with pytest.raises(UserError, match=r"3 \(of --diva_preset paper\); .*: give 30 or 33$"):
        parameters.parse("diva", ["--batch_size", "32"])
    with pytest.raises(UserError, match=r"--num_samples_per_class 5; .*: give 5$"):
        parameters.parse("diva", ["--batch_size", "3", "--num_samples_per_class", "5"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--query", "x", "--map_method", "pca", "--is_plot_dist"], "--is_plot_dist, --map_method without effect"),
        (["--top", "3"], "--top without effect without --query"),
        (["--comparison_path", "x"], "--comparison_path without effect with one run"),
        (["--checkpoint", "last", "--is_evaluate_initial"], "--checkpoint without effect"),
        (
            ["--query", "x", "--relevance", "share", "--scores_only"],
            "--relevance, --scores_only without effect with --q",
        ),
        (["--export", "onnx", "x", "--retrieval_files", "2"], "--retrieval_files without effect with --export"),
        (["--export", "onnx", "x", "--protocol", "grn"], "--protocol without effect with --export"),
        (["--scores_only", "--retrieval_queries", "3"], "--retrieval_queries without effect with --scores_only"),
        (["--folder_seed", "3"], "--folder_seed without effect without --dataset"),
        (["--dataset", "Folder", "--source_path", "x", "--folder_seed", "3"], ""),
        (["--query", "x", "--top", "3"], ""),
    ],
)
def test_evaluation_flags_without_effect_are_noted(argv, said, capsys):
    parameters.start_evaluation(["--load_from_checkpoint", "run", *argv])
    told = capsys.readouterr().out
    assert said in told
    assert bool(told) == bool(said)


@pytest.mark.parametrize(
    ("of_run", "argv", "said"),
    [
        ("UCMerced", "--ben_splits x", "--ben_splits without effect for a run of UCMerced"),
        ("UCMerced", "--boa_offset 1000 --query a.tif", "--boa_offset without effect for a run of UCMerced, which"),
        ("UCMerced", "--query a.tif --query_bands B02,B03", "--query_bands without effect for a run of UCMerced"),
        ("UCMerced", "--labels_csv x", "--folder_labels_csv without effect without --dataset"),
        ("Folder", "--boa_offset 1000", "--boa_offset without effect for a run of Folder, which"),
        (
            "BigEarthNet",
            "--dataset Folder --source_path x --ben_splits x",
            "--ben_splits without effect with --dataset",
        ),
        ("BigEarthNet", "--ben_splits x --boa_offset 1000 --query a.tif --query_bands B02,B03", ""),
        ("BigEarthNet", "--dataset Folder --source_path x --boa_offset 1000 --labels_csv x", ""),
        ("UCMerced", "--dataset Folder --source_path x --boa_offset 1000 --bands 1,2,3", ""),
        ("Folder --bands 1,2", "--boa_offset 1000 --labels_csv x", ""),
    ],
)
def test_evaluation_flags_that_no_run_reads_are_noted(of_run, argv, said, tmp_path, capsys):
    recorded = parameters.parse("baseline", ["--dataset", *of_run.split(), "--weights", "none"])
    (tmp_path / "args.json").write_text(json.dumps(dict(recorded)))
    parameters.start_evaluation(["--load_from_checkpoint", str(tmp_path), *argv.split()])
    told = capsys.readouterr().out
    assert said in told
    assert bool(told) == bool(said)


def test_a_miner_beside_a_loss_of_all_pairs_is_noted(capsys):
    parameters.start_run("baseline", ["--baseline_loss", "batch_nca", "--baseline_batch_miner", "distance"])
    assert "--baseline_batch_miner without effect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--eval_batch_size", "0"], "--eval_batch_size 0 must be at least 1"),
        (["--num_workers", "-1"], "--num_workers -1 must be at least 0"),
        (["--retrieval_queries", "-2"], "--retrieval_queries -2 must be at least 0"),
        (["--top", "0"], "--top 0 must be at least 1"),
        (["--relevance_threshold", "-0.5"], "--relevance_threshold -0.5 must be at least 0"),
        (["--relevance_threshold", "1.5"], "--relevance_threshold 1.5 must be at most 1"),
        (["--relevance_threshold", "nan"], "--relevance_threshold nan must be a finite number"),
    ],
)
def test_wrong_numbers_of_an_evaluation_name_the_flag(argv, said):
    with pytest.raises(UserError) as error:
        parameters.parse_evaluation(["--load_from_checkpoint", "run", *argv])
    assert said in str(error.value)


def test_an_evaluation_reads_images_as_the_run_did_unless_told_otherwise(tmp_path):
    recorded = parse("--skip_broken_images", "--eval_batch_size", "7", "--num_workers", "5").recorded
    (tmp_path / "args.json").write_text(json.dumps(recorded))

    def read(*argv):
        evaluation = parameters.parse_evaluation(["--load_from_checkpoint", str(tmp_path), *argv])
        run = parameters.of_run(tmp_path, evaluation)
        return run.skip_broken_images, run.eval_batch_size, run.num_workers

    assert read() == (True, 7, 5)
    assert read("--eval_batch_size", "9", "--num_workers", "0") == (True, 9, 0)
    (tmp_path / "args.json").write_text(json.dumps(recorded | {"skip_broken_images": False}))
    assert read() == (False, 7, 5)
    assert read("--skip_broken_images") == (True, 7, 5)


def test_defaults_follow_from_weights_and_data_set():
    scratch, tuned = parse("--weights", "none"), parse("--weights", "imagenet")
    assert (scratch.optim, scratch.scheduler, scratch.freeze_batch_norm) == ("adamw", "onecycle", False)
    assert (tuned.optim, tuned.scheduler, tuned.freeze_batch_norm) == ("adam", "step", True)
    assert tuned.lr == 1e-5
    assert parse("--weights", "none", "--lr", "0.1").backbone_lr == 0.1
    assert parse("--dataset", "MLRSNet").image_size == 224
    assert parse("--dataset", "MLRSNet").resize_to == 256
    assert (parse("--dataset", "BigEarthNet").image_size, parse("--dataset", "BigEarthNet").resize_to) == (
        100,
        120,
    )
    assert parse("--dataset", "MLRSNet").weights == "imagenet"
    assert parse("--dataset", "Demo").weights == "none"


def test_metric_names_with_an_open_cut_off_stand_for_all_of_them():
    assert parse("--eval_metric", "map@K").eval_metric == ["map@1", "map@2", "map@4", "map@8"]


def test_settings_are_read_only():
    with pytest.raises(AttributeError, match="read-only"):
        parse().lr = 3


def test_an_offline_run_by_either_name():
    for name in ("--wandb-dry-run", "--wandb_dryrun"):
        assert parse("--log_online", name).wandb_mode == "offline"


def test_settings_keep_no_secret():
    settings = parse("--wandb_key", "s3cret", "--log_online")
    assert "s3cret" not in json.dumps(settings.recorded)


def test_reading_flags_starts_nothing(monkeypatch, capsys):
    """Nothing but the command line decides what is read from it; whoever wants the run started says so."""
    argv = ["--gpu_ids", "0", "1", "--log_online", "--wandb_key", "s3cret", "--project", "a/b", "--momentum", "0.5"]
    for name in ("RANK", "WANDB_API_KEY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    read = parse(*argv)
    assert dict(os.environ) == before
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WANDB_API_KEY", "other")
    assert dict(parse(*argv)) == dict(read)
    assert capsys.readouterr().out == ""


def test_every_hyper_parameter_of_a_registered_class_is_a_flag():
    """`Registry.build` takes them from the settings; a forgotten flag would only show when the class is chosen."""
    known = {flag.name for flags in parameters.GROUPS.values() for flag in flags}
    for registry in (MINERS, CRITERIA):
        for name in registry:
            missing = [f for f in registry.flags(name, WIRED) if f not in known]
            assert not missing, f"{registry.kind} {name} needs --{', --'.join(missing)}"


def test_a_script_lists_only_flags_that_do_something_there():
    readers = {
        "distance_positive": {"diva"},
        "intra_random_with_replacement": {"diva"},
        "triplet_margin": {"baseline"},
        "criterion_lr": {"baseline", "diva", "dac"},
    }
    for name, methods in readers.items():
        listing = {m for m in parameters.METHODS for group in parameters.groups_of(m).values() for flag in group
                   if flag.name == name}  # fmt: skip
        assert listing == methods, name


def test_registered_classes_have_keyword_only_parameters_without_defaults():
    for registry in (MINERS, CRITERIA):
        for name in registry:
            for p in list(inspect.signature(registry[name].__init__).parameters.values())[1:]:
                assert p.kind is p.KEYWORD_ONLY, f"{registry.kind} {name}: {p.name}"
                assert p.default is p.empty, f"{registry.kind} {name}: {p.name}; numbers live in parameters.py"


def test_the_list_of_flags_is_what_the_program_knows():
    written = (ROOT / "docs" / "flags.md").read_text()
    assert written == parameters.page() + "\n", "run `python parameters.py > docs/flags.md`"


def test_the_list_of_flags_says_who_reads_them():
    rows = [
        line.split(" | ")
        for line in parameters.page().splitlines()
        if line.startswith("| `--") and "_preset " not in line
    ]
    read_by = {}
    for row in rows:
        read_by.setdefault(row[0].strip("| `-"), row[-1].strip(" |"))
    assert read_by["diva_moco_temperature"] == "`criteria/moco.py (fast_moco)`"
    assert read_by["demo_seed"] == "`datasets/demo/dataset.py (Demo)`"
    assert read_by["dac_cluster_on"] == "`train_dac.py`"
    assert "`utilities/training/engine.py`" in read_by["clip_gradient"]
    assert all(readers and readers != "`...`" for readers in read_by.values())
    assert "utilities/study" not in parameters.page()  # it has a --source_path of its own


def test_resume_reads_every_flag_from_the_run_folder(tmp_path):
    recorded = parse("--nb_epochs", "7", "--lr", "0.25", "--dataset", "UCMerced").recorded
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    again = parse("--load_from_checkpoint", str(tmp_path))
    assert (again.nb_epochs, again.lr, again.dataset) == (7, 0.25, "UCMerced")
    assert parse("--load_from_checkpoint", str(tmp_path), "--nb_epochs", "9").nb_epochs == 9
    assert parse("--load_from_checkpoint", str(tmp_path), "--lr", "0.25").lr == 0.25, "saying the same is no change"
    with pytest.raises(UserError, match=r"has --lr 0\.25, not 0\.5; --momentum 0\.9, not 0\.1: leave them out"):
        parse("--load_from_checkpoint", str(tmp_path), "--lr", "0.5", "--momentum", "0.1")


def test_a_resumed_run_finds_its_data_elsewhere(tmp_path):
    recorded = parse("--dataset", "BigEarthNet", "--ben_splits", "lists").recorded
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    moved = ("--ben_splits", "elsewhere", "--ben_index_path", "index", "--cache_path", "cache")
    run = parse("--load_from_checkpoint", str(tmp_path), *moved)
    evaluation = parameters.parse_evaluation(["--load_from_checkpoint", str(tmp_path), *moved])
    for settings in (run, parameters.of_run(tmp_path, evaluation)):
        assert (settings.ben_splits, settings.ben_index_path, settings.cache_path) == ("elsewhere", "index", "cache")


def test_weights_are_read_once_only(tmp_path):
    """A checkpoint holds every tensor: the file that a run began with may be gone."""
    weights = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, weights)
    recorded = parse("--weights", str(weights)).recorded
    assert "initial_weights" not in recorded
    weights.unlink()
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    resume = ("--load_from_checkpoint", str(tmp_path))
    assert parse(*resume).initial_weights == str(weights), "killed before its first checkpoint"
    (tmp_path / "last.previous.pt").touch()
    assert parse(*resume).initial_weights == "none"
    assert parse(*resume).weights == str(weights)


@pytest.mark.parametrize(
    ("method", "argv", "said"),
    [
        ("dac", [], ["dac_finetune_epoch stays 38; a new run of 80 epochs would have 76", "dac_merge_epoch stays 38"]),
        ("dac", ["--dac_finetune_epoch", "30"], []),
        ("sndl", [], ["sndl_momentum_epochs stays 25 37; a new run of 80 epochs would have 49 74"]),
        ("baseline", [], []),
    ],
)
def test_epochs_that_a_longer_run_keeps_are_noted(tmp_path, capsys, method, argv, said):
    recorded = parameters.parse(method, ["--nb_epochs", "40", *argv]).recorded
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    parameters.start_run(method, ["--load_from_checkpoint", str(tmp_path)])
    assert "stays" not in capsys.readouterr().out
    parameters.start_run(method, ["--load_from_checkpoint", str(tmp_path), "--nb_epochs", "80"])
    told = capsys.readouterr().out
    assert told.count("stays") == len(said)
    assert all(note in told for note in said)


@pytest.mark.parametrize("content", ["{}", "[]", '{"method": "diva"}', "{"])
def test_flags_that_are_none_of_a_run_are_refused(tmp_path, content):
    (tmp_path / "args.json").write_text(content)
    with pytest.raises(UserError, match=r"args\.json (does not hold the flags of a run|cannot be read)"):
        parse("--load_from_checkpoint", str(tmp_path))


def test_resume_with_another_script_is_refused(tmp_path):
    recorded = parse().recorded | {"method": "diva"}
    (tmp_path / "args.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match=r"train_diva\.py"):
        parse("--load_from_checkpoint", str(tmp_path))


def test_the_authors_merge_slices_at_the_first_epoch_from_eight_nineteenths_on():
    """`epoch >= finetune_epoch * 8 / 19` of their code: the ceiling."""
    recorded = {**parameters.parse("dac", ["--dac_preset", "authors"]), "dac_merge_epoch": AUTO}
    for finetune in range(3, 260):
        merge = derive({**recorded, "dac_finetune_epoch": finetune, "nb_epochs": finetune + 5})["dac_merge_epoch"]
        assert merge == next(epoch for epoch in range(finetune + 1) if epoch >= finetune * 8 / 19)


def test_presets_of_authors_crop_and_count_as_they_do():
    for method in ("diva", "dac"):
        args = parameters.parse(method, [f"--{method}_preset", "authors"])
        assert args.crop_area == [0.08, 1.0]
        assert args.margin_counted == "triplets"
        assert parameters.parse(method, []).margin_counted == "terms"
    assert parameters.parse("bier", ["--bier_preset", "authors"]).decay_kernels_only


def test_flags_of_cv4rs_are_answered_with_what_to_give_instead(capsys):
    """Those that were published, in their spelling: with `-`, capitals and all."""
    for flag in ("--backbone-wd", "--is_beta_classSpecific", "--diva_selfSpecific_loss", "--diva-evaluation-weight"):
        with pytest.raises(UserError, match=f"{flag.replace('-', '_').strip('_').lower()} is a flag of CV4RS"):
            parameters.parse("diva", [flag, "0.1"])
    with pytest.raises(UserError, match="give --sndl_momenta"):
        parameters.parse("sndl", ["--sndl_memory_momentum", "0.5"])
    with pytest.raises(UserError, match="saved in the run folder"):
        parameters.parse_evaluation(["--load_from_checkpoint", "run", "--save_path", "elsewhere"])


def test_every_answer_names_flags_that_exist():
    known = {flag.name for flags in parameters.GROUPS.values() for flag in flags}
    known |= {flag.name for flag in parameters.EVALUATION}
    for answers in (of_cv4rs.ANSWERS, of_cv4rs.OF_EVALUATION):
        for name, answer in answers.items():
            assert name not in known - {"save_path"}
            named = set(re.findall(r"--([a-z_0-9]+[a-z0-9])(?![a-z_.0-9])", answer))
            assert named <= known, (name, named - known)


def test_a_penalty_of_cv4rs_is_not_taken_for_a_sum():
    with pytest.raises(UserError, match="--bier_norm_reduction mean"):
        parameters.parse("bier", ["--bier_lambda_weight", "1e5"])
    assert parameters.parse("bier", ["--bier_preset", "authors"]).bier_lambda_weight == 1e5


def test_a_dry_run_alone_is_an_offline_run():
    assert parameters.parse("baseline", ["--wandb_dryrun"]).wandb_mode == "offline"
