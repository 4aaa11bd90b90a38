"""A saved run for other people's tools: weights with a model card, graphs, tables and indexes of embeddings.

May import: utilities, utilities.flags, utilities.measures, utilities.neighbours, utilities.runs.
"""
