#!/usr/bin/env bash
# A table of patches written to FlatGeobuf comes back in another order.
#
# Versions:   geopandas 1.2.0, pyogrio 0.13.0 (GDAL in the wheel), shapely 2.2.0, pandas 2.3.3
# Behaviour:  to_file("x.fgb") sorts the features along a Hilbert curve for its spatial index; read_file gives them in
#             that order, numbered 0, 1, 2 again. GeoPackage, GeoJSON and GeoParquet keep the rows' order.
# Surprise:   a file format is thought of as a container; the extension alone decides whether row i stays row i.
# Cost:       embeddings and label matrices are plain arrays, matched to the table by position: after one save each
#             patch has another's embedding, and nothing has changed in shape. SPATIAL_INDEX="NO" keeps the order.
# Source:     GDAL's page on FlatGeobuf: with SPATIAL_INDEX=YES, its default, features are written in the index's
#             order.
# Seen:       fgb: not 0, 1, 2, ...; gpkg, geojson, parquet and fgb without index: 0, 1, 2, ...
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

cells = [box(x, y, x + 1200, y + 1200) for y in range(0, 4800, 1200) for x in range(0, 4800, 1200)]
patches = gpd.GeoDataFrame({"row": range(16)}, geometry=cells, crs=32633)


def order(path, **options):
    if path.endswith(".parquet"):
        patches.to_parquet(path)
        return gpd.read_parquet(path)["row"].tolist()
    patches.to_file(path, **options)
    back = gpd.read_file(path)
    assert back.index.tolist() == list(range(16))
    return back["row"].tolist()


kept = list(range(16))
print("fgb", order("patches.fgb"))
assert sorted(order("patches.fgb")) == kept and order("patches.fgb") != kept
assert order("patches.gpkg") == order("patches.geojson") == order("patches.parquet") == kept
assert order("plain.fgb", SPATIAL_INDEX="NO") == kept
PYTHON
