"""Features of a frozen backbone, computed once for views of every image, from which heads train.

May import: datasets.base, datasets.batches, datasets.prepared, utilities, utilities.flags, utilities.parallel,
utilities.neighbours, utilities.inference, utilities.training.
"""
