"""Scripts of the project on a pretended accelerator, to find where they mix devices on machines that have none.

    echo "train_baseline.py --dataset Demo ..." | python -m tests.pretended_device

Tensors on the device "far" are computed on the CPU, but meet CPU tensors only where CUDA lets them: in copies, as
indices and as single numbers. They are no numpy arrays, and are drawn by generators of their own device. What it cannot
find: wrong kernels, missing synchronisation, memory, speed, and what autocast does, which is off.
"""

from __future__ import annotations

import contextlib
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo
import torch._inductor  # both would be imported in the middle of a patched torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from utilities.parallel import distributed

ROOT = Path(__file__).parent.parent
aten = torch.ops.aten
FAR_SEED = 1 << 63  # the bit that tells a generator of the device: `seeding.derive` gives 63 bits
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Guard(backend_registration._DummyDeviceGuard):
    def exchange_device(self, device: int) -> int:
        return 0

    def get_device(self) -> int:
        return 0

    def set_device(self, device: int) -> None:
        pass

    def device_count(self) -> int:
        return 1


backend_registration._setup_privateuseone_for_python_backend("far", _Module(), device_guard=_Guard())
FAR = torch.device("far", 0)


def is_far(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "far"


class FarTensor(torch.Tensor):
    """Says that it is on the device, and holds `near`, which is not."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> FarTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=FAR,
            requires_grad=near.requires_grad,
        )  # fmt: skip

    def __init__(self, near: torch.Tensor) -> None:
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(call, args, kwargs or {})

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor of the device is no numpy array; use .cpu()")

    __array__ = numpy

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As CUDA tensors are saved: where the file is read decides where they go.
        return self.near.__reduce_ex__(protocol)


class MixedDevicesError(RuntimeError):
    pass


def check(call: Any, args: Any, far: list[FarTensor], near: list[torch.Tensor]) -> None:
    """Raise where CUDA would for tensors of two devices; numbers without dimension may come from the CPU."""
    if call in COPIES or not far:
        return
    if call in INDEXING:
        # The indices may be near; what is indexed and the values may not.
        near = [value for value in (args[0], *args[2:3]) if any(value is tensor for tensor in near)]
    if any(tensor.dim() for tensor in near):
        shapes = [[tuple(tensor.shape) for tensor in side] for side in (far, near)]
        raise MixedDevicesError(f"{call} of {shapes[0]} on the device and {shapes[1]} on the CPU")


def dispatch(call: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`call` on the near tensors, if it may be called with these; what comes out is on the device it belongs to."""
    leaves = list(tree_iter((args, kwargs)))
    far = [leaf for leaf in leaves if isinstance(leaf, FarTensor)]
    near = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, FarTensor)]
    check(call, args, far, near)
    device = kwargs.get("device")
    on_device = bool(far) if device is None else is_far(device)
    for leaf in leaves:
        if isinstance(leaf, _Generator) and bool(leaf.initial_seed() & FAR_SEED) != on_device:
            raise MixedDevicesError(f"{call} with a generator of another device")
    if is_far(device):
        kwargs = kwargs | {"device": torch.device("cpu")}
    given, named = tree_map(lambda leaf: leaf.near if isinstance(leaf, FarTensor) else leaf, (args, kwargs))
    result = call(*given, **named)
    if call is aten._local_scalar_dense.default or not on_device:
        return args[0] if call is aten.copy_.default else result
    known = {id(tensor.near): tensor for tensor in far}  # in-place calls and `out=` return what they were given

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else FarTensor(leaf)

    return tree_map(placed, result)


class PretendedDevice(TorchDispatchMode):
    """Where tensors are made, none is there yet that would tell: the mode sees every call."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(call, args, kwargs or {})


_Generator = torch.Generator


class FarGenerator(_Generator):
    device = FAR

    def manual_seed(self, seed: int) -> FarGenerator:
        super().manual_seed(seed | FAR_SEED)
        return self


def generator(device: torch.device | str = "cpu") -> torch.Generator:
    return FarGenerator("cpu") if is_far(device) else _Generator("cpu")


def made_near(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.tensor and torch.as_tensor allocate where no mode sees them."""

    def make_and_move(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = make(*args, device=None if is_far(device) else device, **kwargs)
        return made.to(FAR) if is_far(device) else made

    return make_and_move


@contextlib.contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Processes of the project take the pretended device for theirs."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a Parameter has no room for `near`
    with (
        mock.patch.object(torch, "Generator", generator),
        mock.patch.object(torch, "tensor", made_near(torch.tensor)),
        mock.patch.object(torch, "as_tensor", made_near(torch.as_tensor)),
        mock.patch.object(distributed, "start", return_value=FAR),
        PretendedDevice(),
    ):
        yield FAR
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def main() -> None:
    """Each line of standard input is a script and its flags."""
    for command in sys.stdin.read().splitlines():
        print(command, flush=True)
        sys.argv = shlex.split(command)
        with pretended_device():
            runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main()
