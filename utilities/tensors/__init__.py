"""Functions of tensors that losses, miners and measures share: label relations, distances, float32 islands.

May import: utilities.
"""
