#!/usr/bin/env bash
# Two images without labels: scipy calls them equal, scikit-learn's score calls them wholly different.
#
# Versions:   scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6
# Behaviour:  the Jaccard distance of two empty label sets is 0 in scipy (so is sklearn's pairwise_distances), which is
#             a similarity of 1; jaccard_score(average="samples") of the same pair is 0, which would be a distance of
#             1. scipy's Dice distance is nan, f1_score, the same measure, is 0.
# Surprise:   Jaccard distance and Jaccard score are taken for complements everywhere; within scikit-learn they are
#             not.
# Cost:       relevance built from one and checked against the other disagrees exactly for the label-less images (10 in
#             MLRSNet, and every BigEarthNet patch whose labels fell away in the 19-class nomenclature).
# Source:     scipy.spatial.distance.jaccard defines 0 / 0 as 0; sklearn/metrics/_classification.py sets it through
#             zero_division, "warn" meaning 0.
# Seen:       distance 0.0, pairwise_distances 0.0, jaccard_score 0.0; dice nan, f1_score 0.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score, pairwise_distances

empty, some = np.zeros((1, 19), dtype=bool), np.eye(1, 19, dtype=bool)
distance = cdist(empty, empty, "jaccard").item()
pairwise = pairwise_distances(empty, empty, metric="jaccard").item()
score = jaccard_score(empty, empty, average="samples")
dice, f1 = cdist(empty, empty, "dice").item(), f1_score(empty, empty, average="samples")
print(f"distance {distance}, pairwise_distances {pairwise}, jaccard_score {score}; dice {dice}, f1_score {f1}")
assert distance == pairwise == 0, "equal"
assert score == 0, "wholly different"
assert np.isnan(dice) and f1 == 0
assert cdist(some, some, "jaccard").item() == 0, "complements elsewhere"
assert jaccard_score(some, some, average="samples") == 1
PYTHON
