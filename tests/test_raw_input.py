"""The preprocessing of exported graphs gives what evaluation gives, pixel for pixel."""

import pytest
import torch

from datasets.batches.raw_input import RawInput
from datasets.batches.scaling import Scaling
from datasets.batches.transforms import DeviceTransform, assemble


def transform(side, resize_to, image_size, *, bands=3, limits=None, **options):
    mean, std = (tuple(first + band for band in range(bands)) for first in (100.0, 50.0))
    low, high = limits or (None, None)
    sides = options.pop("band_sides", (side,) * bands)
    scaling = Scaling(mean=mean, std=std, low=low, high=high)
    return DeviceTransform(band_sides=sides, image_size=image_size, resize_to=resize_to, scaling=scaling, **options)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "resize_to", "image_size"), [(96, 73, 64), (48, 37, 32), (64, 73, 64), (40, 40, 32)])
def test_8_bit_pixels_are_the_same_numbers(side, resize_to, image_size, interpolation):
    """Also where rounding after each direction decides."""
    whole = transform(side, resize_to, image_size, interpolation=interpolation)
    pixels = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RawInput(whole, rounded=True)(pixels), whole.evaluation(pixels))


@pytest.mark.parametrize(
    "options",
    [{}, {"per_image": True}, {"limits": ((0.0,) * 3, (6000.0, 7000.0, 8000.0))}, {"interpolation": "bicubic"}],
)
def test_digital_numbers_of_several_resolutions(options):
    whole = transform(24, 20, 16, band_sides=(24, 12, 4), **options)
    packed = torch.randint(0, 10_000, (3, 24 * 24 + 12 * 12 + 4 * 4), generator=torch.Generator().manual_seed(0))
    repeated = assemble(packed, whole.band_sides).to(torch.uint16)
    torch.testing.assert_close(RawInput(whole, rounded=False)(repeated), whole.evaluation(packed), rtol=1e-5, atol=5e-4)
