"""Anybody's own archive: images in any layout, and one table of labels or none.

May import: datasets.base, datasets.files, utilities.
"""
