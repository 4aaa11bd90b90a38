"""Losses on a batch as it is, without a miner.

May import: criteria.base, criteria.nca, utilities, utilities.flags, utilities.tensors.
"""

from utilities.flags.registry import import_siblings

import_siblings(__name__, list(__path__))
