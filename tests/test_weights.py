"""Weights that people of this field have, in files as their sources name the tensors: each network computes here what
it computes there, on the same bands under the same scaling."""

import argparse
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import parameters
from architectures import BACKBONES
from architectures.checkpoints import read_weights
from architectures.embedding import EmbeddingNetwork
from architectures.fill import Origin
from datasets.bigearthnet.nomenclature import STATISTICS
from datasets.open import open_loader, open_split
from tests.miniatures import write_bigearthnet
from tests.scripts import run_inside, state
from utilities.errors import UserError

LEVEL_1C = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
LEVEL_2A = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
SATLAS = ["B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12"]
REBEN_020 = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
REBEN_011 = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"]
TRUE_COLOUR = ["B04", "B03", "B02"]
SOFTCON_MEAN = [1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4]
SOFTCON_STD = [791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9]


# -- pixels (B, F, H, W) in the source's bands, as the source scales them ---------------------------------------------


def columns(values):
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def imagenet(x):
    return (x / 255 - columns([0.485, 0.456, 0.406])) / columns([0.229, 0.224, 0.225])


def seco(x):
    low, high = columns([0, 2, 3]), columns([129, 103, 88])
    unit = ((x / (10000 / 255) - low) / (high - low)).clamp(0, 1)
    return (unit - columns([0.485, 0.456, 0.406])) / columns([0.229, 0.224, 0.225])


def satlas(x):
    return torch.cat([(x[:, :3] / 3558).clamp(0, 1), (x[:, 3:] / 8160).clamp(0, 1)], 1)


def reben(bands):
    optical = [band for band in bands if band in STATISTICS[2]]
    mean, std = zip(*(STATISTICS[2][band] for band in optical), strict=True)
    return lambda x: (x - columns(mean)) / columns(std)


SCALE = {
    "reflectance": lambda x: x / 10000,
    "clipped": lambda x: (x / 10000).clamp(0, 1),
    "softcon": lambda x: (x - columns(SOFTCON_MEAN)) / columns(SOFTCON_STD),
    "imagenet": imagenet,
    "unit": lambda x: x / 255,
    "seco": seco,
    "satlas": satlas,
}


# -- files (each gets a torchvision state dict with a classifier) ------------------------------------------------------


def bare(tensors, path):
    torch.save(tensors, path)


