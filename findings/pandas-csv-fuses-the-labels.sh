#!/usr/bin/env bash
# BigEarthNet's parquet metadata through a CSV of pandas: each patch's list of labels reads back as one label of all of them.
#
# Versions:   pandas 3.1.1, pyarrow 26.0.1
# Behaviour:  a column of lists is a column of numpy arrays once pandas has read it from parquet, and to_csv writes these
#             as numpy prints them, without commas: ['Arable land' 'Pastures']. That is a valid Python literal, of a
#             list of one string, since neighbouring strings are joined: literal_eval gives ['Arable landPastures'].
#             The same frame made of Python lists writes commas and comes back whole.
# Surprise:   literal_eval is the usual way back and raises nothing; 19 classes become hundreds. A list of one label
#             comes back right, so that the first rows may look well.
# Cost:       multi-hot labels of a class list lack every patch with two labels or more, or a label encoder learns each
#             combination as a class of its own.
# Source:     pandas.io.parquet hands over pyarrow's Table.to_pandas, which makes an ndarray of each list; the CSV writer
#             takes str() of a cell; Python reference, "String literal concatenation".
# Seen:       by pandas ['Arable landPastures'], from lists ['Arable land', 'Pastures'].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import ast

import pandas as pd

labels = [["Arable land", "Pastures"], ["Marine waters"]]
frame = pd.DataFrame({"patch_id": ["a", "b"], "labels": labels})
frame.to_parquet("metadata.parquet")
frame.to_csv("made.csv", index=False)
pd.read_parquet("metadata.parquet").to_csv("read.csv", index=False)

made, read = ([ast.literal_eval(cell) for cell in pd.read_csv(name)["labels"]] for name in ("made.csv", "read.csv"))
print("by pandas", read[0], "from lists", made[0])
assert made == labels
assert read == [["Arable landPastures"], ["Marine waters"]]
PYTHON
