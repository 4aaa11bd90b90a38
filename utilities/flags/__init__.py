"""What a flag is, how a command line becomes settings, and how settings build registered classes.

May import: utilities, utilities.runs.
"""
