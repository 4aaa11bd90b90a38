"""Shared ground floor (tensors, labels, distances, metrics) and engine floor (loop, evaluation, logs)."""
