"""Exports of a saved run: other people's libraries open them and find what the run found."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import parameters
from architectures.saved import read_network
from datasets.base import RetrievalDataset
from datasets.bigearthnet.dataset import BigEarthNet
from datasets.open import open_loader, open_split
from tests.scripts import TINY, run_inside
from utilities.evaluation.embedded import embed
from utilities.export.card import card
from utilities.export.formats import GRAPHS
from utilities.export.subject import config, read_subject
from utilities.neighbours.search import search
from utilities.runs import folder as run_folder

pytest.importorskip("pyarrow")
K = 8


class Exported(NamedTuple):
    """A run, the folder of its exports, and what the network makes of the test split in float32."""

    run: Path
    folder: Path
    dataset: RetrievalDataset
    embeddings: torch.Tensor


def export(run: Path, form: str, folder: Path, *argv: object, **options: Any) -> Any:
    given = ["--load_from_checkpoint", run, "--num_workers", 0, "--export", form, folder]
    return run_inside("evaluate_model", *given, *argv, **options)


def read_run(run: Path, folder: Path, which: str = "best") -> Exported:
    evaluated = parameters.parse_evaluation(["--load_from_checkpoint", str(run), "--num_workers", "0"])
    settings = type(evaluated)({**parameters.of_run(run, evaluated), "precision": "fp32"})
    dataset = open_split(settings, "test")
    feed = open_loader(settings, dataset, torch.device("cpu"))
    found = embed(read_network(run, f"{which}.pt")[0], feed, settings, torch.device("cpu"))
    return Exported(run, folder, dataset, found.embeddings)


@pytest.fixture(scope="module")
def demo(demo_run, tmp_path_factory) -> Exported:
    """Every format, one after another into one folder, of a run that was evaluated."""
    run, folder = tmp_path_factory.mktemp("exported") / "baseline", tmp_path_factory.mktemp("export") / "new" / "folder"
    shutil.copytree(demo_run[1], run, ignore=shutil.ignore_patterns("*_results"))
    quick = ["--num_workers", 0, "--retrieval_queries", 0, "--eval_metric", "recall@1", "map@8", "--precision", "fp32"]
    run_inside("evaluate_model", "--load_from_checkpoint", run, *quick)
    forms = ["safetensors", "torch_export", "geoparquet"]
    forms += ["onnx"] if has_onnx() else []
    forms += ["faiss"] if has("faiss") else []
    for form in forms:
        done = export(run, form, folder)
        assert f"described in {folder / 'README.md'}" in done.stdout
    return read_run(run, folder)


@pytest.fixture(scope="module")
def sentinel(sentinel_run, tmp_path_factory) -> Exported:
    pytest.importorskip("rasterio")
    folder = tmp_path_factory.mktemp("sentinel_export")
    for form in ("safetensors", "torch_export", "geoparquet"):
        export(sentinel_run[1], form, folder)
    return read_run(sentinel_run[1], folder)


def has(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def has_onnx() -> bool:
    return all(map(has, ("onnx", "onnxscript", "onnxruntime")))


def run_snippet(exported: Exported, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the card's code for a file defines, run as it says."""
    monkeypatch.chdir(exported.folder)
    card = (exported.folder / "README.md").read_text()
    section = card.split(f"### {name}\n")[1]
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", section, re.S)[0], names)
    return names


