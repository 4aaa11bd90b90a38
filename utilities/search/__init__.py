"""What a search by example leaves behind: page, picture, table and places of the hits.

May import: utilities, utilities.report.
"""
