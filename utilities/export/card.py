"""README.md of an export: a model card in the layout of the Hugging Face hub, filled from the run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utilities.export.subject import Subject
from utilities.export.usage import snippet
from utilities.measures.formulae import USUAL, shortened

METHODS = {
    "diva": "DiVA (Milbich et al., ECCV 2020)",
    "dac": "Divide and Conquer (Sanakoyeu et al., CVPR 2019)",
    "bier": "BIER / A-BIER (Opitz et al., TPAMI 2018)",
    "sndl": "SNDL (Kang et al., TGRS 2021)",
}


def card(folder: Path, config: Mapping[str, Any], subject: Subject) -> str:
    """The whole file: front matter for the hub, then what a reader wants to know, in that order."""
    parts = [
        _front_matter(config, subject),
        _about(config, subject),
        _files(folder, config),
        _input(config, subject.args),
        _scores(subject),
        _training(subject),
        _limits(config, subject),
    ]
    return "\n".join(parts)


def _front_matter(config: Mapping[str, Any], subject: Subject) -> str:
    """YAML, whose values are JSON: it reads that as it is."""
    own = [evaluation for evaluation in subject.evaluations if not _elsewhere(evaluation["protocol"], subject)]
    results = [_hub_result(evaluation, subject) for evaluation in own]
    lines = [
        "---",
        f"library_name: {config['library_name']}",
        "pipeline_tag: image-feature-extraction",
        "tags: [image-retrieval, remote-sensing, multi-label, metric-learning]",
    ]
    if results:
        lines += ["model-index:", f"- name: {json.dumps(subject.name)}", "  results:"]
        lines += [f"  - {json.dumps(result)}" for result in results]
    return "\n".join([*lines, "---", ""])


def _elsewhere(protocol: Mapping[str, Any], subject: Subject) -> bool:
    """Whether images of another archive than the run's were compared; scores of before tell it by its name alone."""
    trained = subject.data["dataset"]
    return bool(protocol.get("other_archive", protocol.get("dataset", trained) != trained))


