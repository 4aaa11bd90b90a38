"""Device-side transforms: exact pixels, the law of the augmentation, independence of ranks and devices."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import parameters
from datasets.batches.scaling import Scaling
from datasets.batches.transforms import Augmentation, DeviceTransform, assemble, draw, jittered
from datasets.open import open_data
from tests.miniatures import write_bigearthnet, write_mlrsnet


def transform(side=12, image_size=8, channels=3, **options):
    options = {"resize_to": side, "scaling": Scaling((0.0,) * channels, (1.0,) * channels)} | options
    return DeviceTransform(band_sides=[side] * channels, image_size=image_size, **options)


def coded(count, side):
    """Images whose pixel value names its place, so that every output pixel tells where it came from."""
    place = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side)
    return place.expand(count, 3, -1, -1).contiguous()


def symmetries(window):
    turned = [np.rot90(window, k) for k in range(4)]
    return turned + [np.fliplr(w) for w in turned]


def test_each_training_crop_is_a_window_under_one_of_the_eight_symmetries():
    draws = draw(400, torch.Generator().manual_seed(0))
    crops = transform().training(coded(400, 12), draws, Augmentation())
    stored = np.arange(144).reshape(12, 12)
    windows = {
        w.tobytes(): (top, left, number)
        for top in range(5)
        for left in range(5)
        for number, w in enumerate(symmetries(stored[top : top + 8, left : left + 8].astype(np.float32)))
    }
    found = [windows[crop[0].contiguous().numpy().tobytes()] for crop in crops]
    tops, lefts, kinds = (np.bincount(column) for column in np.array(found).T)
    assert len(tops) == len(lefts) == 5
    assert len(kinds) == 8
    assert (tops > 40).all(), "80 expected in each of the five places, the last included"
    assert (lefts > 40).all()
    assert (kinds > 20).all(), "50 expected of each symmetry, the identity included"


def test_without_flips_only_the_place_varies():
    draws = draw(50, torch.Generator().manual_seed(0))
    crops = transform().training(coded(50, 12), draws, Augmentation(flips=False))
    assert (crops[:, 0, 0, 1] - crops[:, 0, 0, 0] == 1).all()
    assert (crops[:, 0, 1, 0] - crops[:, 0, 0, 0] == 12).all()


def test_evaluation_is_the_centre_crop_normalised():
    images = torch.randint(0, 255, (2, 3, 12, 12), dtype=torch.uint8)
    out = transform(scaling=Scaling((1.0, 2.0, 3.0), (2.0, 4.0, 8.0))).evaluation(images)
    expected = (images[:, :, 2:10, 2:10].numpy() - np.array([1, 2, 3.0]).reshape(3, 1, 1)) / np.array(
        [2, 4, 8.0]
    ).reshape(3, 1, 1)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_contiguous_images_where_the_network_is():
    images = torch.randint(0, 255, (2, 3, 12, 12), dtype=torch.uint8)
    plain = transform(scaling=Scaling((1.0,) * 3, (2.0,) * 3), memory_format=torch.contiguous_format)
    trained = plain.training(images, draw(2, torch.Generator().manual_seed(0)), Augmentation())
    for out in (plain.evaluation(images), trained):
        assert out.is_contiguous()
        assert not out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "high", "atol"), [(np.uint8, 256, 1.01), (np.uint16, 1000, 0.01)])
@pytest.mark.parametrize(("side", "resize_to"), [(30, 12), (48, 32), (12, 30)])
def test_whole_images_are_resized_bilinearly_and_antialiased_as_pillow_does(side, resize_to, dtype, high, atol):
    """On noise, nearest and bilinear without antialiasing are off by tens of levels; 8-bit sums are rounded twice."""
    stored = np.random.default_rng(0).integers(0, high, (2, 3, side, side)).astype(dtype)
    out = transform(side=side, resize_to=resize_to, image_size=resize_to).evaluation(torch.from_numpy(stored))
    for image, pixels in zip(out, stored, strict=True):
        for band, plane in zip(image, pixels, strict=True):
            whole = Image.fromarray(plane.astype(np.float32))
            expected = whole.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(band, np.asarray(expected), rtol=0, atol=atol)


def test_per_image_normalisation():
    images = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    out = transform(side=8, per_image=True).evaluation(images)
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((2, 3)), torch.ones(2, 3), atol=1e-4, rtol=0)
    assert torch.isfinite(transform(side=8, per_image=True).evaluation(torch.zeros(1, 3, 8, 8))).all()


@pytest.mark.parametrize("resize_to", [60, 50])
def test_a_flat_band_stays_flat_under_per_image_normalisation(resize_to):
    """As saturated or filled bands of Sentinel-2 are: what rounding makes of them is no contrast."""
    flat = transform(side=60, image_size=50, resize_to=resize_to, per_image=True)
    assert flat.evaluation(torch.full((1, 3, 60, 60), 28_001.0)).abs().max() < 0.1


def test_resampled_crop_of_the_whole_image_is_a_resize():
    images = torch.rand(4, 3, 16, 16)
    draws = draw(4, torch.Generator().manual_seed(0))
    out = transform(side=16, image_size=8).training(images, draws, Augmentation((1.0, 1.0), flips=False))
    torch.testing.assert_close(out, torch.nn.functional.avg_pool2d(images, 2), atol=1e-5, rtol=1e-5)


def test_resampled_crops_lie_inside_the_image():
    ramp = torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(200, 3, 16, 16).contiguous()
    draws = draw(200, torch.Generator().manual_seed(0))
    out = transform(side=16, image_size=8).training(ramp, draws, Augmentation((0.25, 0.5), flips=False))
    width = out[:, 0, 0, -1] - out[:, 0, 0, 0]
    assert width.min() > 0.35, "a quarter of the area is half the side, seen from pixel centres"
    assert width.max() < 0.75
    assert out[:, 0, 0, 0].min() < 0.1
    assert out[:, 0, 0, -1].max() > 0.9


def test_resampled_crops_are_squares_of_any_area_place_and_symmetry_alike():
    """Of an image whose pixels say where they lie: each number is uniform (Kolmogorov-Smirnov, p = 0.001), or one of
    two equally likely, and tells nothing of another."""
    count, side, low, high = 2000, 64, 0.25, 0.81
    x = torch.arange(side).float()
    placed = torch.stack([x.expand(side, side), x[:, None].expand(side, side), torch.zeros(side, side)])
    draws = draw(count, torch.Generator().manual_seed(0))
    out = transform(side=side).training(placed.expand(count, -1, -1, -1), draws, Augmentation((low, high)))[:, :2]
    along, down = ((out[:, :, i, j] - out[:, :, 0, 0]) * 8 / 7 for i, j in ((0, 7), (7, 0)))  # (x, y) of a whole side
    turned = along[:, 0].abs() < along[:, 1].abs()
    to_x, to_y = torch.where(turned, down[:, 0], along[:, 0]), torch.where(turned, along[:, 1], down[:, 1])
    torch.testing.assert_close(to_x.abs(), to_y.abs(), atol=1e-3, rtol=0)
    torch.testing.assert_close((along**2 + down**2).sum(1), 2 * to_x**2, atol=1e-2, rtol=1e-4)
    area = ((to_x / side) ** 2 - low) / (high - low)
    centre = (out.mean((2, 3)) + 0.5) / side - 0.5
    room = (1 - to_x.abs() / side)[:, None]
    uniform = torch.cat([area[:, None], centre / room + 0.5], 1)  # (count, 3)
    steps = torch.arange(count) / count
    for numbers in uniform.T:
        assert (numbers.sort().values - steps).abs().max() < 1.95 / count**0.5
    coins = torch.stack([turned, to_x < 0, to_y < 0], 1).float()
    assert (coins.mean(0) - 0.5).abs().max() < 0.05
    related = torch.corrcoef(torch.cat([uniform, coins], 1).T)
    assert (related - torch.eye(6)).abs().max() < 0.1


def test_bands_of_unequal_sides_are_repeated_to_the_largest():
    packed = torch.arange(1 + 4 + 16, dtype=torch.int32).to(torch.uint16)[None]
    out = assemble(packed, (1, 2, 4))
    assert out.shape == (1, 3, 4, 4)
    assert (out[0, 0] == 0).all()
    expected = torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    assert torch.equal(out[0, 1], expected.float())
    assert torch.equal(out[0, 2].flatten(), torch.arange(5, 21).float())


def test_uint16_survives_beyond_the_signed_range():
    packed = torch.full((1, 5), 60000, dtype=torch.int32).to(torch.uint16)
    assert (assemble(packed, (1, 2)) == 60000).all()


def test_augmentation_of_an_image_depends_on_its_own_draws_only():
    images = torch.randint(0, 255, (6, 3, 12, 12), dtype=torch.uint8)
    draws = draw(6, torch.Generator().manual_seed(3))
    for augmentation in (Augmentation(), Augmentation((0.3, 1.0), jitter=0.3)):
        whole = transform().training(images, draws, augmentation)
        parts = [transform().training(images[i : i + 2], draws[i : i + 2], augmentation) for i in (0, 2, 4)]
        torch.testing.assert_close(whole, torch.cat(parts))


def test_jitter_keeps_the_range_and_zero_strength_changes_nothing():
    pixels = torch.rand(5, 3, 6, 6) * 255
    draws = torch.rand(5, 3)
    torch.testing.assert_close(jittered(pixels, draws, 0.0), pixels, atol=1e-3, rtol=1e-5)
    strong = jittered(pixels, draws, 0.5)
    assert strong.min() >= 0
    assert strong.max() <= 255
    assert not torch.allclose(strong, pixels, atol=1.0)


@pytest.mark.parametrize("varied", [(0,), (1,), (2,), (0, 1, 2)], ids=["brightness", "contrast", "saturation", "all"])
def test_jitter_is_brightness_then_contrast_then_saturation_of_each_image(varied):
    """The literal twin, image by image; a draw of 0.5 is a factor of 1."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(6, 3, 5, 5, generator=generator) * 255
    draws = torch.full((6, 3), 0.5)
    draws[:, list(varied)] = torch.rand(6, len(varied), generator=generator)
    assert not torch.allclose(jittered(pixels, draws, 0.4), pixels, atol=10)
    for image, row, ours in zip(pixels.numpy(), draws.tolist(), jittered(pixels, draws, 0.4), strict=True):
        brightness, contrast, saturation = (1 + 0.4 * (2 * number - 1) for number in row)
        image = image * brightness
        image = image.mean() + contrast * (image - image.mean())
        gray = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        expected = np.clip(np.stack([gray + saturation * (band - gray) for band in image]), 0, 255)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


