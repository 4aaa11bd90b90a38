"""Embedding whole splits: every rank its share, convolutions fused with what follows for as long as it lasts.

May import: utilities, utilities.parallel.
"""
