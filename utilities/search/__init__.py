"""Search by example over the embeddings of a split, and what it leaves behind: page, picture, table and places.

May import: utilities, utilities.flags, utilities.tensors, utilities.parallel, utilities.neighbours, utilities.measures,
utilities.training, utilities.report, utilities.inference.
"""