def first_batch(jitter, *argv):
    """The first training batch of a run with these flags, and what was warned about."""
    common = ["--image_size", "12", "--batch_size", "4", "--num_workers", "0", "--device", "cpu", "--weights", "none"]
    args = parameters.parse("baseline", [*common, *map(str, argv), "--color_jitter", str(jitter)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train = open_data(args, torch.device("cpu")).train
    ((_, batch),) = train.training([np.arange(4)], seed=0, epoch=0)
    return batch.images, [str(warning.message) for warning in caught if "color_jitter" in str(warning.message)]


@pytest.mark.parametrize("bands", ["rgb", "all"])
def test_digital_numbers_are_never_jittered_and_that_is_said_once(tmp_path, bands):
    flags = ("--dataset", "BigEarthNet", "--source_path", write_bigearthnet(tmp_path / "B", 30), "--ben_bands", bands)
    options = ("--ben_splits", "hashed", "--ben_labels", 43)
    plain, said_of_plain = first_batch(0, *flags, *options)
    jittered_too, said = first_batch(0.4, *flags, *options)
    assert torch.equal(plain, jittered_too)
    assert said_of_plain == []
    assert len(said) == 1
    assert "--color_jitter 0.4 is for 8-bit RGB images and does nothing on BigEarthNet" in said[0]


def test_photographs_are_jittered_without_a_word(tmp_path):
    flags = ("--dataset", "MLRSNet", "--source_path", write_mlrsnet(tmp_path / "M"), "--mlrsnet_labels", "as_is")
    plain, _ = first_batch(0, *flags)
    jittered_too, said = first_batch(0.4, *flags)
    assert not torch.allclose(plain, jittered_too, atol=0.1)
    assert said == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_does_not_change_the_augmentation():
    images = torch.randint(0, 255, (6, 3, 12, 12), dtype=torch.uint8)
    draws = draw(6, torch.Generator().manual_seed(3))
    on_cpu = transform().training(images, draws, Augmentation())
    on_gpu = transform(device="cuda").training(images.cuda(), draws, Augmentation())
    assert torch.equal(on_cpu, on_gpu.cpu())
