"""What an evaluation leaves behind: text, figures, tables, the HTML report, comparisons of runs.

May import: utilities, utilities.flags, utilities.neighbours, utilities.measures, utilities.runs.
"""
