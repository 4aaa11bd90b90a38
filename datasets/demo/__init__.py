"""The embedded demo: generated aerial scenes in MLRSNet's layout. `painting` draws them.

May import: datasets.base, datasets.files, datasets.mlrsnet, datasets.demo.painting, utilities.
"""
