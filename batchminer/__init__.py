"""Miners; a new file that registers a class is all it takes to add one.

May import: utilities, utilities.flags, utilities.tensors.
"""

from batchminer.base import MINERS, related_miners
from utilities.flags.registry import import_siblings

import_siblings(__name__, list(__path__))

__all__ = ["MINERS", "related_miners"]
