#!/usr/bin/env bash
# pyarrow: the filter ("split", "!=", "train") drops rows without a split, ("split", "not in", ["train"]) keeps them.
#
# Versions:   pyarrow 26.0.1
# Behaviour:  read_table(filters=) over train, test, null: "!=" gives test alone, "not in" with the same single value
#             gives test and null.
# Surprise:   the two say the same thing in pandas (both keep the null) and in SQL (both drop it); here they differ
#             from each other.
# Cost:       patches that belong to no split (those dropped for snow and cloud in BigEarthNet's metadata, or not yet
#             assigned) are evaluated or not depending on which of two equal phrases was written.
# Source:     pyarrow/parquet/core.py, filters_to_expression: "!=" becomes a comparison, null if either side is, and
#             null rows are filtered out; "not in" becomes ~is_in, and is_in answers false for a null.
# Seen:       != ['test'], not in ['test', None].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import pyarrow as pa
import pyarrow.parquet as pq

pq.write_table(pa.table({"split": ["train", "test", None]}), "metadata.parquet")


def kept(*condition):
    return pq.read_table("metadata.parquet", filters=[condition])["split"].to_pylist()


unequal, outside = kept("split", "!=", "train"), kept("split", "not in", ["train"])
print("!=", unequal, "not in", outside)
assert unequal == ["test"]
assert outside == ["test", None]
PYTHON
