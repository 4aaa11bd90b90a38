#!/usr/bin/env bash
# An embedding column of fixed length is a variable list once duckdb has read it from Parquet, and its cosine
# function refuses it.
#
# Versions:   duckdb 2.0.1, pyarrow 26.0.1, numpy 2.4.6
# Behaviour:  a FLOAT[2] (ARRAY) column that duckdb itself writes by COPY ... TO 'x.parquet' comes back as FLOAT[]
#             (LIST); so does a fixed_size_list that pyarrow wrote and pyarrow reads back as fixed.
#             array_cosine_distance then ends in a BinderException.
# Surprise:   both programs know the type, both write it to their own format and back, Arrow's schema lies in the file;
#             and the Arrow table, handed over in memory, is an ARRAY.
# Cost:       a kept table of embeddings works until it is stored; list_cosine_distance takes the column, but gives up
#             the check that all rows have one length. A cast (e::FLOAT[2]) in the query mends it.
# Source:     Parquet knows lists without a length only (LogicalTypes.md of the format); Arrow restores its type from
#             the ARROW:schema key, which duckdb's reader does not look at.
# Seen:       FLOAT[2] in memory; FLOAT[] for both files; BinderException; 0.0 after the cast.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"e": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))})
pq.write_table(table, "arrow.parquet")
connection = duckdb.connect()
connection.execute("COPY (SELECT [1.0, 2.0]::FLOAT[2] AS e) TO 'duck.parquet'")


def kind(source):
    return connection.execute(f"SELECT typeof(e) FROM {source}").fetchall()[0][0]


connection.register("memory", table)
kinds = {source: kind(source) for source in ("memory", "'arrow.parquet'", "'duck.parquet'")}
print(kinds, "pyarrow:", pq.read_schema("arrow.parquet").field("e").type)
assert kinds == {"memory": "FLOAT[2]", "'arrow.parquet'": "FLOAT[]", "'duck.parquet'": "FLOAT[]"}
assert pq.read_schema("arrow.parquet").field("e").type == pa.list_(pa.float32(), 2)
try:
    connection.execute("SELECT array_cosine_distance(e, e) FROM 'duck.parquet'")
except duckdb.BinderException as error:
    print(str(error).splitlines()[0])
else:
    raise AssertionError("accepted")
cast = connection.execute("SELECT array_cosine_distance(e::FLOAT[2], e::FLOAT[2]) FROM 'duck.parquet'").fetchall()
assert abs(cast[0][0]) < 1e-6
PYTHON
