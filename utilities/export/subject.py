"""What is exported, and the folder that takes it: one network's, whatever formats lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utilities.errors import UserError
from utilities.files import check_writable, read_json, write_json
from utilities.flags.idle import of_digital_numbers
from utilities.neighbours import embedding_file
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder

CONFIG, CARD = "config.json", "README.md"
MARK = "multilabel-rs-retrieval export"  # what tells a config.json of ours from others
VERSION = 1


class Subject(NamedTuple):
    """A network of a saved run, with what there is to say about it.

    name         of the run's folder
    which        "best", "last" or "initial"
    network      `architectures.embedding.EmbeddingNetwork`
    data         description of its data, as checkpoints hold it
    args         every flag of the run
    environment  content of environment.json
    training     the command that trained it
    epoch        after which the network was saved; None where it is not known
    evaluations  contents of scores.json, of this network
    validation   its scores on the val split in training; empty where they are not known
    """

    name: str
    which: str
    network: Any
    data: Mapping[str, Any]
    args: Mapping[str, Any]
    environment: Mapping[str, Any]
    training: str
    epoch: int | None
    evaluations: Sequence[Mapping[str, Any]]
    validation: Mapping[str, float]

    @property
    def digest(self) -> str:
        """SHA-256 of weights, buffers and what is done to pixels before them."""
        facts = {key: value for key, value in preprocessing(self.data).items() if value is not None}
        return embedding_file.digest(self.network, [], facts)


def read_subject(
    folder: Path, checkpoint_name: str, which: str, network: Any, data: Mapping[str, Any], training: str
) -> Subject:
    """Of a run's folder; evaluations from before the network was saved last are another network's."""
    payload = checkpoint.load(folder, checkpoint_name) or {}
    saved_at = checkpoint.present(folder, checkpoint_name)[0].stat().st_mtime
    initial = which == "initial"
    found = sorted((folder / "evaluation_results").glob(f"{which}_*/scores.json"))
    return Subject(
        name=folder.resolve().name,
        which=which,
        network=network.eval(),
        data=data,
        args=run_folder.read_args(folder),
        environment=read_json(folder / run_folder.ENVIRONMENT),
        training=training,
        epoch=None if initial else payload.get("epoch"),
        evaluations=[read_json(path) for path in found if initial or path.stat().st_mtime >= saved_at],
        validation={} if initial else payload.get("scores", {}),
    )


def preprocessing(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to pixels, in this order, from the description of a run's data."""
    return {
        "resize_to": data["resize_to"],
        "interpolation": data.get("interpolation", "bilinear"),
        "antialias": True,
        "centre_crop": data["image_size"],
        "low": data.get("low"),
        "high": data.get("high"),
        "per_image_normalisation": data["per_image_normalisation"],
        "mean": data["mean"],
        "std": data["std"],
    }


def config(subject: Subject) -> dict[str, Any]:
    """Content of config.json: all that embeds an image, in plain values."""
    network, net = subject.network.description(), subject.network.backbone.net
    sized = getattr(net, "pretrained_cfg", {}).get("fixed_input_size", False)  # timm's
    library = "timm" if network["arch"].startswith("timm/") else "torchvision"
    return {
        "format": MARK,
        "format_version": VERSION,
        "network_sha256": subject.digest,
        "library_name": library,
        "arch": network["arch"].removeprefix("timm/"),
        "built_with": {"img_size": subject.data["image_size"]} if sized else {},
        "bands": list(network["bands"]),
        "input_scaling": subject.data.get("input_scaling", "dataset"),
        "boa_offset": (subject.args.get("boa_offset") or 0) if of_digital_numbers(subject.args) else 0,
        "preprocessing": preprocessing(subject.data),
        "heads": network["heads"],
        "head_weights": network["head_weights"] if network["heads"] else {},
        "dimensions": subject.network.dimensions,
        "dataset": subject.data["dataset"],
        "label_names": list(subject.data["label_names"]),
        "method": subject.args["method"],
        "run": subject.name,
        "network": subject.which,
        "input": None,
        "files": {},
    }


def check_folder(folder: Path) -> None:
    """Raise UserError unless the folder can be written and is new, empty, or holds an export already."""
    check_writable(folder, "--export")
    present = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    if present and _config_of(folder) is None:
        raise UserError(
            f"--export: {folder} holds other things ({', '.join(present[:3])}) and no export; give a new folder, or "
            "that of an earlier export of the same network"
        )


def open_folder(folder: Path, subject: Subject) -> dict[str, Any]:
    """Make the folder, write its config.json and return the content; what lies there already is kept.

    Raises UserError where it holds the export of another network: files of two would look like one's.
    """
    check_folder(folder)
    new, old = config(subject), _config_of(folder)
    if old is not None and old.get("network_sha256") != new["network_sha256"]:
        raise UserError(
            f"--export: {folder} holds the export of another network, of the run {old['run']}; give another"
        )
    if old is not None:
        new |= {key: old[key] for key in ("input", "files") if old.get(key)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, new)
    return new


def _config_of(folder: Path) -> dict[str, Any] | None:
    try:
        content = read_json(folder / CONFIG)
    except UserError:
        return None
    return content if isinstance(content, dict) and content.get("format") == MARK else None
