"""From stored pixels to the network's input, for a whole batch on the device.

Workers only read; assembling bands, resizing, cropping, flipping, rotating and normalising happen here. All random
numbers of a batch are drawn from one CPU generator, a row of them per image, so that the same images get the same
augmentation on any device, any number of workers and any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.batches.scaling import Scaling


class Augmentation(NamedTuple):
    """What varies between two looks at one image.

    crop_scale  range of the crop's area as a share of the stored image, every area in it equally likely; None: the
                plain random crop of image_size, which moves whole pixels and resamples nothing
    flips       mirror and right-angle rotations, all eight equally likely (there is no up in an aerial image)
    jitter      brightness, contrast and saturation are multiplied by 1 + U(-jitter, jitter); 0 unless the stored
                images are 8-bit RGB (`RetrievalDataset.is_photograph`)
    """

    crop_scale: tuple[float, float] | None = None
    flips: bool = True
    jitter: float = 0.0


DRAWS = 10  # uniform numbers an image may use; the row length is fixed so that options do not shift each other's


def draw(count: int, generator: torch.Generator) -> Tensor:
    """(count, DRAWS) uniform numbers on the CPU."""
    return torch.rand(count, DRAWS, generator=generator)


class DeviceTransform:
    """Stored batch -> (B, C, image_size, image_size) float32, normalised, channels_last.

    band_sides   side of each stored band (equal: the batch is (B, C, S, S); unequal: (B, P), see RetrievalDataset)
    image_size   side of the network's input in pixels
    resize_to    side to which whole images are resized before the crop (antialiased); S: no resizing
    interpolation  of that: "bilinear" or "bicubic"
    scaling      of each band; with per_image each image's own band statistics are used instead
    """

    def __init__(
        self,
        *,
        band_sides: Sequence[int],
        image_size: int,
        resize_to: int,
        scaling: Scaling,
        interpolation: str = "bilinear",
        per_image: bool = False,
        memory_format: torch.memory_format = torch.channels_last,
        device: torch.device | str = "cpu",
    ) -> None:
        self.band_sides = tuple(band_sides)
        self.image_size = image_size
        self.resize_to = resize_to
        self.per_image = per_image
        self.memory_format = memory_format
        self.interpolation = interpolation

        def of_bands(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)

        self.mean, self.std = of_bands(scaling.mean), of_bands(scaling.std)
        self.range = None
        if scaling.low is not None and scaling.high is not None:
            self.range = of_bands(scaling.low), of_bands(scaling.high)

    def evaluation(self, images: Tensor) -> Tensor:
        """The centre crop, without randomness."""
        return self.cropped(self._resized(images))

    def cropped(self, pixels: Tensor) -> Tensor:
        """The normalised centre crop of whole images (B, C, R, R) of side `resize_to`."""
        start = (pixels.shape[-1] - self.image_size) // 2
        stop = start + self.image_size
        return self._normalised(pixels[..., start:stop, start:stop].float())

    def training(self, images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        """An independently augmented crop of each image. draws: (B, DRAWS) from `draw`."""
        pixels = self._resized(images)
        draws = draws.to(pixels.device, non_blocking=True)
        if augmentation.crop_scale is None:
            crops = self._moved(pixels, draws, augmentation.flips).float()
        else:
            crops = self._resampled(pixels.float(), draws, augmentation)
        if augmentation.jitter:
            crops = jittered(crops, draws[:, 6:9], augmentation.jitter)
        return self._normalised(crops)

    def _resized(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8 or float32 at `resize_to`."""
        if images.ndim == 2:
            images = assemble(images, self.band_sides)
        elif images.dtype != torch.uint8:
            images = images.float()
        if images.shape[-1] == self.resize_to:
            return images
        size = (self.resize_to, self.resize_to)
        if images.dtype == torch.uint8 and images.device.type == "cuda":  # bicubic overshoots; on CPUs uint8 clamps
            return F.interpolate(images.float(), size=size, mode=self.interpolation, antialias=True).clamp_(0, 255)
        return F.interpolate(images, size=size, mode=self.interpolation, antialias=True)

    def _moved(self, pixels: Tensor, draws: Tensor, flips: bool) -> Tensor:
        """Random crop by whole pixels, then one of the eight symmetries."""
        size, room = self.image_size, pixels.shape[-1] - self.image_size + 1
        top, left = (draws[:, 0] * room).long(), (draws[:, 1] * room).long()
        image = torch.arange(len(pixels), device=pixels.device)
        # A view of every window; indexing it copies whole rows of pixels, one window an image.
        crops = pixels.unfold(2, size, 1).unfold(3, size, 1)[image, :, top, left]
        return mirrored(crops, draws[:, 2:5]) if flips else crops

    def _resampled(self, pixels: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
        """Random square crop of random area, bilinear, with one of the eight symmetries."""
        low, high = augmentation.crop_scale or (1.0, 1.0)
        extent = (low + (high - low) * draws[:, 5]).sqrt()  # side of the crop as a share of the image's
        centre_x = (2 * draws[:, 0] - 1) * (1 - extent)
        centre_y = (2 * draws[:, 1] - 1) * (1 - extent)
        sign_x, sign_y = extent, extent
        if augmentation.flips:
            sign_x = torch.where(draws[:, 2] < 0.5, -extent, extent)
            sign_y = torch.where(draws[:, 3] < 0.5, -extent, extent)
        zero = torch.zeros_like(extent)
        theta = torch.stack([sign_x, zero, centre_x, zero, sign_y, centre_y], 1).view(-1, 2, 3)
        if augmentation.flips:
            turned = torch.stack([zero, sign_x, centre_x, sign_y, zero, centre_y], 1).view(-1, 2, 3)
            theta = torch.where((draws[:, 4] < 0.5)[:, None, None], turned, theta)
        size = [len(pixels), pixels.shape[1], self.image_size, self.image_size]
        grid = F.affine_grid(theta, size, align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _normalised(self, pixels: Tensor) -> Tensor:
        if self.per_image:
            mean = pixels.mean((2, 3), keepdim=True)
            std = pixels.std((2, 3), keepdim=True).clamp(min=1)  # a level: rounding is no contrast of a flat band
        else:
            mean, std = self.mean, self.std
            if self.range is not None:
                pixels = pixels.clamp(*self.range)
        return ((pixels - mean) / std).contiguous(memory_format=self.memory_format)


def mirrored(pixels: Tensor, draws: Tensor) -> Tensor:
    """Each image of (B, C, S, S) under one of the eight symmetries of the square, chosen by three uniform numbers."""
    upside, sideways, turned = (draws < 0.5).view(-1, 3, 1, 1, 1).unbind(1)
    pixels = torch.where(upside, pixels.flip(2), pixels)
    pixels = torch.where(sideways, pixels.flip(3), pixels)
    return torch.where(turned, pixels.transpose(2, 3), pixels)


def assemble(packed: Tensor, band_sides: Sequence[int]) -> Tensor:
    """Bands at their own resolutions, (B, P) -> (B, C, S, S) float32 at the largest side S.

    Coarser bands are repeated (nearest neighbour), so every pixel keeps its measured value; the published band
    statistics of BigEarthNet belong to this choice. Sides divide S (20, 60 and 120 do).
    """
    side = max(band_sides)
    count = len(packed)
    out = torch.empty(count, len(band_sides), side, side, dtype=torch.float32, device=packed.device)
    start = 0
    for channel, own in enumerate(band_sides):
        factor = side // own
        band = packed[:, start : start + own * own].view(count, own, 1, own, 1).float()
        # each stored pixel fills a factor x factor block
        out[:, channel].view(count, own, factor, own, factor).copy_(band.expand(-1, -1, factor, -1, factor))
        start += own * own
    return out


def jittered(pixels: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation of (B, 3, H, W) in 0..255, each multiplied by 1 + U(-s, s)."""
    brightness, contrast, saturation = (1 + strength * (2 * draws - 1)).view(-1, 3, 1, 1, 1).unbind(1)
    pixels = pixels * brightness
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    red, green, blue = pixels.split(1, dim=1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue  # a tensor of weights would make the host wait for the device
    return (gray + (pixels - gray) * saturation).clamp(0, 255)
