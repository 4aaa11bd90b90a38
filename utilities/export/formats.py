"""Writing one format of a saved run into a folder, and reading it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utilities.errors import RunFailure, UserError
from utilities.export.card import card, size_of
from utilities.export.faiss_index import write_index
from utilities.export.geoparquet import arrow_module, write_table
from utilities.export.graph import RawEmbedder, check_onnx, reader_of, write_onnx, write_torch_export
from utilities.export.subject import CARD, CONFIG, Subject, check_folder, open_folder
from utilities.export.tensors_file import write_tensors
from utilities.files import replacing, write_json
from utilities.neighbours.search import faiss_module

GRAPHS = {"torch_export": "model.pt2", "onnx": "model.onnx"}
TABLES = ("geoparquet", "faiss")
FORMATS = ("safetensors", *GRAPHS, *TABLES)
CHECKED = 8  # images that a graph embeds again
_WRONG = 1e-3  # difference of a component by which a graph is another network's


def check_export(given: Sequence[str], *, runs: int, is_search: bool) -> None:
    """Raise UserError where FORMAT DIR names no format, or one whose packages are not installed, or a folder that
    cannot take it, or where it goes with several runs or a search."""
    form, target = given
    if form not in FORMATS:
        raise UserError(f"--export {form}: no such format; choices: {', '.join(FORMATS)}, as --export FORMAT DIR")
    if form == "onnx":
        check_onnx()
    if form in TABLES:
        arrow_module()
    if form == "faiss":
        faiss_module()
    if runs > 1 or is_search:
        other = "--query" if is_search else f"{runs} runs in --load_from_checkpoint"
        raise UserError(f"--export writes one network into one folder, and cannot go with {other}; give one run alone")
    check_folder(Path(target))


def export_tensors(folder: Path, subject: Subject) -> None:
    """model.safetensors."""
    config = open_folder(folder, subject)
    write_tensors(folder / "model.safetensors", subject.network)
    what = f"weights: the backbone in {config['library_name']}'s naming, `heads.*` behind it"
    _finish(folder, config, subject, {"model.safetensors": {"what": what}})


def export_graph(form: str, folder: Path, subject: Subject, preprocessing: nn.Module, images: Tensor) -> None:
    """model.pt2 or model.onnx, on the CPU in float32. images (n, C, S, S) raw pixels of some images of the data set,
    which the file embeds again; RunFailure where it does so otherwise than the network."""
    config = open_folder(folder, subject)
    embedder = RawEmbedder(preprocessing, subject.network.cpu().to(memory_format=torch.contiguous_format)).eval()
    name = GRAPHS[form]
    write = write_torch_export if form == "torch_export" else write_onnx
    write(folder / name, embedder, images[:2])
    config["input"] = {"side": images.shape[-1], "dtype": str(images.dtype).removeprefix("torch.")}
    reader = reader_of(folder / name)
    what = f"{'torch.export' if form == 'torch_export' else 'ONNX'} graph, float32, preprocessing included"
    facts: dict[str, Any] = {"what": what}
    if reader is not None:
        with torch.no_grad():
            expected = embedder(images).numpy()
        difference = float(np.abs(reader(images.numpy()) - expected).max())
        if not difference < _WRONG:
            (folder / name).unlink()
            raise RunFailure(f"{folder / name} embeds images otherwise than the network, by {difference:.1e}; removed")
        facts |= {"checked_images": len(images), "largest_difference": difference}
        told = f"{len(images)} images are embedded as by the run's network, to {difference:.0e}"
        facts["what"] += f"; {told}"
        print(f"read back: {told}")
    else:
        print("note: not read back, onnxruntime is not installed")
    _finish(folder, config, subject, {name: facts})


def export_rows(form: str, folder: Path, subject: Subject, embedded: Any, *, archive: str | None) -> None:
    """<split>.parquet, and for "faiss" <split>.faiss; <archive>_<split> of another archive than the run's.

    embedded: `utilities.evaluation.embedded.Embedded`
    """
    config = open_folder(folder, subject)
    dataset, rows = embedded.dataset, embedded.rows.tolist()
    places, notes = dataset.outlines(rows)
    for note in notes:
        print(f"note: {note}")
    embeddings = embedded.embeddings.numpy()
    name = f"{archive}_{dataset.split}" if archive else dataset.split
    table = f"{name}.parquet"
    facts = {"network_sha256": config["network_sha256"], "dataset": archive or str(config["dataset"])}
    write_table(
        folder / table,
        names=dataset.names[rows],
        splits=dataset.splits_of(rows),
        labels=dataset.labels[rows],
        label_names=dataset.label_names,
        embeddings=embeddings,
        places=places,
        dates=dataset.dates(rows),
        facts=facts | {"fingerprint": dataset.fingerprint()},
    )
    kind = "GeoParquet 1.1" if any(place is not None for place in places) else "Parquet"
    files = {table: {"what": f"{kind}: names, labels and embeddings of {len(rows):,} images"}}
    if form == "faiss":
        index = f"{name}.faiss"
        write_index(folder / index, embeddings)
        files[index] = {"what": f"flat faiss index of inner products; ids are rows of `{table}`"}
    _finish(folder, config, subject, files)


def _finish(folder: Path, config: dict[str, Any], subject: Subject, files: Mapping[str, Any]) -> None:
    """Note the files in config.json, write the card, and say so."""
    config["files"] = {**config["files"], **files}
    write_json(folder / CONFIG, config)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(card(folder, config, subject), encoding="utf-8")
    for name in files:
        print(f"saved {folder / name} ({size_of(folder / name)}), described in {folder / CARD}")
