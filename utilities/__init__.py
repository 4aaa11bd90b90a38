"""What all methods share. Right here the ground: errors, files, randomness, records of a batch, places as GeoJSON.

    flags  tensors  parallel    settings and registries; label relations and distances; several processes
    neighbours  measures        exact search and clusters; formulae, chance levels, evaluation
    runs  training              what a run keeps on disk; the engine
    report  search              what an evaluation, and a search by example, leave behind

May import: utilities.
"""
