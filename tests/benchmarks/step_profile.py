"""Where the time of a training step goes, by kind of operator, as torch's profiler sees it.

    python -m tests.benchmarks.step_profile [--method diva] [--batch_size 120] [--image_size 128] [--json FILE]

Self time of every operator in one step after two that are not counted, summed by kind; on a GPU the time of its
kernels. Profiling itself takes time, most of it for small operators: read the shares, not the seconds.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.step import METHODS, fake_split, trainer_of
from tests.benchmarks.timing import arguments, default_device, show
from utilities.batch import Batch
from utilities.training import precision
from utilities.training.allocator import keep_freed_memory

# kind -> parts of operator names, the first kind that fits
KINDS = {
    "convolutions, backward": ("convolution_backward", "convolutionbackward", "dgrad", "wgrad"),
    "convolutions, forward": ("conv", "fprop"),
    "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "optimizer": ("_fused_", "fusedadam", "optimizer"),
    "copies and conversions": ("copy", "to_copy", "memcpy", "fill_", "zero_", "memset"),
    "activations, pooling and sums of branches": ("threshold", "clamp_min", "relu", "pool", "aten::add_", "aten::add"),
    "matrix products": ("aten::mm", "addmm", "bmm", "gemm"),
    "norm of the gradient": ("vector_norm", "foreach_norm"),
}
OTHER = "everything else: mining, losses, bookkeeping"


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), OTHER)


def main() -> None:
    args = arguments(__doc__ or "", method="baseline", batch_size=120, image_size=128)
    device = default_device()
    torch.manual_seed(0)
    keep_freed_memory()  # as every script does
    split = fake_split(43_664, 60)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(METHODS[args.method], split, args, folder)
        drawn = np.arange(args.batch_size) if args.method == "dac" else trainer.method.epoch_batches(0)[0]
        rows = torch.as_tensor(np.asarray(drawn))
        images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
        images = images.to(device, memory_format=torch.channels_last)
        labels = torch.from_numpy(split.labels)[rows].to(device)
        batch = Batch(images, labels, rows.to(device), images if trainer.method.second_view else None)
        for _ in range(2):
            trainer.train_step(batch, 0.5)
        on_gpu = device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
            trainer.train_step(batch, 0.5)
            if on_gpu:
                torch.cuda.synchronize()
        trainer.close()
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in trace.key_averages():
        seconds[kind_of(event.key)] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    whole = sum(seconds.values())
    table = [
        {"what": kind, "seconds": spent, "share": f"{100 * spent / whole:.1f} %"}
        for kind, spent in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    title = (
        f"Where a step of {args.method} goes, ResNet50, batch {args.batch_size}, {args.image_size} px, "
        f"{precision.resolve('auto', device)}"
    )
    show(title, table, args.json)


if __name__ == "__main__":
    main()
