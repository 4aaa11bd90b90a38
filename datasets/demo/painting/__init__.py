"""Procedural aerial scenes: what the data set `Demo` is painted from.

`materials` -> `canvas` -> `shapes`, `objects`, `grounds` -> `scenes` -> the recipes in `countryside`, `town`
and `transport`.

May import: nothing of the project but itself.
"""

from datasets.demo.painting import countryside, town, transport  # noqa: F401 - their recipes register
from datasets.demo.painting.canvas import Picture
from datasets.demo.painting.materials import LABELS, visible_labels
from datasets.demo.painting.scenes import SCENES, paint

CATEGORIES: tuple[str, ...] = tuple(sorted(SCENES))

__all__ = ["CATEGORIES", "LABELS", "Picture", "paint", "visible_labels"]
