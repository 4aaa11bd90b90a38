"""A network in evaluation mode with its batch norms folded into its convolutions, and these fused with what follows.

Batch norm with fixed statistics is a scale and a shift of each channel, and can be part of the convolution before it.
On CPUs oneDNN also adds the residual and applies the activation while it writes the result of a convolution, from
weights that lie in its own order. All that is the same function: in float32 its values differ by rounding. In bfloat16
the whole network is in that format, where autocast keeps float32 weights.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

ADDITIONS = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    """Convolutions and batch norms of any library are leaves, whatever they do inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


class Convolution(nn.Module):
    """A convolution of oneDNN with an activation, and with something that is added before it."""

    def __init__(
        self, conv: nn.Conv2d, activation: tuple[str, list[float]], dtype: torch.dtype, shape: Sequence[int]
    ) -> None:
        """shape: of the images, by which oneDNN orders the weights; others are taken as well."""
        super().__init__()
        assert not isinstance(conv.padding, str)
        geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight = conv.weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.geometry = geometry
        self.activation, self.scalars = activation

    def forward(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        """added is overwritten: nobody may need it any more."""
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(
                images, self.weight, self.bias, *self.geometry, self.activation, self.scalars, ""
            )
        unary = (self.activation, self.scalars, "") if self.activation != "none" else (None, [], None)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            added, images, self.weight, self.bias, *self.geometry, "add", 1.0, *unary
        )


def fused(network: nn.Module, images: Tensor, dtype: torch.dtype) -> fx.GraphModule:
    """A copy of `network` as above, in `dtype`, on its device, for images (B, C, H, W) of this size.

    What cannot be traced raises whatever fx raises.
    """
    graph = _Tracer().trace(network)
    copied = fx.GraphModule(copy.deepcopy(network), graph)
    copied.eval().requires_grad_(False)
    _fold_batch_norms(copied)
    on_cpu = next(network.parameters()).device.type == "cpu"
    if on_cpu and torch.backends.mkldnn.is_available():
        ShapeProp(copied).propagate(images)
        _fuse_convolutions(copied, dtype)
    copied.graph.lint()
    copied.recompile()
    copied.delete_all_unused_submodules()
    return copied.to(dtype)


def _fold_batch_norms(network: fx.GraphModule) -> None:
    """conv -> batch norm becomes conv, followed by the activation that timm's batch norms bring along."""
    for node in list(network.graph.nodes):
        norm = _module(network, node)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        before = node.args[0]
        conv = _module(network, before)
        if not isinstance(conv, nn.Conv2d) or len(before.users) > 1:
            continue
        network.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        activation = getattr(norm, "act", None)
        network.set_submodule(str(node.target), activation if activation is not None else nn.Identity())
    for node in list(network.graph.nodes):
        if isinstance(_module(network, node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _fuse_convolutions(network: fx.GraphModule, dtype: torch.dtype) -> None:
    """conv (-> + other) (-> activation) becomes one node each. Needs the shapes that `ShapeProp` has found."""
    found_shapes = {node: node.meta.get("tensor_meta") for node in network.graph.nodes}
    shapes: dict[Any, Sequence[int]] = {
        node: meta.shape for node, meta in found_shapes.items() if isinstance(meta, TensorMetadata)
    }
    for node in list(network.graph.nodes):
        conv = _module(network, node)
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue  # a subclass may do more than this
        last, added = node, None
        addition = _only_user(node)
        if addition is not None and addition.target in ADDITIONS and not addition.kwargs:
            other = next((arg for arg in addition.args if arg is not node), None)
            if isinstance(other, fx.Node) and _is_last_use(network, other, addition):
                last, added = addition, other
        activation: tuple[str, list[float]] = ("none", [])
        following = _only_user(last)
        if following is not None and (found := _activation(network, following)) is not None:
            last, activation = following, found
        name = f"fused_{node.name}"
        network.add_submodule(name, Convolution(conv, activation, dtype, shapes[node.args[0]]))
        with network.graph.inserting_before(last):
            arguments = (node.args[0],) if added is None else (node.args[0], added)
            replacement = network.graph.call_module(name, arguments)
        shapes[replacement] = shapes[last]
        last.replace_all_uses_with(replacement)
        for gone in (last, addition, node):
            if gone is not None and not gone.users and gone.op != "output":
                _erase(network, gone)


def _erase(network: fx.GraphModule, node: fx.Node) -> None:
    if node in network.graph.nodes:
        network.graph.erase_node(node)


def _module(network: fx.GraphModule, node: Any) -> nn.Module | None:
    """What a node calls; None where it is no module that it calls."""
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return network.get_submodule(str(node.target)) if is_call else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_last_use(network: fx.GraphModule, node: fx.Node, user: fx.Node) -> bool:
    """Whether nothing after `user` reads `node`, which so may be overwritten. Not what came from outside."""
    order = {other: place for place, other in enumerate(network.graph.nodes)}
    return node.op == "call_module" and all(order[other] <= order[user] for other in node.users)


def _activation(network: fx.GraphModule, node: fx.Node) -> tuple[str, list[float]] | None:
    """oneDNN's name and numbers of an activation; None of what is none."""
    module = _module(network, node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [module.min_val, module.max_val]
    names: dict[type | None, str] = {
        nn.ReLU: "relu",
        nn.SiLU: "swish",
        nn.Hardswish: "hardswish",
        nn.Sigmoid: "sigmoid",
    }
    name = names.get(type(module))
    if name is not None:
        return name, []
    return ("relu", []) if node.target in (F.relu, torch.relu, torch.relu_) else None
