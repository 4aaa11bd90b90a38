"""MLRSNet: images, labels and their repair, stored splits (`stored/`), archives.

May import: datasets.base, datasets.files, datasets.prepared, utilities.
"""
