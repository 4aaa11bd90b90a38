#!/usr/bin/env bash
# duckdb: one embedding of zeros is the most similar image to every query, and the most distant one, too.
#
# Versions:   duckdb 2.0.1
# Behaviour:  the cosine of a row of zeros is NaN, and NaN is above every number: ORDER BY array_cosine_similarity DESC
#             puts that row before the query itself, ORDER BY array_cosine_distance puts it last. max_by picks it, and
#             it passes "similarity > 0.99", also under list_cosine_similarity.
# Surprise:   the two orders are taken for one ranking, and a comparison with NaN for false, as in numpy and IEEE 754.
# Cost:       a black patch (no data over all of it) or a dead ReLU head gives such a row: it takes rank 1 of every
#             query, so precision@1 is that of this one image, and a search for near-duplicates by threshold finds it
#             for all of them. Nothing raises.
# Source:     duckdb orders NaN as the greatest float, as PostgreSQL does; array_cosine_similarity divides by 0.
# Seen:       by similarity rows 0 (zeros), 1, 2, 3; by distance 1, 2, 3, 0; similarity > 0.99: 0 and 1; max_by: 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import duckdb

archive = duckdb.connect()
archive.execute("CREATE TABLE patches (id INTEGER, e FLOAT[2])")
archive.execute("INSERT INTO patches VALUES (0, [0, 0]), (1, [1, 0]), (2, [1, 1]), (3, [-1, 0])")


def ids(rest, chosen="id"):
    return [row[0] for row in archive.execute(f"SELECT {chosen} FROM patches {rest}").fetchall()]


query = "[1, 0]::FLOAT[2]"
similar = ids(f"ORDER BY array_cosine_similarity(e, {query}) DESC")
near = ids(f"ORDER BY array_cosine_distance(e, {query})")
copies = ids(f"WHERE array_cosine_similarity(e, {query}) > 0.99 ORDER BY id")
lists = ids("WHERE list_cosine_similarity(e::FLOAT[], [1, 0]::FLOAT[]) > 0.99 ORDER BY id")
best = ids("", f"max_by(id, array_cosine_similarity(e, {query}))")
print("by similarity", similar, "by distance", near, "above 0.99", copies, lists, "max_by", best)
assert similar == [0, 1, 2, 3] and near == [1, 2, 3, 0]
assert copies == lists == [0, 1] and best == [0]
PYTHON
