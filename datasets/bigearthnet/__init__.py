"""BigEarthNet, versions 1 and 2: patches, labels, official splits, archives, LMDB, places on the ground.

May import: datasets.base, datasets.files, datasets.prepared, utilities.
"""
