#!/usr/bin/env bash
# usearch with dtype="i8" searches by the angle, whatever the metric: "l2sq" and "ip" do not see lengths any more.
#
# Versions:   usearch 2.26.6, numpy 2.4.6
# Behaviour:  Index(metric="l2sq", dtype="i8") divides every float vector, stored or asked for, by its own length before
#             it rounds to 127 steps. x and 10 x have the distance 0, and the ten found are those of the cosine.
#             metric="ip" likewise. "f16" and "bf16", the neighbouring values of dtype, keep the lengths.
# Surprise:   dtype is thought of as a precision, and 8 bits as some loss of recall: faiss' scalar quantiser, or one
#             scale for all vectors, keeps the metric. The docstring of Index offers "i8" for continuous metrics, and
#             nothing raises. With metric="cos" all is well.
# Cost:       embeddings that are not on the unit sphere (a Euclidean head, the pooled features of a backbone): here
#             55 % of the true neighbours instead of 97 %, taken for the price of quantising. Who compares 8 bits with
#             32 this way compares two distances.
# Source:     usearch/index_plugins.hpp, cast_to_i8_gt, assumes a metric like the dot product; one sentence far down the
#             README calls i8 valid only for metrics like the cosine. Neither says what happens otherwise, and with the
#             inner product itself the lengths are lost, too.
# Seen:       share of the true ten neighbours, l2sq: f32 1.0, f16 1.0, i8 0.55; 8 bits with one scale for all 0.974; i8
#             against the neighbours by cosine 0.974. ip: f16 1.0, i8 0.48. Distance of x to 10 x: 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from usearch.index import Index

generator = np.random.RandomState(0)
rows = generator.randn(500, 16) * generator.uniform(0.5, 2, (500, 1))
rows = rows.astype(np.float32)
unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)


def neighbours(vectors):
    vectors = vectors.astype(np.float64)
    return np.argsort(((vectors[:, None] - vectors[None]) ** 2).sum(axis=2), axis=1, kind="stable")[:, :10]


def index(metric, dtype, vectors=rows):
    made = Index(ndim=16, metric=metric, dtype=dtype, expansion_add=500, expansion_search=500)
    made.add(np.arange(len(vectors)), vectors)
    return made


def found(metric, dtype):
    return index(metric, dtype).search(rows, 10).keys


def share(one, other):
    return round(float(np.mean([np.isin(a, b).mean() for a, b in zip(one, other)])), 3)


euclidean, angular = neighbours(rows), neighbours(unit)
largest = np.argsort(-(rows @ rows.T), axis=1)[:, :10]
one_scale = neighbours(np.round(rows * 127 / np.abs(rows).max()))
l2, ip = found("l2sq", "i8"), found("ip", "i8")
shares = {dtype: share(found("l2sq", dtype), euclidean) for dtype in ("f32", "f16", "bf16", "i8")}
print("l2sq", shares, "one scale for all", share(one_scale, euclidean), "i8 against cosine", share(l2, angular))
print("ip f16", share(found("ip", "f16"), largest), "i8", share(ip, largest), "i8 against cosine", share(ip, angular))
assert min(shares["f32"], shares["f16"], shares["bf16"], share(one_scale, euclidean)) > 0.95, "precision is not it"
assert shares["i8"] < 0.7 and share(l2, angular) > 0.95, "the metric is"
assert share(found("ip", "f16"), largest) > 0.95
assert share(ip, largest) < 0.7 and share(ip, angular) > 0.9
assert share(found("cos", "i8"), angular) > 0.95

ray = index("l2sq", "i8", rows[:1]).search(10 * rows[:1], 1).distances
exact = index("l2sq", "f32", rows[:1]).search(10 * rows[:1], 1).distances
print("x to 10 x: i8", ray, "f32", exact)
assert float(np.ravel(ray)[0]) == 0 and float(np.ravel(exact)[0]) > 1000
PYTHON
