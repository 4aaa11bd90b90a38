"""What pages of one file share: styles and scripts, which are put into each, and images as data addresses.

`page.css` and `page.js` are in every page, `page_of_data.js` in those that a script draws from data.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

PARTS = ("page.css", "page.js", "page_of_data.js")
_THUMBNAIL_SIDE = 128


class Collection(NamedTuple):
    """The images behind the rows of an evaluation.

    names (N,), labels (N, L) bool, thumbnail(row) -> (H, W, 3) uint8.
    """

    names: Sequence[str] | np.ndarray
    labels: np.ndarray
    thumbnail: Callable[[int], np.ndarray]


def whole(template: Path) -> str:
    """The template with the parts that it names as `/*page.css*/`."""
    page = template.read_text(encoding="utf-8")
    for name in PARTS:
        page = page.replace(f"/*{name}*/\n", Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return page


def write_page(path: Path, data: dict[str, Any], template: Path) -> None:
    """Write a page of data: a template with its data in it, as JSON."""
    page = whole(template)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.replace("__DATA__", text), encoding="utf-8")


class Images:
    """Images of the page, each stored once."""

    def __init__(self, queries: Collection, gallery: Collection) -> None:
        self.queries, self.gallery = queries, gallery
        self.records: list[dict[str, Any]] = []
        self.numbers: dict[tuple[bool, int], int] = {}

    def number(self, row: int, *, query: bool = False) -> int:
        """Place of an image in `records`, which it is added to where it is new."""
        key = (query and self.queries is not self.gallery, row)
        if key not in self.numbers:
            source = self.queries if query else self.gallery
            self.numbers[key] = len(self.records)
            self.records.append(
                {
                    "name": str(source.names[row]),
                    "labels": np.flatnonzero(source.labels[row]).tolist(),
                    "src": data_address(source.thumbnail(row)),
                }
            )
        return self.numbers[key]

    def query_number(self, row: int) -> int | None:
        return self.numbers.get((self.queries is not self.gallery, row))


def data_address(pixels: np.ndarray, side: int = _THUMBNAIL_SIDE) -> str:
    """(H, W, 3) uint8 as a JPEG inside a page, its longer side at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def plain(value: float | Tensor) -> float | None:
    """A JSON number, or None for NaN."""
    number = float(value)
    return None if math.isnan(number) else round(number, 6)
