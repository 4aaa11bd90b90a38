"""What `python -m datasets` looks at and draws before anyone trains on a data set.

May import: datasets.base, datasets.batches, utilities, utilities.report.
"""
