"""The parts of `evaluate_model.py`: what is refused, splits with their embeddings, their scores, where results lie.

May import: utilities, utilities.flags, utilities.parallel, utilities.inference, utilities.neighbours,
utilities.measures, utilities.runs, utilities.training, utilities.report, utilities.export.
"""
