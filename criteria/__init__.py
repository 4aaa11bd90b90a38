"""Loss functions; a new file that registers a class is all it takes to add one."""

from utilities.registry import import_siblings
from criteria.base import CRITERIA

import_siblings(__name__, list(__path__))

__all__ = ["CRITERIA"]
