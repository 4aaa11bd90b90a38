"""Loss functions; a new file that registers a class is all it takes to add one. `whole_batches`: without a miner.

May import: utilities, utilities.flags, utilities.tensors, utilities.parallel.
"""

from criteria.base import CRITERIA, of_batches
from utilities.flags.registry import import_siblings

import_siblings(__name__, list(__path__))

__all__ = ["CRITERIA", "of_batches"]
