"""What evaluation does to stored pixels, as a module that can be exported with a network."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.batches.loaders import Loader
from datasets.batches.transforms import DeviceTransform, assemble

_WEIGHT_BITS = 15  # torch's weights of 8-bit images are whole numbers of so many bits


class RawInput(nn.Module):
    """`DeviceTransform.evaluation` on a CPU, by operations that every runtime has: (B, C, S, S) raw pixels -> input.

    S is the side of the stored images, and of the largest band where bands have several: coarser ones are to be
    repeated up to it, as `transforms.assemble` does. An antialiased resize is two matrix products, whose weights are
    read off `F.interpolate` itself. 8-bit images are rounded to whole levels after each, exactly as torch does on a
    CPU, so that graph and run see the same pixels.

    rounded   whether the pixels are 8-bit
    """

    weights: Tensor

    def __init__(self, transform: DeviceTransform, *, rounded: bool) -> None:
        super().__init__()
        self.transform = copy.copy(transform)
        self.transform.memory_format = torch.contiguous_format
        self.side, self.rounded = max(transform.band_sides), rounded
        self.resized = self.side != transform.resize_to
        exact = _resize_weights(self.side, transform.resize_to, transform.interpolation)
        self.shift = 0
        if rounded:
            exact, self.shift = _whole_numbers(exact)
        self.register_buffer("weights", exact.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, uint16 or float -> (B, C, image_size, image_size) float32."""
        pixels = images.float()
        if self.resized:
            pixels = self._rounded(pixels @ self.weights.T)
            pixels = self._rounded(self.weights @ pixels)
        return self.transform.cropped(pixels)

    def _rounded(self, sums: Tensor) -> Tensor:
        """Sums in units of 2**-shift to the nearest level, as (sum + half) >> shift; others as they are."""
        if not self.rounded:
            return sums
        return ((sums + 2.0 ** (self.shift - 1)) * 2.0**-self.shift).floor().clamp(0, 255)


def raw_input(feed: Loader, count: int) -> tuple[RawInput, Tensor]:
    """The preprocessing of a split's evaluation, and some of its images as it takes them: (count, C, S, S) as stored.

    The feed is on the CPU. Images that cannot be read are left out, as everywhere.
    """
    dataset, sides = feed.dataset, feed.dataset.band_sides
    images = dataset.__getitems__(range(min(count, len(dataset)))).images
    if images.ndim == 2:
        images = assemble(images, sides).to(images.dtype)
    return RawInput(feed.transform, rounded=dataset.dtype == np.uint8), images


def _resize_weights(stored: int, wanted: int, interpolation: str) -> Tensor:
    """(wanted, stored) float64: shares of the stored pixels of a line in the wanted ones."""
    units = torch.eye(stored, dtype=torch.float64)[None, None]
    if stored == wanted:
        return units[0, 0]
    return F.interpolate(units, size=(wanted, stored), mode=interpolation, antialias=True)[0, 0]


def _whole_numbers(weights: Tensor) -> tuple[Tensor, int]:
    """Weights times 2**shift, rounded, with the largest shift by which the largest stays below 2**15."""
    shift = 0
    while shift < 22 and int(0.5 + float(weights.max()) * 2 ** (shift + 1)) < 2**_WEIGHT_BITS:
        shift += 1
    return (weights.abs() * 2**shift + 0.5).floor() * weights.sign(), shift
