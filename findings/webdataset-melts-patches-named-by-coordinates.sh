#!/usr/bin/env bash
# Patches named by coordinates ("45.12_7.34.tif") melt into one sample in WebDataset.
#
# Versions:   webdataset 1.0.2, numpy 2.4.6
# Behaviour:  the key of a sample ends at the first dot of the file name, not the last. 45.12_7.34.tif and
#             45.90_7.10.tif both have the key "45"; next to each other in the tar, they become two fields of one
#             sample, with names such as "12_7.34.tif".
# Surprise:   splitext and pathlib cut at the last dot; and a clash would raise an error only if the fields' names were
#             equal too.
# Cost:       the number of samples shrinks to the number of distinct whole degrees in a row, images are paired with
#             other patches' labels, and a loader that takes "the field that ends in tif" sees one of them. Dots must
#             go from the names before packing.
# Source:     webdataset/tariterators.py, base_plus_ext: the base is everything up to the first dot after the last
#             slash.
# Seen:       4 files of 2 patches (tif and json): 1 sample, key 45, 4 fields.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import io
import tarfile

import webdataset


def samples(names):
    with tarfile.open("shard.tar", "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"0"))
    return [
        (sample["__key__"], sorted(name for name in sample if not name.startswith("__")))
        for sample in webdataset.WebDataset("shard.tar", shardshuffle=False)
    ]


melted = samples(["45.12_7.34.tif", "45.12_7.34.json", "45.90_7.10.tif", "45.90_7.10.json"])
apart = samples(["45-12_7-34.tif", "45-12_7-34.json", "45-90_7-10.tif", "45-90_7-10.json"])
print(melted, apart, sep="\n")
assert melted == [("45", ["12_7.34.json", "12_7.34.tif", "90_7.10.json", "90_7.10.tif"])]
assert [key for key, _ in apart] == ["45-12_7-34", "45-90_7-10"]
PYTHON
