"""Tiny data sets in the exact layouts of the real ones, with their quirks, for tests that need files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from datasets.bigearthnet.nomenclature import BAND_SIDES, LABELS_19, LABELS_43
from datasets.mlrsnet.labels import LABELS
from datasets.ucmerced.dataset import LABELS as UCMERCED_LABELS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where the real data lies when it is at hand; tests skip without it."""


def write_photograph(path: Path, rng: np.random.Generator, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> None:
    """Random pixels, smooth enough for JPEG, in any of Pillow's modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (4, 4, len(mode) if mode != "L" else 1), dtype=np.uint8)
    Image.fromarray(coarse.squeeze(), mode).resize(size, Image.Resampling.BICUBIC).save(path)


def csv_text(names: Sequence[str], labels: np.ndarray, header: Sequence[str], end: str = "\n") -> str:
    rows = [",".join([name, *map(str, row)]) for name, row in zip(names, labels.astype(int), strict=True)]
    return end.join([",".join(["image", *header]), *rows, ""])


def write_mlrsnet(
    root: Path,
    *,
    images: Mapping[str, int] | None = None,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
) -> Path:
    """MLRSNet in small: a `&` in a folder, one csv in another column order, one with CRLF and a blank header,
    an image of another size, one grayscale, one CMYK, one without labels.

    images  category -> number of images; rows carry a label named as the category and a few others, so that
            every label occurs.
    """
    rng = np.random.default_rng(seed)
    images = images or {"airplane": 10, "harbor&port": 10, "lake": 10, "wetland": 10}
    (root / "labels").mkdir(parents=True)
    for number, (category, count) in enumerate(images.items()):
        names = [f"{category}_{i:05d}.jpg" for i in range(1, count + 1)]
        flags = rng.random((count, len(labels))) < 3 / len(labels)
        flags[:, number % len(labels)] = True
        order = rng.permutation(len(labels)) if number == 1 else np.arange(len(labels))
        header = [labels[i] for i in order]
        if number == 2:
            header[5] = "  "
        if number == 3:
            flags[0] = False
        text = csv_text(names, flags[:, order], header, "\r\n" if number == 2 else "\n")
        (root / "labels" / f"{category}.csv").write_text(text, newline="")
        for i, name in enumerate(names):
            mode = {1: "L", 2: "CMYK"}.get(i, "RGB") if number == 0 else "RGB"
            write_photograph(root / "Images" / category / name, rng, (24, 16) if i == 3 else (16, 16), mode)
    return root


def write_ucmerced(root: Path, *, scenes: Mapping[str, int] | None = None, suffix: str = ".tif", seed: int = 0) -> Path:
    """UC Merced in small: tab separated labels with a tab at the end of every CRLF line; two image sizes."""
    rng = np.random.default_rng(seed)
    names = [f"{scene}{i:02d}" for scene, n in (scenes or {"beach": 10, "river": 10}).items() for i in range(n)]
    flags = rng.random((len(names), len(UCMERCED_LABELS))) < 0.2
    flags[:, 0] = ~flags.any(1)
    rows = ["\t".join(["IMAGE\\LABEL", *UCMERCED_LABELS, ""])]
    rows += ["\t".join([name, *map(str, row), ""]) for name, row in zip(names, flags.astype(int), strict=True)]
    for i, name in enumerate(names):
        write_photograph(root / "Images" / name[:-2] / f"{name}{suffix}", rng, (18, 16) if i == 1 else (16, 16))
    (root / "LandUse_Multilabeled.txt").write_text("\r\n".join([*rows, ""]), newline="")
    return root


def patch_names(count: int) -> list[str]:
    """Names as the archive spells them; the second lacks the zero of its hour, the third has no time."""
    stems = ["S2A_MSIL2A_20170613T101031", "S2B_MSIL2A_20170924T93020", "S2B_MSIL2A_20180204T94161"]
    return [f"{stems[i % 3]}_{i // 9}_{i}" for i in range(count)]


def write_patch(folder: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The twelve bands of a patch as the archive stores them: uncompressed, strips of 8 KiB at most."""
    folder.mkdir(parents=True)
    bands = {band: rng.integers(0, 10_000, (side, side), dtype=np.uint16) for band, side in BAND_SIDES.items()}
    for band, pixels in bands.items():
        rows = min(len(pixels), 4096 // len(pixels))
        tifffile.imwrite(folder / f"{folder.name}_{band}.tif", pixels, rowsperstrip=rows, metadata=None)
    return bands


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    text = json.dumps({"labels": list(labels), "projection": "PROJCS[]", "acquisition_date": "2017-06-13 10:10:31"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}_labels_metadata.json").write_text(text)


def write_bigearthnet(root: Path, count: int = 10, *, bands: bool = True, seed: int = 0) -> Path:
    """BigEarthNet v1 in small: patch i carries label i of the 43 and, every third, another."""
    rng = np.random.default_rng(seed)
    for i, name in enumerate(patch_names(count)):
        if bands:
            write_patch(root / name, rng)
        write_labels(root / name, [LABELS_43[i % 43], *([LABELS_43[(i + 20) % 43]] if i % 3 == 0 else [])])
    return root


def write_reben(root: Path, count: int = 12, *, seed: int = 0) -> Path:
    """BigEarthNet v2 in small: folders by tile; the last patch has snow, the one before cloud."""
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(seed)
    names = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UU{'PQ'[i % 2]}_{i}_{i + 40}" for i in range(count)]
    for name in names:
        write_patch(root / "BigEarthNet-S2" / name.rsplit("_", 2)[0] / name, rng)
    table = {
        "patch_id": names,
        "labels": [[LABELS_19[i % 19], LABELS_19[(i + 1) % 19]] for i in range(count)],
        "split": [("train", "validation", "test")[i % 3] for i in range(count)],
        "country": ["Austria"] * count,
        "contains_seasonal_snow": [i == count - 1 for i in range(count)],
        "contains_cloud_or_shadow": [i == count - 2 for i in range(count)],
    }
    parquet.write_table(pyarrow.table(table), root / "metadata.parquet")
    return root
