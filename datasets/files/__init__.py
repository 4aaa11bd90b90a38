"""Files of other people as they are read: images, GeoTIFFs, tars, label tables, lists of names.

May import: datasets.base, utilities.
"""
