"""Backbones and embedding heads; a new file that registers a class is all it takes to add one.

May import: utilities, utilities.flags, utilities.tensors, utilities.runs.
"""

from architectures.base import BACKBONES
from utilities.flags.registry import import_siblings

import_siblings(__name__, list(__path__))

__all__ = ["BACKBONES"]
