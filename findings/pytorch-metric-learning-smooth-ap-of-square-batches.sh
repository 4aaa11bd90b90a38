#!/usr/bin/env bash
# SmoothAPLoss of pytorch-metric-learning is right only if a batch has as many images per class as classes, sorted by
# class.
#
# Versions:   pytorch-metric-learning 2.9.0, torch 2.15.0, numpy 2.4.6 (installs several GB)
# Behaviour:  for 3 classes of 4 images each the loss differs from the definition by several hundredths; for 4 classes
#             of 4 it agrees. Classes in turn (0 1 2 0 1 2 ...) are wrong too. All of these pass the check, and the
#             sampler that the error message names makes such batches.
# Surprise:   the error message and the comment in the source ask for equal counts, nothing more: "the number of
#             classes is not important, nor their order".
# Cost:       the loss decreases and trains something, so the method is reported as weak; a batch of usual size, 28
#             classes of 4 images, is not square.
# Source:     losses/smooth_ap.py: "num_classes_batch" is the batch size divided by the number of classes, which is the
#             number of images of a class, and the embeddings are reshaped by it. Definition: Smooth-AP, Brown et al.,
#             ECCV 2020.
# Seen:       4 x 4 sorted: equal; 3 x 4 sorted and 4 x 4 in turn: off by more than 0.01.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    pytorch-metric-learning==2.9.0 torch==2.15.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from pytorch_metric_learning.losses import SmoothAPLoss

torch.manual_seed(0)


def definition(embeddings, labels, temperature=0.01):
    """1 - mean smoothed AP, over all positives with the query itself, as the package and the authors' code count."""
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = unit @ unit.T
    others = 1 - torch.eye(len(labels))
    # query, image, competitor
    ahead = torch.sigmoid((similarity[:, None, :] - similarity[:, :, None]) / temperature) * others
    same = (labels[:, None] == labels).float()
    rank, rank_in_class = 1 + ahead.sum(2), 1 + (ahead * same[:, None, :]).sum(2)
    return 1 - ((rank_in_class / rank * same).sum(1) / same.sum(1)).mean()


def gap(labels):
    labels = torch.tensor(labels)
    embeddings = torch.randn(len(labels), 8)
    package, ours = SmoothAPLoss()(embeddings, labels).item(), definition(embeddings, labels).item()
    print(labels.tolist(), f"package {package:.4f}, definition {ours:.4f}")
    return abs(package - ours)


assert gap([0] * 4 + [1] * 4 + [2] * 4 + [3] * 4) < 1e-4
assert gap([0] * 2 + [1] * 2) < 1e-4
assert gap([0] * 4 + [1] * 4 + [2] * 4) > 0.01
assert gap([0, 1, 2, 3] * 4) > 0.01
PYTHON
