"""Backbones and embedding heads; a new file that registers a class is all it takes to add one.

`load_network` opens a saved run for use in Python. What prepares images for it is a matter of data sets: that is the
one thing that this folder takes from there.

May import: utilities, utilities.flags, utilities.tensors, utilities.runs, datasets.network_input.
"""

from architectures.base import BACKBONES
from utilities.flags.registry import import_siblings

import_siblings(__name__, list(__path__))

from architectures.saved import load_network  # noqa: E402 - backbones first

__all__ = ["BACKBONES", "load_network"]