def moco(tensors, path):
    """SSL4EO-S12's MoCo: both encoders, a projection instead of the classifier, the queue, the optimizer."""
    net = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    saved = {f"module.encoder_q.{k}": v for k, v in net.items()} | {
        f"module.encoder_k.{k}": torch.zeros_like(v) for k, v in net.items()
    }
    saved |= {f"module.encoder_{which}.fc.{i}.weight": torch.randn(4, 4) for which in "qk" for i in (0, 2)}
    saved |= {"module.queue": torch.randn(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    torch.save({"epoch": 100, "arch": "resnet18", "state_dict": saved, "optimizer": {"state": {}}}, path)


def dino(tensors, path):
    """SSL4EO-S12's DINO: student and teacher with their heads, and the settings of its trainer as an object."""
    net = {f"module.backbone.{k}": v for k, v in tensors.items() if not k.startswith("fc.")}
    head = {"module.head.mlp.0.weight": torch.randn(4, 4), "module.head.last_layer.weight_g": torch.ones(4, 1)}
    student = {k: torch.zeros_like(v) for k, v in net.items()} | head
    settings = argparse.Namespace(arch="resnet18", lr=0.1)
    torch.save({"student": student, "teacher": net | head, "epoch": 100, "args": settings}, path)


def satlas_released(tensors, path):
    saved = {f"backbone.resnet.{k}": v for k, v in tensors.items() if not k.startswith("fc.")}
    saved |= {"fpn.fpn.inner_blocks.0.0.weight": torch.randn(4, 4, 1, 1), "upsample.layers.0.0.weight": torch.ones(4)}
    torch.save(saved | {"intermediates.0.fpn.layer_blocks.0.0.weight": torch.randn(4, 4, 3, 3)}, path)


def lightning(tensors, path):
    """A module in a module, compiled, under an averaged copy, with hyperparameters that are no plain values."""
    saved = {f"model.backbone._orig_mod.{k}": v for k, v in tensors.items()}
    saved |= {f"ema_model.module.backbone.{k}": torch.zeros_like(v) for k, v in tensors.items()}
    saved |= {"criterion.weight": torch.ones(19)}
    best = {"best_model_score": np.float64(0.5), "paths": Path("a/b")}
    torch.save({"state_dict": saved, "hyper_parameters": best, "pytorch-lightning_version": "2.5.0"}, path)


def reben_hub(version):
    """As the hub's cache lays it out; the version, and so the order of bands, is in the folder's name alone."""

    def write(tensors, path):
        folder = path.parent / f"models--BIFOLD-BigEarthNetv2-0--resnet18-{version}" / "snapshots" / "0a1b"
        folder.mkdir(parents=True)
        net = {f"model.vision_encoder.{k}": v for k, v in tensors.items()}
        save_file(net, folder / "model.safetensors")
        channels = tensors["conv1.weight"].shape[1]
        (folder / "config.json").write_text(
            json.dumps({"config": {"timm_model_name": "resnet18", "channels": channels}})
        )

    return write


# name, --weights_bands, bands of the file in order, how it is written, how pixels are scaled
SENTINEL = [
    ("SENTINEL2_ALL_SECO_ECO", LEVEL_2A, bare, "reflectance"),
    ("SENTINEL2_ALL_MOCO", LEVEL_1C, bare, "reflectance"),
    ("SENTINEL2_ALL_DINO", LEVEL_1C, bare, "reflectance"),
    ("SENTINEL2_ALL_DECUR", LEVEL_1C, bare, "reflectance"),
    ("SENTINEL2_ALL_CLOSP", LEVEL_1C, bare, "reflectance"),
    ("SENTINEL2_ALL_GEOCLOSP", LEVEL_1C, bare, "reflectance"),
    ("SENTINEL2_ALL_SOFTCON", LEVEL_1C, bare, "softcon"),
    ("SENTINEL2_RGB_MOCO", TRUE_COLOUR, bare, "reflectance"),
    ("SENTINEL2_RGB_SECO", TRUE_COLOUR, bare, "seco"),
    ("SENTINEL2_SI_MS_SATLAS", SATLAS, bare, "satlas"),
    ("SENTINEL2_MI_MS_SATLAS", SATLAS, bare, "satlas"),
    ("SENTINEL2_SI_RGB_SATLAS", TRUE_COLOUR, bare, "satlas"),
    ("SENTINEL2_MI_RGB_SATLAS", TRUE_COLOUR, bare, "satlas"),
    ("ssl4eo_moco", LEVEL_1C, moco, "clipped"),
    ("ssl4eo_dino", LEVEL_1C, dino, "clipped"),
    ("satlas_ms", SATLAS, satlas_released, "satlas"),
    ("satlas_rgb", TRUE_COLOUR, satlas_released, "satlas"),
    (None, REBEN_020, reben_hub("s2-v0.2.0"), reben(REBEN_020)),
    (None, REBEN_011, reben_hub("s2-v0.1.1"), reben(REBEN_011)),
    (None, ["VV", "VH", *REBEN_020], reben_hub("all-v0.2.0"), reben(REBEN_020)),
    (None, [*REBEN_011, "VH", "VV"], reben_hub("all-v0.1.1"), reben(REBEN_011)),
    ("reben_s2_v0.1.1", REBEN_011, lightning, reben(REBEN_011)),
]  # fmt: skip
PHOTOGRAPHS = [
    (None, bare, "imagenet"),
    ("FMOW_RGB_GASSL", bare, "imagenet"),
    ("SENTINEL2_SI_RGB_SATLAS", bare, "unit"),
    ("imagenet", lightning, "imagenet"),
]


@functools.cache
def trained(channels, arch="resnet18", seed=0):
    """A network of the source: every tensor with values of its own."""
    torch.manual_seed(seed)
    net = torchvision.models.get_model(arch)
    net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 7, 2, 3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def features(net, images):
    with torch.inference_mode():
        return nn.Sequential(*list(net.children())[:-1], nn.Flatten())(images)  # all but the classifier


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_bigearthnet(tmp_path_factory.mktemp("ben"), 20)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Any folder will do: splits of UC Merced are those of the whole archive, so the demo stands for it."""
    return tmp_path_factory.mktemp("demo")


def sentinel(patches, *flags):
    return parameters.parse(
        "baseline",
        ["--dataset", "BigEarthNet", "--source_path", str(patches), "--ben_splits", "hashed", "--arch", "resnet18",
         "--image_size", "32", "--resize_to", "120", "--num_workers", "0", *map(str, flags)],
    )  # fmt: skip


def computed(args, count=1):
    """What the network of a run computes of the first training image, and its stored pixels band by band."""
    dataset = open_split(args, "train")
    network = EmbeddingNetwork.from_settings(args, dataset.bands, heads={"embedding": 4}).eval()
    loader = open_loader(args, dataset, torch.device("cpu"))
    batch = next(iter(loader.evaluation(np.arange(count), count)))
    plain = parameters.Settings({**args, "input_scaling": "dataset"})
    raw = next(iter(open_loader(plain, dataset, torch.device("cpu")).evaluation(np.arange(count), count)))
    pixels = raw.images * columns(dataset.std) + columns(dataset.mean)
    with torch.inference_mode():
        return network.features(batch.images), dict(zip(dataset.bands, pixels.unbind(1), strict=True))


def spelled(value):
    """A name that is the same in every process: processes that share the tests compare them."""
    return value.__qualname__.partition(".")[0] if callable(value) else str(value)[:24]


@pytest.mark.parametrize(("name", "bands", "write", "scale"), SENTINEL, ids=spelled)
def test_a_source_computes_here_what_it_computes_there(name, bands, write, scale, patches, tmp_path):
    theirs = trained(len(bands))
    write(theirs.state_dict(), tmp_path / "weights.pth")
    [path] = [*tmp_path.rglob("*.pth"), *tmp_path.rglob("model.safetensors")]
    ours = sorted(set(bands) & set(LEVEL_2A), reverse=True)  # in an order of our own
    given = [] if name is None else ["--weights_bands", name]
    args = sentinel(patches, "--weights", path, *given, "--ben_bands", ",".join(ours))
    found, pixels = computed(args)
    zero = torch.zeros_like(next(iter(pixels.values())))
    optical = [band for band in bands if band in LEVEL_1C]
    scaled = (SCALE[scale] if isinstance(scale, str) else scale)(
        torch.stack([pixels.get(band, zero) for band in optical], 1)
    )
    scaled = dict(zip(optical, scaled.unbind(1), strict=True))
    images = torch.stack([scaled[band] if band in ours else zero for band in bands], 1)
    torch.testing.assert_close(found, features(theirs, images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "write", "scale"), PHOTOGRAPHS, ids=spelled)
def test_so_does_a_network_of_photographs(name, write, scale, photographs, tmp_path):
    theirs = trained(3)
    write(theirs.state_dict(), tmp_path / "weights.pth")
    flags = ["--source_path", str(photographs), "--arch", "resnet18", "--image_size", "32", "--num_workers", "0",
             "--weights", str(tmp_path / "weights.pth"), *(["--weights_bands", name] if name else []),
             "--demo_images_per_category", "8", "--demo_side", "48", "--resize_to", "48"]  # fmt: skip
    args = parameters.parse("baseline", flags + ([] if name else ["--input_scaling", "imagenet"]))
    found, pixels = computed(args)
    images = SCALE[scale](torch.stack([pixels[band] for band in "RGB"], 1))
    torch.testing.assert_close(found, features(theirs, images), atol=1e-4, rtol=1e-4)


def photograph_network(arch, path):
    return BACKBONES[arch](bands=("R", "G", "B"), origin=Origin(str(path)), frozen=False, freeze_batch_norm=False)


def refused(match, *flags, patches):
    with pytest.raises(UserError, match=match):
        computed(sentinel(patches, *flags))


def test_orders_are_never_guessed(patches, tmp_path):
    torch.save(trained(12).state_dict(), tmp_path / "twelve.pth")
    twelve = ("--weights", tmp_path / "twelve.pth")
    refused(
        r"12 bands and does not say which.*sentinel2_all_seco_eco .*; reben_all_v0\.2\.0 ", *twelve, patches=patches
    )
    torch.save(trained(10).state_dict(), tmp_path / "ten.pth")
    ten = ("--weights", tmp_path / "ten.pth", "--ben_bands", "B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12")
    refused(r"does not say which.*reben_s2_v0\.2\.0 .*reben_s2_v0\.1\.1 ", *ten, patches=patches)
    refused("no source that is known; near: reben", *ten, "--weights_bands", "reben_s2", patches=patches)
    refused("for 10 bands, not for the 12", *ten, "--weights_bands", "SENTINEL2_ALL_SECO_ECO", patches=patches)
    refused("name every band .* once", *ten, "--weights_bands", "B02,B02", patches=patches)


def test_a_file_that_tells_its_bands_is_not_contradicted(patches, tmp_path):
    reben_hub("s2-v0.2.0")(trained(10).state_dict(), tmp_path / "weights.pth")
    [path] = tmp_path.rglob("model.safetensors")
    flags = ("--weights", path, "--weights_bands", "reben_s2_v0.1.1", "--ben_bands", "10m")
    refused("says that its bands are B02 B03 B04 B05", *flags, patches=patches)
    (path.parent / "config.json").unlink()
    refused("10 bands and does not say which", "--weights", path, "--ben_bands", "10m", patches=patches)


def test_other_networks_are_refused_with_the_arch_that_fits(patches, tmp_path):
    torch.save(trained(3, "resnet34").state_dict(), tmp_path / "deeper.pth")
    flags = ("--weights", tmp_path / "deeper.pth", "--ben_bands", "rgb")
    refused(r"--arch resnet34.*tensors more than this network has \(layer1\.2", *flags, patches=patches)
    torch.save(trained(3, "resnet18").state_dict(), tmp_path / "shallower.pth")
    with pytest.raises(UserError, match=r"--arch resnet18; .*missing \(layer1\.0\.conv3"):
        photograph_network("resnet50", tmp_path / "shallower.pth")
    torch.save({"blocks.0.weight": torch.ones(2), "blocks.1.weight": torch.ones(2)}, tmp_path / "other.pth")
    flags = ("--weights", tmp_path / "other.pth", "--ben_bands", "rgb")
    refused(r"missing \(conv1\.weight, .*begins with blocks\.0\.weight, blocks", *flags, patches=patches)
    ema = {f"{part}.{k}": v for part in ("one", "two") for k, v in trained(3).state_dict().items()}
    torch.save(ema, tmp_path / "both.pth")
    flags = ("--weights", tmp_path / "both.pth", "--ben_bands", "rgb")
    refused(r"holds several networks of this kind: one\., two\.", *flags, patches=patches)


def test_values_that_are_not_finite_are_the_files_fault(patches, tmp_path):
    broken = {name: tensor.clone() for name, tensor in trained(3).state_dict().items()}
    broken["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(broken, tmp_path / "nan.pth")
    flags = ("--weights", tmp_path / "nan.pth", "--ben_bands", "rgb")
    refused(r"1 of its tensors hold values that are not finite \(layer2\.0\.conv1\.weight\)", *flags, patches=patches)


class Settings:
    """What a trainer of others puts into its checkpoints; reading it as pickle does would write a file."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (self.path,)


def test_no_code_of_a_file_is_run(tmp_path):
    tensors, ran = trained(3).state_dict(), tmp_path / "ran"
    content = {"state_dict": tensors, "args": Settings(str(ran), open_for_writing), "cfg": [np.float32(1.0)]}
    torch.save(content, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth").state
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    torch.save(content | {"args": Settings(f"touch {ran}", os.system)}, tmp_path / "evil.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(
            UserError, match=rf"{name} cannot be read .*write its tensors alone: python -c .*torch\.save"
        ):
            read_weights(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize(("cut", "said"), [(20, "unexpected EOF"), (300, "index out of range|unpack|EOF")])
def test_a_file_of_torchs_old_format_that_was_cut_off_is_called_that(tmp_path, cut, said):
    torch.save({"a.weight": torch.zeros(4, 4)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(whole[:-cut])
    with pytest.raises(UserError, match=rf"old\.pth cannot be read as \.pth or \.safetensors: [^.]*({said})"):
        read_weights(tmp_path / "old.pth")


def open_for_writing(path):
    Path(path).touch()


def test_ways_of_wrapping_weights(tmp_path):
    tensors = trained(3).state_dict()
    for wrapped in (
        {"model_state": tensors}, {"model_state_dict": tensors}, {"model": {"state_dict": tensors}},
        {"state_dict_ema": tensors, "epoch": 3}, {"model_ema": tensors}, {"model_ema": {"model": tensors}, "lr": 0.1},
    ):  # fmt: skip
        torch.save(wrapped, tmp_path / "w.pth")
        assert read_weights(tmp_path / "w.pth").state.keys() == tensors.keys()
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no state dict of tensors; it holds epoch, lr"):
        read_weights(tmp_path / "w.pth")


@pytest.fixture(scope="module")
def own_run(patches, tmp_path_factory):
    """best.pt of a run on four bands, scaled as reflectance, that began from weights of such a scaling."""
    out = tmp_path_factory.mktemp("runs")
    theirs = trained(13)
    torch.save(theirs.state_dict(), out / "moco.pth")
    run_inside(
        "train_baseline", "--dataset", "BigEarthNet", "--source_path", patches, "--ben_splits", "hashed", "--arch",
        "resnet18", "--ben_bands", "B04,B03,B02,B08", "--nb_epochs", 0, "--image_size", 32, "--num_workers", 0,
        "--weights", out / "moco.pth", "--weights_bands", "SENTINEL2_ALL_MOCO", "--save_path", out,
        "--sz_embedding", 8, "--batch_size", 4,
    )  # fmt: skip
    return out / "BigEarthNet" / "baseline"


def test_a_run_records_the_scaling_and_its_evaluation_scales_alike(own_run):
    args, best = json.loads((own_run / "args.json").read_text()), state(own_run, "best.pt")
    assert args["input_scaling"] == best["data"]["input_scaling"] == "reflectance"
    assert best["data"]["std"] == [10_000.0] * 4
    for network in ("best", "initial"):
        flags = ["--is_evaluate_initial"] if network == "initial" else []
        where = ("--load_from_checkpoint", own_run, "--dataset_type", "val", "--retrieval_queries", 0)
        run_inside("evaluate_model", *where, *flags)
        scores = json.loads((own_run / "evaluation_results" / f"{network}_val" / "scores.json").read_text())["scores"]
        assert scores["recall@1"] == pytest.approx(best["scores"]["recall@1"])


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_own_weights_go_by_the_names_of_bands(file, own_run, patches):
    filters = state(own_run, "best.pt")["network"]["backbone.net.conv1.weight"]
    args = sentinel(patches, "--weights", own_run / file, "--ben_bands", "10m")  # B02 B03 B04 B08
    assert args.input_scaling == "reflectance"
    network = EmbeddingNetwork.from_settings(args, ("B02", "B03", "B04", "B08"), heads={"embedding": 4})
    assert torch.equal(network.backbone.net.conv1.weight, filters[:, [2, 1, 0, 3]])
    fewer = EmbeddingNetwork.from_settings(args, ("B08", "B04"), heads={"embedding": 4})
    assert torch.equal(fewer.backbone.net.conv1.weight, filters[:, [3, 0]])


def test_bands_that_weights_lack_are_an_error_unless_said(own_run, patches):
    flags = ("--weights", own_run / "best.pt", "--ben_bands", "B02,B03,B04,B08,B11")
    refused("knows no B11: it was trained on B04 B03 B02 B08", *flags, patches=patches)
    filters = state(own_run, "best.pt")["network"]["backbone.net.conv1.weight"]
    bands = ("B02", "B03", "B04", "B08", "B11")
    for missing, start, rescale in (("zero", torch.zeros_like(filters[:, 0]), 1), ("mean", filters.mean(1), 4 / 5)):
        args = sentinel(patches, *flags, "--missing_bands", missing)
        conv = EmbeddingNetwork.from_settings(args, bands, heads={"embedding": 4}).backbone.net.conv1.weight
        torch.testing.assert_close(conv[:, 4], start * rescale)
        torch.testing.assert_close(conv[:, 2], filters[:, 0] * rescale)


def test_the_wrong_arch_of_an_own_run_is_told_at_once(own_run, patches):
    with pytest.raises(UserError, match="is a resnet18: give --arch resnet18, not resnet34"):
        sentinel(patches, "--weights", own_run / "best.pt", "--arch", "resnet34")


def test_momentum_encoders_of_last_pt_are_passed_over(tmp_path):
    tensors = {f"network.backbone.net.{k}": v for k, v in trained(3).state_dict().items()}
    copies = {
        f"key_{name.replace('network.', 'network.network.', 1)}": torch.zeros_like(v) for name, v in tensors.items()
    }
    torch.save(tensors | copies, tmp_path / "diva.pth")
    net = photograph_network("resnet18", tmp_path / "diva.pth")
    assert torch.equal(net.net.conv1.weight, tensors["network.backbone.net.conv1.weight"])


def test_flags_about_a_file_need_one(patches):
    with pytest.raises(UserError, match="--weights_bands ssl4eo_moco is about a file of --weights, which is none"):
        sentinel(patches, "--weights", "none", "--weights_bands", "ssl4eo_moco")


def test_scalings_of_other_pixels_are_refused(patches):
    flags = ("--weights", "none", "--ben_bands", "10m", "--input_scaling")
    refused("--input_scaling imagenet is for 8-bit photographs", *flags, "imagenet", patches=patches)
    refused("seco has no figures for B08", *flags, "seco", patches=patches)
    with pytest.raises(UserError, match="two ways to scale"):
        sentinel(patches, "--weights", "none", "--input_scaling", "reflectance", "--per_image_normalisation")
