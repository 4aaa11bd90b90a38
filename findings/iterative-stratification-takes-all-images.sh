#!/usr/bin/env bash
# iterative-stratification: train_size=0.1 and test_size=0.1 divide the whole archive 50 : 50.
#
# Versions:   iterative-stratification 0.1.9, scikit-learn 1.9.1, numpy 2.4.6
# Behaviour:  MultilabelStratifiedShuffleSplit checks train_size and test_size as scikit-learn's splitters do, then uses
#             only their ratio and gives every image to one of the two. Counts (train_size=100) are treated alike. With
#             test_size fixed at 0.1, a growing train_size makes the test set shrink. No warning.
# Surprise:   signature, checks and docstring are those of scikit-learn's StratifiedShuffleSplit, which leaves the rest
#             out; the docstring says that sizes "may be slightly different". With test_size alone they are right.
# Cost:       "training with 10 % of the labels" trains on half of the archive. In a curve over 10, 20, 40 and 80 % each
#             point has another test set, from a half down to a ninth; with it the archive shrinks that is searched,
#             and every recall@k and precision@k changes for that reason alone.
# Source:     iterstrat/ml_stratifiers.py, _iter_indices: r = [n_train, n_test] / (n_train + n_test), train = ~test;
#             trent-b/iterative-stratification, issue 15 (open): never tried with a train_size.
# Seen:       of 1,000 images, asked for 100 / 100: 504 / 496; 200 / 100: 661 / 339; 400 / 100: 802 / 198; 800 / 100:
#             891 / 109. scikit-learn's ShuffleSplit gives what was asked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    iterative-stratification==0.1.9 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W error - <<'PYTHON'
import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from sklearn.model_selection import ShuffleSplit

# 1,000 images with 19 labels, rare to common; every image has at least one.
generator = np.random.RandomState(0)
labels = generator.rand(1000, 19) < np.linspace(0.02, 0.3, 19)
labels[~labels.any(axis=1), 18] = True
labels = labels.astype(int)


def sizes(splitter, train, test):
    train_rows, test_rows = next(splitter(1, train_size=train, test_size=test, random_state=0).split(labels, labels))
    print(splitter.__name__, "asked", train, test, "got", len(train_rows), len(test_rows))
    return len(train_rows), len(test_rows)


for share in (0.1, 0.2, 0.4, 0.8):
    for train, test in ((share, 0.1), (int(1000 * share), 100)):
        got = sizes(MultilabelStratifiedShuffleSplit, train, test)
        assert sum(got) == 1000, "no image is left out"
        assert abs(got[0] - 1000 * share / (share + 0.1)) < 10, "the ratio alone counts"
        assert sizes(ShuffleSplit, train, test) == (1000 * share, 100)
assert abs(sizes(MultilabelStratifiedShuffleSplit, None, 0.1)[1] - 100) < 10, "right with test_size alone"
PYTHON
