"""Measures of retrieval: formulae, chance levels, the whole ranking, and the evaluation that computes them.

May import: utilities, utilities.tensors, utilities.parallel, utilities.neighbours.
"""
