"""Search by example over the embeddings of a split, and what it leaves behind: page, picture, table and places.

May import: utilities, utilities.tensors, utilities.neighbours, utilities.report, utilities.evaluation.
"""
