"""Backbones: bands, weights from every home, batch norm; embedding heads."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from architectures import BACKBONES
from architectures.embedding import EmbeddingNetwork
from architectures.fill import Origin, adapt_stem
from architectures.sources import SOURCES
from utilities.errors import UserError

RGB = ("R", "G", "B")
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def build(arch="resnet18", bands=RGB, weights="none", frozen=False, freeze_batch_norm=False, weights_bands=None):
    origin = Origin(str(weights), weights_bands)
    return BACKBONES[arch](bands=bands, origin=origin, frozen=frozen, freeze_batch_norm=freeze_batch_norm)


@pytest.fixture(scope="module")
def torchvision_state():
    torch.manual_seed(5)
    return torchvision.models.resnet18(weights=None).state_dict()


def test_resnet50_gives_2048_features_for_any_band_count():
    with torch.inference_mode():
        assert build("resnet50", S2).eval()(torch.zeros(2, 12, 32, 32)).shape == (2, 2048)
        assert build("resnet18", ("B04",)).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize("style", ["torchvision", "pretrainedmodels", "ddp", "wrapped", "safetensors"])
def test_weights_load_from_every_naming(style, torchvision_state, tmp_path):
    state = dict(torchvision_state)
    if style == "pretrainedmodels":  # its ResNet is torchvision's with the classifier renamed
        state = {k.replace("fc.", "last_linear."): v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if style == "ddp":
        state = {f"module.{k}": v for k, v in state.items()}
    path = tmp_path / ("w.safetensors" if style == "safetensors" else "w.pth")
    if style == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if style == "wrapped" else state, path)
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(torchvision_state)
    reference.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(build(weights=path).eval()(images), reference.eval()(images))


def test_missing_file_wrong_architecture_and_garbage_are_errors(torchvision_state, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        build(weights=tmp_path / "absent.pth")
    torch.save(torchvision_state, tmp_path / "r18.pth")
    with pytest.raises(UserError, match="tensors missing"):
        build("resnet50", weights=tmp_path / "r18.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match=r"text\.pth cannot be read as \.pth or \.safetensors: .+") as error:
        build(weights=tmp_path / "text.pth")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is a folder; choices"):
        build(weights=tmp_path)
    torch.save({"a": 1}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="no state dict"):
        build(weights=tmp_path / "empty.pth")


def test_imagenet_weights_that_cannot_be_had_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", _offline)
    with pytest.raises(UserError, match="--weights none"):
        build(weights="imagenet")


def _offline(*args, **kwargs):
    raise OSError("no route to host")


def test_weights_of_this_project_load_again(tmp_path):
    first = EmbeddingNetwork(arch="resnet18", bands=S2, heads={"embedding": 16})
    torch.save(first.state_dict(), tmp_path / "mine.pth")
    again = build(bands=S2, weights=tmp_path / "mine.pth", weights_bands=",".join(S2))
    assert torch.equal(again.net.conv1.weight, first.backbone.net.conv1.weight)
    with pytest.raises(UserError, match=r"12 bands and does not say which.*sentinel2_all_seco_eco"):
        build(bands=S2, weights=tmp_path / "mine.pth")


def test_stem_for_twelve_bands_keeps_visible_filters_and_the_response_to_gray():
    stem = torch.randn(8, 3, 7, 7)
    inflated = adapt_stem(stem, S2, SOURCES["imagenet"], Origin("imagenet"))
    for band, channel in (("B04", 0), ("B03", 1), ("B02", 2)):
        assert torch.equal(inflated[:, S2.index(band)], stem[:, channel] * (3 / 12))
    gray = torch.randn(1, 1, 20, 20)
    before = torch.nn.functional.conv2d(gray.expand(1, 3, -1, -1), stem)
    after = torch.nn.functional.conv2d(gray.expand(1, 12, -1, -1), inflated)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bands", [("B02", "B03", "B04"), ("B04", "B08", "B11")])
def test_three_bands_get_their_filters_by_name(bands, torchvision_state, tmp_path):
    torch.save(torchvision_state, tmp_path / "rgb.pth")
    filters = torchvision_state["conv1.weight"]
    of_band = {"B04": filters[:, 0], "B03": filters[:, 1], "B02": filters[:, 2]}
    loaded = build(bands=bands, weights=tmp_path / "rgb.pth")
    for channel, band in enumerate(bands):
        assert torch.equal(loaded.net.conv1.weight[:, channel], of_band.get(band, filters.mean(1)))


def test_frozen_batch_norm_keeps_statistics_while_weights_train():
    net = build(freeze_batch_norm=True).train()
    before = net.net.bn1.running_mean.clone()
    net(torch.randn(4, 3, 32, 32) + 3).sum().backward()
    assert torch.equal(net.net.bn1.running_mean, before)
    assert net.net.conv1.weight.grad is not None
    assert net.net.bn1.weight.grad is not None
    live = build().train()
    live(torch.randn(4, 3, 32, 32) + 3)
    assert not torch.equal(live.net.bn1.running_mean, before)


def test_frozen_batch_norm_stays_frozen_when_torch_synchronises_it():
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build(freeze_batch_norm=True)).train()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert len(norms) == 20
    assert not any(norm.training for norm in norms)


def test_frozen_freezes_weights_and_statistics():
    net = build(frozen=True).train()
    assert not any(p.requires_grad for p in net.parameters())
    before = net.net.bn1.running_mean.clone()
    net(torch.randn(4, 3, 32, 32) + 3)
    assert torch.equal(net.net.bn1.running_mean, before)


def test_embedding_is_the_weighted_concatenation():
    torch.manual_seed(0)
    net = EmbeddingNetwork(arch="resnet18", bands=RGB, heads={"a": 4, "b": 8}, head_weights={"a": 0.5, "b": 1.0}).eval()
    with torch.inference_mode():
        images = torch.randn(3, 3, 32, 32)
        outputs, whole = net(images), net.embed(images)
    for rows in outputs.values():
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    cosine = (0.25 * outputs["a"] @ outputs["a"].T + outputs["b"] @ outputs["b"].T) / 1.25
    torch.testing.assert_close(whole @ whole.T, cosine)


def test_heads_are_float32_under_autocast():
    net = EmbeddingNetwork(arch="resnet18", bands=RGB, heads={"a": 4})
    with torch.autocast("cpu", torch.bfloat16):
        rows = net(torch.randn(2, 3, 32, 32))["a"]
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)


def test_description_rebuilds_the_network():
    net = EmbeddingNetwork(arch="resnet18", bands=S2, heads={"a": 4, "b": 2}, head_weights={"a": 2.0, "b": 1.0})
    again = EmbeddingNetwork(**net.description())
    again.load_state_dict(net.state_dict())
    images = torch.randn(2, 12, 32, 32)
    with torch.inference_mode():
        assert torch.equal(net.eval().embed(images), again.eval().embed(images))


def test_blocks_start_as_the_identity_from_scratch():
    net = build("resnet50").net
    block = net.layer1[1]
    features = torch.rand(2, 256, 5, 5)
    torch.testing.assert_close(block(features), features)
