#!/usr/bin/env bash
# faiss METRIC_Jaccard is a similarity, and an image without labels is not even found by itself.
#
# Versions:   faiss-cpu 1.15.1, numpy 2.4.6
# Behaviour:  METRIC_Jaccard gives the sum of minima over the sum of maxima, sorted from 1 downwards. Between two empty
#             label sets that is 0 / 0: the NaN never enters the list of results, so the row vanishes and the list ends
#             in -1, although k is no more than the number of rows.
# Surprise:   every other metric that faiss adds to L2 and inner product (L1, Linf, Canberra, BrayCurtis,
#             JensenShannon) is a distance; and scipy calls two empty sets equal (distance 0).
# Cost:       a ranking by common labels (the ideal order of nDCG, say) read with "smallest first" is reversed; with
#             the 10 MLRSNet images that bear no label, ids of -1 pick the last row of the gallery in numpy.
# Source:     faiss/utils/extra_distances-inl.h, VectorDistance for METRIC_Jaccard (no case for a sum of 0), and
#             is_similarity_metric in MetricType.h.
# Seen:       similarities [1, 0.333, 0, 0] for the first query; row 2 (empty) finds [3, 1, 0, -1]: all but itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np

labels = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=np.float32)
index = faiss.IndexFlat(4, faiss.METRIC_Jaccard)
index.add(labels)
values, rows = index.search(labels, 4)
print(values, rows, sep="\n")
np.testing.assert_allclose(values[0], [1, 1 / 3, 0, 0], rtol=1e-6)
assert rows[0, 0] == 0
assert 2 not in rows[2] and rows[2, 3] == -1, "the empty row finds the others, not itself"

index = faiss.IndexFlat(4, faiss.METRIC_L1)
index.add(labels)
values, rows = index.search(labels, 4)
assert values[2, 0] == 0 and rows[2, 0] == 2, "the other added metrics are distances"
PYTHON
