"""UC Merced with multi-labels: images, labels, stored splits (`stored/`).

May import: datasets.base, datasets.files, utilities.
"""
