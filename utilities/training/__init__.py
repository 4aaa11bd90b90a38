"""The loop that trains any method: engine, optimizers, precision, the window of losses.

May import: utilities, utilities.flags, utilities.tensors, utilities.parallel, utilities.neighbours, utilities.measures,
utilities.runs, utilities.report, utilities.inference.
"""
