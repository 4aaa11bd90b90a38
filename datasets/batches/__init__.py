"""From images to batches: which images meet in a batch, who reads them, what is done to them on the device.

May import: datasets.base, utilities, utilities.flags, utilities.parallel.
"""
