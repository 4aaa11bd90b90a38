"""Several processes that train as one: collectives, launch, synchronised batch norm.

May import: utilities.
"""
