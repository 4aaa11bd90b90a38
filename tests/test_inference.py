"""Embedding through a fused copy of the backbone: the same function, where it is taken, and what is said of it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import parameters
from architectures import saved
from architectures.choice import build_backbone
from architectures.fill import Origin
from datasets.open import open_loader, open_split
from tests.scripts import run_inside
from utilities.evaluation.embedded import embed
from utilities.inference import way as inference
from utilities.inference.fused import Convolution, fused
from utilities.training import precision

RGB = ("R", "G", "B")


def backbone(arch: str, bands: tuple[str, ...] = RGB) -> nn.Module:
    """With statistics and weights of batch norm as training leaves them: none is 0 or 1."""
    torch.manual_seed(0)
    net = build_backbone(arch, image_size=32, bands=bands, origin=Origin("none"), frozen=False, freeze_batch_norm=False)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return net.eval().to(memory_format=torch.channels_last)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "timm/tf_efficientnet_lite0", "timm/mobilenetv3_small_100"])
def test_the_fused_network_is_the_same_function(arch):
    """Residuals that are added in place, strided and grouped convolutions, clipped and gated activations."""
    net = backbone(arch)
    images = torch.randn(3, 3, 40, 40).to(memory_format=torch.channels_last)
    kept = images.clone()
    with torch.inference_mode():
        wanted = net(images)
        copy = fused(net, images[:2], torch.float32)
        assert off(copy(images), wanted) < 1e-5
        assert torch.equal(copy(images), copy(images))
        assert off(copy(images[:1, :, :33, :33].contiguous()), net(images[:1, :, :33, :33])) < 1e-5, "any other size"
        assert torch.equal(images, kept)
        small = fused(net, images[:2], torch.bfloat16)(images.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert off(small, wanted) < 2 * off(net(images), wanted) + 1e-3
    assert not [m for m in copy.modules() if isinstance(m, _BatchNorm)]
    assert [m for m in net.modules() if isinstance(m, _BatchNorm)], "the network itself stays as it is"


def test_every_convolution_of_a_resnet_takes_in_what_follows():
    net = backbone("resnet50", tuple("ABCDEFGHIJKL"))
    copy = fused(net, torch.randn(2, 12, 32, 32), torch.float32)
    convolutions = [m for m in copy.modules() if isinstance(m, Convolution)]
    assert len(convolutions) == 53
    assert [m.activation for m in convolutions].count("relu") == 49, "all but those of the four shortcuts"
    assert not [m for m in copy.modules() if isinstance(m, nn.Conv2d | nn.ReLU)]
    added = [node for node in copy.graph.nodes if node.op == "call_module" and len(node.args) == 2]
    assert len(added) == 16


def test_a_value_that_is_read_again_is_not_overwritten():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = self.first(x)
            return (self.second(y) + y).relu() + y + (self.second(x) + x)

    net, images = Twice().eval(), torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        kept = images.clone()
        torch.testing.assert_close(fused(net, images, torch.float32)(images), net(images))
        assert torch.equal(images, kept)


def test_small_splits_are_embedded_plainly_and_large_ones_by_the_copy(monkeypatch):
    net = backbone("resnet18")
    images = torch.randn(5, 3, 32, 32)
    names = list(net.state_dict())
    calls = []
    monkeypatch.setattr(inference, "fused", lambda *args: calls.append(1) or fused(*args))
    with torch.inference_mode():
        wanted = net(images)
        with inference.embedding(net, images=inference.FROM_IMAGES - 1, number_format="fp32") as way:
            assert torch.equal(net(images), wanted)
        assert (way.name, calls) == ("plain", [])
        with inference.embedding(net, images=inference.FROM_IMAGES, number_format="fp32") as way:
            torch.testing.assert_close(net(images), wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net(images[:2]), wanted[:2], rtol=1e-4, atol=1e-5)
        assert (way.name, calls) == ("fused", [1]), "one copy for the whole split"
        assert torch.equal(net(images), wanted)
    assert list(net.state_dict()) == names
    assert "forward" not in net.__dict__


def test_a_network_that_cannot_be_fused_is_embedded_as_it_is(monkeypatch):
    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    images = torch.ones(2, 3, 2, 2)
    with inference.embedding(net := Branching(), images=1000, number_format="fp32") as way:
        assert torch.equal(net(images), images.flatten(1))
    assert way.name == "plain"
    assert "cannot be traced" in inference.describe(way)["embedding_note"]
    monkeypatch.setattr(inference, "fused", lambda network, *_: lambda x: 1.1 * network(x))
    net = backbone("resnet18")
    with torch.inference_mode(), inference.embedding(net, images=1000, number_format="fp32") as way:
        assert torch.isfinite(net(torch.randn(2, 3, 32, 32))).all()
    assert inference.describe(way) == {"embedding": "plain", "embedding_note": "the fused network is off by 0.1"}


def test_an_evaluation_says_which_way_it_took(demo_run, monkeypatch):
    """And both give the same embeddings but for rounding."""
    source, folder = demo_run
    given = ["--load_from_checkpoint", str(folder), "--source_path", str(source), "--dataset_type", "val"]
    run = parameters.of_run(folder, parameters.parse_evaluation(given))
    network, _ = saved.read_network(folder, "best.pt")
    device = torch.device("cpu")
    loader = open_loader(run, open_split(run, "val"), device)
    plain = embed(network, loader, run, device)
    large = embed(network, loader, run, device, largest=inference.FROM_IMAGES)
    assert (plain.way.name, large.way.name) == ("plain", "fused")
    assert (plain.embeddings * large.embeddings).sum(1).min() > 0.999
    monkeypatch.setattr(inference, "FROM_IMAGES", 1)
    run_inside("evaluate_model", *given, "--retrieval_queries", 0, "--num_workers", 0)
    content = json.loads((folder / "evaluation_results" / "best_val" / "scores.json").read_text())
    assert content["protocol"]["embedding"] == "fused"


def test_auto_takes_bf16_where_a_processor_multiplies_it_faster(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for bf16, wanted in ((0.5, "bf16"), (2.0, "fp32")):
        seconds = {torch.bfloat16: bf16, torch.float32: 1.0}
        monkeypatch.setattr(precision, "_product_seconds", lambda dtype=torch.float32, s=seconds: s[dtype])
        assert precision.resolve("auto", torch.device("cpu")) == wanted
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert precision.resolve("auto", torch.device("cpu")) == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision.resolve("auto", torch.device("cpu")) == "bf16"
