#!/usr/bin/env bash
# faiss lists equal inner products by falling row number, equal L2 distances by rising row number.
#
# Versions:   faiss-cpu 1.15.1, numpy 2.4.6
# Behaviour:  of rows that tie, both metrics keep the first ones of the gallery. The L2 search lists them 0, 1, 2, ...;
#             the inner product search lists the very same rows ..., 2, 1, 0. Batch size and k (heap or reservoir)
#             change nothing.
# Surprise:   for unit vectors the two metrics are one ranking (d = 2 - 2s), so one expects one order. The lists agree
#             as sets, and disagree at every tie.
# Cost:       with duplicated images (augmented archives, tiles that overlap) the image itself is first under L2 and
#             last of its ties under cosine: dropping column 0 as "the query itself" drops another image, and P@1 or a
#             kept list of neighbours differs between two settings that should be the same.
# Source:     faiss/utils/ordered_key_value.h and Heap.h: ties in the heap are settled by comparing ids with the same
#             comparator as the values, which points the other way for similarities.
# Seen:       L2 [0 1 2], inner product [2 1 0]; with k = 150: L2 0..149, inner product 149..0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np

gallery = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (300, 1))
for queries in (1, 64):
    for k in (3, 150):
        by_distance = faiss.knn(gallery[:queries], gallery, k, metric=faiss.METRIC_L2)[1]
        by_product = faiss.knn(gallery[:queries], gallery, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
        print(f"{queries} queries, k = {k}: L2 {by_distance[0, :3]}..., inner product {by_product[0, :3]}...")
        assert (by_distance == np.arange(k)).all()
        assert (by_product == np.arange(k)[::-1]).all()
index = faiss.IndexFlatIP(2)
index.add(gallery)
assert index.search(gallery[:1], 3)[1].tolist() == [[2, 1, 0]]
PYTHON
