"""Pixels decoded once into one array on disk (`--use_npmem`), from files or straight from an archive.

May import: datasets.base, datasets.batches, datasets.files, utilities, utilities.flags.
"""
