#!/usr/bin/env bash
# Label lists written to GeoPackage come back as one string that looks like the list.
#
# Versions:   geopandas 1.2.0, pyogrio 0.13.0 (GDAL in the wheel), shapely 2.2.0, pandas 2.3.3
# Behaviour:  a column of Python lists is stored as text, "['Arable land', 'Pastures']", without error or warning, by
#             GeoPackage and FlatGeobuf; GeoJSON and GeoParquet give lists back. Printed, the two tables look alike.
# Surprise:   GDAL's GeoPackage driver has JSON columns; one expects those, or a refusal.
# Cost:       code goes on working: "label in labels" becomes a search for a substring ("Forest" is now in "Mixed
#             Forest"), len() counts characters, and MultiLabelBinarizer makes one class of each letter.
# Source:     found by running; the GeoPackage format has text as its nearest type, and pyogrio fills it with the text
#             of the object.
# Seen:       gpkg str, fgb str, geojson sequence, parquet sequence.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    geopandas==1.2.0 pyogrio==0.13.0 shapely==2.2.0 pandas==2.3.3 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import geopandas as gpd
from shapely.geometry import box

labels = [["Arable land", "Mixed Forest"], ["Pastures"]]
patches = gpd.GeoDataFrame({"labels": labels}, geometry=[box(0, 0, 1, 1), box(2, 2, 3, 3)], crs=32633)


def back(path):
    if path.endswith(".parquet"):
        patches.to_parquet(path)
        table = gpd.read_parquet(path)
    else:
        patches.to_file(path)
        table = gpd.read_file(path)
    return next(value for value in table["labels"] if "Pastures" not in value)


for path in ("patches.gpkg", "patches.fgb"):
    value = back(path)
    print(path, repr(value))
    assert value == "['Arable land', 'Mixed Forest']" and "Forest" in value
for path in ("patches.geojson", "patches.parquet"):
    value = back(path)
    print(path, list(value))
    assert list(value) == labels[0] and "Forest" not in list(value)
PYTHON
