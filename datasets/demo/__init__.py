"""Procedural aerial scenes: what the data set `Demo` is painted from.

`materials` -> `canvas` -> `shapes`, `objects`, `grounds` -> `scenes` -> the recipes in `countryside`, `town`
and `transport`.
"""

from datasets.demo import countryside, town, transport  # noqa: F401 - their recipes register
from datasets.demo.canvas import Picture
from datasets.demo.materials import LABELS, visible_labels
from datasets.demo.scenes import SCENES, paint

CATEGORIES: tuple[str, ...] = tuple(sorted(SCENES))

__all__ = ["CATEGORIES", "LABELS", "Picture", "paint", "visible_labels"]