def _hub_result(evaluation: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    data = str(subject.data["dataset"])
    scores = [(name, score) for name, score in evaluation["scores"].items() if score is not None]
    return {
        "task": {"type": "image-feature-extraction", "name": "multi-label image retrieval"},
        "dataset": {"type": data.lower(), "name": data, "split": evaluation["protocol"]["split"]},
        "metrics": [{"type": name, "name": name, "value": round(score, 4)} for name, score in scores],
    }


def _about(config: Mapping[str, Any], subject: Subject) -> str:
    bands, data, args = config["bands"], subject.data["dataset"], subject.args
    method = METHODS.get(args["method"]) or f"the loss `{args['baseline_loss']}`"
    kind = "Sentinel-2 patches" if data == "BigEarthNet" else "images"
    what = "RGB images" if bands == ["R", "G", "B"] else f"{kind} of the bands {', '.join(bands)}"
    sentences = (
        f"Turns {what} into {config['dimensions']} numbers, a vector of unit length: images whose vectors have a large "
        f"inner product are likely to share labels. The backbone is `{config['arch']}` of {config['library_name']}, "
        f"trained on {data} with {method}. It gives no labels itself: those of the nearest images "
        "of a labelled archive are its guess."
    )
    return f"# {subject.name}\n\n{textwrap.fill(sentences, 110)}\n"


def _files(folder: Path, config: Mapping[str, Any]) -> str:
    lines = ["## Files and how to use them", "", "| file | size | what |", "| --- | --- | --- |"]
    present = [name for name in config["files"] if (folder / name).exists()]
    for name in present:
        lines.append(f"| `{name}` | {size_of(folder / name)} | {config['files'][name]['what']} |")
    lines.append("| `config.json` | | bands, preprocessing, heads and labels in plain values |")
    for name in present:
        lines += ["", f"### {name}", "", *snippet(name, config)]
    return "\n".join([*lines, ""])


def size_of(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size > 1e6 else f"{size / 1e3:.1f} kB"


def _input(config: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    steps = config["preprocessing"]
    lines = ["## Input", ""]
    if args["dataset"] == "Folder":
        lines += [*_reading(config["bands"], args), ""]
    if config["input"]:
        side, dtype = config["input"]["side"], config["input"]["dtype"]
        lines += [f"Images as the data set stores them: {dtype}, {side} x {side} pixels, bands in the order below."]
        if dtype == "uint16":
            lines += [
                "Coarser bands are repeated to that size (each pixel as a square of equal ones), not interpolated."
            ]
    if config["boa_offset"]:
        lines.append(
            f"{config['boa_offset']} is taken off every number but 0 before all else; it is not in the graphs."
        )
    lines += [
        "",
        f"1. Resize to {steps['resize_to']} x {steps['resize_to']}, {steps['interpolation']} with antialiasing"
        " (8-bit images to whole levels).",
        f"2. Take the centre, {steps['centre_crop']} x {steps['centre_crop']}.",
    ]
    if steps["low"] is not None:
        lines.append(f"3. Clamp each band to {_listed(steps['low'])} .. {_listed(steps['high'])}.")
    if steps["per_image_normalisation"]:
        lines.append("3. Subtract each image's own mean of a band and divide by its deviation, which is at least 1.")
        return "\n".join([*lines, "", f"Bands: {', '.join(config['bands'])}.", ""])
    lines += [f"{3 + (steps['low'] is not None)}. Subtract the mean of a band and divide by its deviation:", ""]
    lines += ["| band | mean | deviation |", "| --- | --- | --- |"]
    rows = zip(config["bands"], steps["mean"], steps["std"], strict=True)
    lines += [f"| {band} | {mean:.6g} | {std:.6g} |" for band, mean, std in rows]
    return "\n".join([*lines, ""])


def _reading(bands: list[str], args: Mapping[str, Any]) -> Iterator[str]:
    """How a file of somebody's own archive becomes the pixels that all files of the export take."""
    side, scale, rgb = args["folder_side"], args["folder_band_scale"], bands == ["R", "G", "B"]
    if scale is not None:
        top = 255 if rgb else 10_000
        yield f"Values {scale[0]:g} .. {scale[1]:g} of the files are 0 .. {top} here, those beyond are clamped."
    if scale is not None or not rgb:
        yield 'What a file calls "no data" is 0.'
    yield f"Files of any size were resized to {side} x {side} first, bilinear with antialiasing, to whole numbers."


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _scores(subject: Subject) -> str:
    lines = ["## Scores", ""]
    if not subject.evaluations:
        lines += [
            "Not evaluated with intervals yet; `python evaluate_model.py --load_from_checkpoint RUN` does, and another",
            "export writes it down here.",
        ]
        if subject.validation:
            found = ", ".join(f"{name} {value:.4f}" for name, value in subject.validation.items())
            lines.append(f"On the validation split, by which this network was chosen: {found}.")
    for evaluation in subject.evaluations:
        lines += [*_score_table(evaluation, subject), ""]
    if subject.evaluations:
        lines += [
            "Intervals are 95 % bootstrap intervals over queries; chance is what a random order of the archive scores.",
            "`recall@K` is the share of a query's labels found in the union of the labels of its K nearest images,",
            "`r_precision@K` the share of these whose labels are a subset of the query's, `map@K` averages precisions",
            "under the same rule, and `label_jaccard@K` is the mean Jaccard similarity of label sets.",
        ]
    return "\n".join([*lines, ""])


def _score_table(evaluation: Mapping[str, Any], subject: Subject) -> Iterator[str]:
    protocol = evaluation["protocol"]
    inside, searched = protocol["query_in_gallery"], protocol["gallery_split"]
    against = f"the {protocol['gallery']:,} images of {searched}"
    if inside == protocol["queries"]:
        against = f"the {protocol['gallery'] - 1:,} other images" + (
            f" of {searched}" if searched != protocol["split"] else ""
        )
    elif inside:
        against += f" without itself ({inside:,} queries are among them)"
    elsewhere = _elsewhere(protocol, subject)
    name = f"Another archive than that of training ({protocol['dataset']})" if elsewhere else subject.data["dataset"]
    queries = f"{name}, {protocol['split']} split: {protocol['queries']:,} queries"
    yield f"{queries}, each against {against};"
    codes = protocol.get("codes")
    how = f"{codes['kind']} codes of {codes['bits']} bits, " if codes else ""
    yield f"{how}embedded in {protocol['precision']}; relevance {protocol['relevance']}."
    yield from ("", f"    {_evaluation_command(evaluation, subject, elsewhere)}", "")
    yield from ("| measure | score | 95 % interval | chance |", "| --- | --- | --- | --- |")
    for name, score in evaluation["scores"].items():
        if score is None:
            continue
        low, high = evaluation["interval"][name]
        yield f"| {name} | {score:.4f} | {low:.4f} - {high:.4f} | {evaluation['chance'][name]:.4f} |"


def _evaluation_command(evaluation: Mapping[str, Any], subject: Subject, elsewhere: bool) -> str:
    protocol = evaluation["protocol"]
    words = ["python evaluate_model.py --load_from_checkpoint RUN"]
    words += ["--dataset Folder --source_path DIR"] if elsewhere else []
    words.append(f"--dataset_type {protocol['split']}")
    if protocol["gallery_split"] != protocol["split"]:
        words.append(f"--gallery_split {protocol['gallery_split']}")
    rule, _, threshold = protocol["relevance"].partition(">=")
    if rule != "subset":
        words.append(f"--relevance {rule}" + (f" --relevance_threshold {threshold}" if threshold else ""))
    measured = shortened(list(evaluation["scores"]))
    if measured != [*USUAL]:
        words.append(f"--eval_metric {' '.join(measured)}")
    if protocol["precision"] != subject.args["precision"]:
        words.append(f"--precision {protocol['precision']}")
    if codes := protocol.get("codes"):
        words.append(f"--codes {codes['kind']} --code_bits {codes['bits']}")
        words += [f"--code_seed {codes['seed']}"] if codes.get("seed") else []
    words += {"best": [], "last": ["--checkpoint last"], "initial": ["--is_evaluate_initial"]}[subject.which]
    return " ".join(words)


def _training(subject: Subject) -> str:
    data, args, environment = subject.data, subject.args, subject.environment
    weights = args["weights"] if args["weights"] in ("none", "imagenet", "imagenet_v2") else Path(args["weights"]).name
    after = f", saved after epoch {subject.epoch}" if subject.epoch is not None else ""
    chosen = {"best": " (best validation recall@1)", "last": "", "initial": ": the network before training"}
    facts = {
        "images": f"{data['train_images']:,} of {data['dataset']}, {data['val_images']:,} for validation",
        "labels": len(data["label_names"]),
        "epochs": f"{args['nb_epochs']}{after}{chosen[subject.which]}",
        "starting weights": weights,
        "precision": environment.get("precision", "not known"),
        "device": f"{environment.get('device', 'not known')}, {environment.get('world_size', 1)} process(es)",
        "software": f"PyTorch {environment.get('torch', '?')}, torchvision {environment.get('torchvision', '?')}",
        "code": f"git commit {environment.get('git_commit') or 'not known'}",
        "fingerprint of train": data["train_fingerprint"],
        "fingerprint of val": data["val_fingerprint"],
    }
    lines = ["## Training", "", f"    {subject.training}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {fact} |" for name, fact in facts.items()]
    return "\n".join([*lines, "", "Fingerprints are SHA-256 over the names and labels of a split.", ""])


def _limits(config: Mapping[str, Any], subject: Subject) -> str:
    return f"""## Limits

* Labels that it learned from: {", ".join(config["label_names"])}.
* It knows {subject.data["dataset"]}, its sensor, resolution and scenes; what it does elsewhere was not measured.
* Scores are of one training run. The files compute in float32: where scores above are of bf16, they differ in the
  third digit or later.
* This card states no licence for the weights: whoever publishes them has to, and the data set has one of its own.
"""
