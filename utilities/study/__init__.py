"""The comparison of all methods as a plan of runs, a table of their results, and what is drawn from that table.

`python -m utilities.study run` trains, scores and records what is missing; `python -m utilities.study draw` makes every
table and figure of docs/study.md from docs/results.

May import: datasets.ucmerced, utilities, utilities.measures, utilities.report.
"""
