"""Slow literal twins of what the package computes fast: definitions as loops over Python sets."""
