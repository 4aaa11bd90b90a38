"""Exact nearest neighbours and what is built on distances: clusters, densities, tables of neighbours, maps.

May import: utilities, utilities.tensors, utilities.parallel.
"""