def stored_pixels(dataset: RetrievalDataset) -> torch.Tensor:
    """As a user has them: coarser bands repeated."""
    images = dataset.__getitems__(range(len(dataset))).images
    if images.ndim == 4:
        return images
    largest, whole = max(dataset.band_sides), []
    for image in images.numpy():
        bands, start = [], 0
        for side in dataset.band_sides:
            band = image[start : start + side * side].reshape(side, side)
            bands.append(np.kron(band, np.ones((largest // side, largest // side), band.dtype)))
            start += side * side
        whole.append(np.stack(bands))
    return torch.from_numpy(np.stack(whole))


def assert_same_search(embeddings: torch.Tensor, exported: Exported) -> None:
    torch.testing.assert_close(embeddings, exported.embeddings, rtol=0, atol=1e-5)
    own = torch.arange(len(embeddings))
    found, expected = (search(rows, rows, K, query_rows=own).indices for rows in (embeddings, exported.embeddings))
    assert torch.equal(found, expected)


# Networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "model.onnx"])
def test_files_embed_as_the_run_by_the_code_of_their_card(demo, name, monkeypatch):
    if name == "model.onnx" and not has_onnx():
        pytest.skip("onnx, onnxscript or onnxruntime is not installed")
    embed_pixels, pixels = run_snippet(demo, name, monkeypatch)["embed"], stored_pixels(demo.dataset)
    given = pixels.numpy() if name == "model.onnx" else pixels
    assert_same_search(torch.as_tensor(embed_pixels(given)).detach(), demo)
    torch.testing.assert_close(
        torch.as_tensor(embed_pixels(given[:1])).detach(), demo.embeddings[:1], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2"])
def test_files_embed_patches_of_twelve_bands(sentinel, name, monkeypatch):
    pixels = stored_pixels(sentinel.dataset)
    assert (pixels.dtype, pixels.shape[1:]) == (torch.uint16, (12, 120, 120))
    embed_pixels = run_snippet(sentinel, name, monkeypatch)["embed"]
    given = pixels if name == "model.pt2" else pixels.float()
    torch.testing.assert_close(embed_pixels(given).detach(), sentinel.embeddings, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "argv", "formats"),
    [  # a transformer, built for one size of image; convolutions padded as TensorFlow pads, without a head
        (
            "timm/test_vit",
            ["--interpolation", "bicubic", "--input_scaling", "imagenet"],
            "safetensors torch_export onnx",
        ),
        ("timm/tf_efficientnet_lite0", ["--head", "none"], "onnx"),
    ],
)
def test_networks_of_timm(demo_run, tmp_path, monkeypatch, arch, argv, formats):
    pytest.importorskip("timm")
    forms = [form for form in formats.split() if form != "onnx" or has_onnx()]
    argv = [*TINY, "--arch", arch, *argv, "--nb_epochs", 0, "--source_path", demo_run[0], "--save_path", tmp_path]
    run_inside("train_baseline", *argv)
    run, folder = tmp_path / "Demo" / "baseline", tmp_path / "export"
    for form in forms:
        export(run, form, folder, "--checkpoint", "last")
    exported = read_run(run, folder, "last")
    pixels = stored_pixels(exported.dataset)
    for name in [{"safetensors": "model.safetensors", **GRAPHS}[form] for form in forms]:
        embed_pixels = run_snippet(exported, name, monkeypatch)["embed"]
        given = pixels.numpy() if name == "model.onnx" else pixels
        assert_same_search(torch.as_tensor(embed_pixels(given)).detach(), exported)
        alone = torch.as_tensor(embed_pixels(given[:1])).detach()
        torch.testing.assert_close(alone, exported.embeddings[:1], rtol=0, atol=1e-5)


def test_tensors_have_the_librarys_names_and_others_may_read_them(demo):
    import torchvision
    from safetensors import safe_open

    path = demo.folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    library = set(torchvision.models.resnet18().state_dict()) - {"fc.weight", "fc.bias"}
    assert names - library == {name for name in names if name.startswith("heads.")} != set()
    assert library < names
    assert path.stat().st_mode & 0o077 == (demo.folder / "config.json").stat().st_mode & 0o077


def test_config_says_all_that_there_is_to_say(demo):
    config = json.loads((demo.folder / "config.json").read_text())
    assert config["bands"] == ["R", "G", "B"]
    assert config["input"] == {"side": 48, "dtype": "uint8"}
    assert (config["arch"], config["library_name"], config["dimensions"]) == ("resnet18", "torchvision", 16)
    assert config["label_names"] == list(demo.dataset.label_names)
    steps = config["preprocessing"]
    assert (steps["resize_to"], steps["centre_crop"], steps["interpolation"]) == (37, 32, "bilinear")
    assert steps["mean"] == pytest.approx(demo.dataset.mean)
    assert config["files"]["model.pt2"]["largest_difference"] < 1e-5


def test_a_graph_that_embeds_otherwise_is_not_left_behind(demo, tmp_path, monkeypatch):
    """Written by a stand-in: a graph takes seconds."""
    monkeypatch.setattr("utilities.export.formats.write_torch_export", lambda path, embedder, pixels: path.touch())
    monkeypatch.setattr(
        "utilities.export.formats.reader_of", lambda path: lambda pixels: np.ones((len(pixels), 16)) / 4
    )
    done = export(demo.run, "torch_export", tmp_path / "new", code=1)
    assert "embeds images otherwise than the network, by" in done.stderr
    assert not (tmp_path / "new" / "model.pt2").exists()


# The card ---------------------------------------------------------------------------------------------------


def test_the_card_holds_the_scores_with_intervals_and_a_command_that_leads_to_the_run(demo):
    card = (demo.folder / "README.md").read_text()
    assert "trained on Demo with the loss `margin`." in " ".join(card.split())
    scores = json.loads((demo.run / "evaluation_results" / "best_test" / "scores.json").read_text())
    for name in ("recall@1", "map@8"):
        low, high = scores["interval"][name]
        value, chance = scores["scores"][name], scores["chance"][name]
        assert f"| {name} | {value:.4f} | {low:.4f} - {high:.4f} | {chance:.4f} |" in card
    command = re.search(r"^    python train_baseline.py (.*)$", card, re.M)
    assert command is not None
    settings = parameters.parse("baseline", shlex.split(command[1]))
    recorded = run_folder.read_args(demo.run)
    for name in recorded.keys() - parameters.INCIDENTAL:
        assert settings[name] == recorded[name], name
    assert str(demo.run.parent) not in card
    command = re.search(r"^    python evaluate_model.py --load_from_checkpoint RUN (.*)$", card, re.M)
    assert command is not None
    evaluated = parameters.parse_evaluation(["--load_from_checkpoint", "RUN", *shlex.split(command[1])])
    assert (evaluated.dataset_type, evaluated.precision) == ("test", "fp32")
    assert evaluated.eval_metric == list(scores["scores"]), "the table's measures, and no others"


def test_a_card_says_how_files_of_ones_own_are_read(demo):
    """Values of --band_scale are the files', not the network's; an offset that nothing reads is not taken off."""
    subject = read_subject(demo.run, "best.pt", "best", *read_network(demo.run, "best.pt"), "")
    subject = subject._replace(args={**subject.args, "boa_offset": 1000})
    assert config(subject)["boa_offset"] == 0, "of photographs"
    own = {"dataset": "Folder", "folder_bands": "n,r,g", "folder_band_scale": [-25, 5], "folder_side": 64}
    subject = subject._replace(args={**subject.args, **own})
    text = card(demo.folder, {**config(subject), "bands": ["n", "r", "g"]}, subject)
    assert "Values -25 .. 5 of the files are 0 .. 10000 here" in text
    assert "is taken off" not in text
    unscaled = config(subject._replace(args={**subject.args, "folder_band_scale": None}))
    assert unscaled["boa_offset"] == 1000


def test_the_hub_reads_the_front_matter(demo):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard((demo.folder / "README.md").read_text()).data
    assert data.pipeline_tag == "image-feature-extraction"
    scores = json.loads((demo.run / "evaluation_results" / "best_test" / "scores.json").read_text())["scores"]
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {name: round(score, 4) for name, score in scores.items()}


def test_scores_from_before_the_network_was_saved_are_another_networks(demo, tmp_path):
    run, folder = tmp_path / "baseline", tmp_path / "out"
    shutil.copytree(demo.run, run)  # copies of files are newer
    payload = torch.load(run / "best.pt", weights_only=True)
    torch.save(payload, run / "best.pt")
    export(run, "safetensors", folder)
    card = (folder / "README.md").read_text()
    assert "Not evaluated with intervals yet" in card
    assert (
        f"On the validation split, by which this network was chosen: recall@1 {payload['scores']['recall@1']:.4f}"
        in card
    )


def test_another_archive_is_not_taken_for_the_runs_own(demo, tmp_path):
    """Its scores stand in the card under a name of their own, and its embeddings in files of theirs."""
    run, folder, own = tmp_path / "baseline", tmp_path / "out", tmp_path / "own"
    shutil.copytree(demo.run, run)
    for path in run.glob("*.pt"):
        os.utime(path, (0, 0))  # copies of files are newer, and scores of before the network was saved another's
    own.mkdir()
    for row in range(8):
        shutil.copy(demo.dataset.path(row), own / f"{row}.jpg")
    (own / "labels.csv").write_text("image,a,b\n" + "".join(f"{row}.jpg,{row % 2},1\n" for row in range(8)))
    elsewhere = ["--dataset", "Folder", "--source_path", own]
    given = [*elsewhere, "--scores_only", "--codes", "lsh", "--code_seed", 3]
    run_inside("evaluate_model", "--load_from_checkpoint", run, "--num_workers", 0, *given)
    export(run, "geoparquet", folder, "--dataset_type", "all")
    export(run, "geoparquet", folder, *elsewhere)
    card = (folder / "README.md").read_text()
    assert "\nDemo, test split: 44 queries, each against the 43 other images;" in card
    assert "\nAnother archive than that of training (Folder), all split: 8 queries, each against the 7 other" in card
    words = "--dataset Folder --source_path DIR --dataset_type all "
    assert f"    python evaluate_model.py --load_from_checkpoint RUN {words}" in card
    assert " --codes lsh --code_bits 16 --code_seed 3\n" in card
    assert "--eval_metric" not in card.split(words)[1].split("\n")[0], "the usual measures"
    head = card.split("---\n")[1]
    assert '"split": "test"' in head
    assert '"split": "all"' not in head
    arrow = pytest.importorskip("pyarrow.parquet")
    tables = {name: arrow.read_table(folder / f"{name}.parquet") for name in ("all", "Folder_all")}
    assert {name: table.schema.metadata[b"dataset"] for name, table in tables.items()} == {
        "all": b"Demo",
        "Folder_all": b"Folder",
    }
    assert len(tables["all"]) == 176
    assert len(tables["Folder_all"]) == 8
    table = tables["all"].select(["name", "split"]).to_pydict()
    of_own = dict(zip(table["name"], table["split"], strict=True))
    assert {name for name, split in of_own.items() if split == "test"} == set(demo.dataset.names), "not all of them"
    assert set(of_own.values()) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("method", "argv"),
    [
        ("baseline", "--dataset MLRSNet --lr 0.000123456789 --crop_area 0.2 1.0 --no_flips --weights none"),
        ("diva", "--diva_preset authors --batch_size 90 --num_samples_per_class 3 --nb_epochs 40"),
        ("dac", "--dataset UCMerced --dac_finetune_epoch 100"),
        ("bier", "--sz_embedding 512 --bier_sizes 96 160 256 --margin 0"),
        ("sndl", "--sndl_preset authors --sndl_bce_weight 0 --freeze_batch_norm yes --mlrsnet_proportions 20/10/70"),
        ("sndl", ""),
    ],
)
def test_the_command_of_a_run_gives_its_flags_again(method, argv):
    settings = parameters.parse(method, argv.replace(" --margin 0", "").split())
    command = parameters.command_of(settings.recorded)
    script, *given = shlex.split(command)[1:]
    assert script == f"train_{method}.py"
    again = parameters.parse(method, given)
    for name in settings.recorded.keys() - parameters.INCIDENTAL:
        assert again[name] == settings[name], name
    assert len(given) <= len(argv.split()) + 2, "no flag that is not needed"


# Embeddings -------------------------------------------------------------------------------------------------


def test_duckdb_searches_the_table_as_the_card_says(demo, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(demo.folder)
    section = (demo.folder / "README.md").read_text().split("### test.parquet\n")[1]
    query = re.findall(r"```sql\n(.*?)```", section, re.S)[0]
    name = str(demo.dataset.names[5])
    rows = duckdb.sql(query.replace("NAME", name)).fetchall()
    found = search(demo.embeddings[5:6], demo.embeddings, 10)
    assert [row[0] for row in rows] == demo.dataset.names[found.indices[0].numpy()].tolist()
    assert [row[1] for row in rows] == pytest.approx((1 - found.distances[0].square() / 2).tolist(), abs=1e-5)
    carried = duckdb.sql(f"SELECT labels, split FROM 'test.parquet' WHERE name = '{name}'").fetchall()
    labels = np.asarray(demo.dataset.label_names)[demo.dataset.labels[5]].tolist()
    assert carried == [(labels, "test")]


def test_the_table_has_a_row_an_image_in_order(demo):
    from pyarrow import float32, parquet

    table = parquet.read_table(demo.folder / "test.parquet")
    assert table["name"].to_pylist() == demo.dataset.names.tolist()
    kind = table.schema.field("embedding").type
    assert (kind.list_size, kind.value_type) == (16, float32())
    rows = torch.tensor(table["embedding"].to_pylist())
    torch.testing.assert_close(rows, demo.embeddings, rtol=0, atol=1e-6)
    assert table.column_names == ["name", "split", "labels", "embedding"], "photographs have no place and no date"
    assert b"geo" not in table.schema.metadata


def test_ids_of_the_faiss_index_are_rows_of_the_table(demo, monkeypatch):
    pytest.importorskip("faiss")
    pytest.importorskip("pandas")
    names = run_snippet(demo, "test.faiss", monkeypatch)
    assert names["index"].ntotal == len(demo.dataset)
    _, rows = names["index"].search(demo.embeddings.numpy(), K + 1)
    expected = search(demo.embeddings, demo.embeddings, K + 1).indices
    assert np.array_equal(rows, expected.numpy())
    assert names["images"].name.tolist() == demo.dataset.names.tolist()


def test_geopandas_opens_footprints_and_days(sentinel):
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(sentinel.folder / "test.parquet")
    assert frame.crs.to_string() == "OGC:CRS84"
    places, _ = sentinel.dataset.outlines(range(len(frame)))
    for shape, place in zip(frame.geometry, places, strict=True):
        assert shape.is_valid and shape.exterior.is_ccw  # noqa: PT018
        assert [list(corner) for corner in shape.exterior.coords] == place
    days = [re.search(r"_(\d{4})(\d\d)(\d\d)T", name) for name in sentinel.dataset.names.tolist()]
    assert frame.date.tolist() == [date(*map(int, day.groups())) for day in days if day]
    west = frame.geometry.bounds.minx
    inside = geopandas.read_parquet(sentinel.folder / "test.parquet", bbox=(west.median() + 1e-4, -90, 180, 90))
    assert 0 < len(inside) < len(frame)


def test_duckdb_opens_footprints(sentinel):
    duckdb = pytest.importorskip("duckdb")
    path = sentinel.folder / "test.parquet"
    longitudes = [corner[0] for place in sentinel.dataset.outlines(range(len(sentinel.dataset)))[0] for corner in place]
    middle = (min(longitudes) + max(longitudes)) / 2
    query = f"SELECT count(*) FILTER (geometry IS NOT NULL), count(*) FILTER (bbox.xmin > {middle}) FROM '{path}'"
    ((whole, east),) = duckdb.sql(query).fetchall()
    assert whole == len(sentinel.dataset)
    assert 0 < east < whole


def test_the_metadata_are_those_of_geoparquet_1_1(sentinel):
    """Required keys and values of the specification, and bounds that hold all corners."""
    from pyarrow import parquet

    table = parquet.read_table(sentinel.folder / "test.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    boxes = table["bbox"].to_pylist()
    assert column["bbox"][0] == min(box["xmin"] for box in boxes)
    assert column["bbox"][3] == max(box["ymax"] for box in boxes)
    for box, data in zip(boxes, table["geometry"].to_pylist(), strict=True):
        corners = np.frombuffer(data[13:], "<f8").reshape(-1, 2)
        assert [box[key] for key in ("xmin", "ymin", "xmax", "ymax")] == [*corners.min(0), *corners.max(0)]


def test_days_are_read_from_names_and_from_nothing_else():
    dataset = BigEarthNet.__new__(BigEarthNet)
    dataset.names = np.asarray(["S2B_MSIL2A_20170924T93020_69_24", "S2A_MSIL2A_20171399T101031_1_1", "lake"])
    assert dataset.dates(range(3)) == [date(2017, 9, 24), None, None]


# What is refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_ends_with_2_and_leaves_nothing(demo, sentinel_run, tmp_path):
    other = tmp_path / "other things"
    other.mkdir()
    (other / "README.md").write_text("mine")
    file = tmp_path / "file"
    file.touch()
    for form, folder, argv, said in (
        ("pickle", tmp_path / "new", [], "--export pickle: no such format; choices: safetensors, torch_export, onnx"),
        ("safetensors", other, [], "holds other things (README.md) and no export; give a new folder"),
        ("safetensors", file, [], "is a file; give a folder"),
        ("geoparquet", tmp_path / "new", ["--query", "x.jpg"], "cannot go with --query"),
        ("geoparquet", tmp_path / "new", ["--source_path", tmp_path / "nowhere"], "nowhere"),
    ):
        done = export(demo.run, form, folder, *argv, code=2)
        assert said in done.stderr
        assert done.stderr.count("error:") == 1
    assert not (tmp_path / "new").exists()
    assert (other / "README.md").read_text() == "mine"
    done = export(sentinel_run[1], "safetensors", demo.folder, code=2)
    assert "holds the export of another network, of the run baseline; give another" in done.stderr
    both = ["--load_from_checkpoint", demo.run, sentinel_run[1], "--export", "onnx", tmp_path / "new"]
    assert "cannot go with 2 runs in --load_from_checkpoint" in run_inside("evaluate_model", *both, code=2).stderr


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_its_packages_onnx_says_what_to_install(demo, tmp_path, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    done = export(demo.run, "onnx", tmp_path / "new", code=2)
    assert "pip install onnx onnxscript onnxruntime" in done.stderr
    assert not (tmp_path / "new").exists()
