#!/usr/bin/env bash
# torch's SyncBatchNorm conversion removes the activations of a timm network, silently.
#
# Versions:   timm 1.0.31, torch 2.15.0, torchvision 0.29.2 (installs several GB)
# Behaviour:  timm's BatchNormAct2d (EfficientNet, MobileNet, RegNet, DenseNet, ...) is a BatchNorm2d that applies the
#             activation itself. SyncBatchNorm.convert_sync_batchnorm replaces it by a plain SyncBatchNorm: weights and
#             statistics are copied, ReLU or SiLU is gone. Outputs go negative.
# Surprise:   the function is the documented step before DistributedDataParallel, works for ResNet, loads the same
#             checkpoint and raises nothing.
# Cost:       training on several GPUs trains a network without most of its nonlinearity; on one GPU, without the
#             conversion, all is well. timm.layers has its own convert_sync_batchnorm, which keeps them.
# Source:     torch/nn/modules/batchnorm.py: any instance of _BatchNorm is replaced; timm/layers/norm_act.py,
#             SyncBatchNormAct, whose comment warns of PyTorch's function.
# Seen:       least output 0 before, below -1 after torch's conversion, 0 after timm's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    timm==1.0.31 torch==2.15.0 torchvision==0.29.2
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm

torch.manual_seed(0)
features = torch.randn(8, 16, 7, 7)


def least(convert):
    """Smallest output of batch norm with ReLU; in evaluation mode no process group is needed."""
    return convert(BatchNormAct2d(16)).eval()(features).min().item()


before = least(lambda layer: layer)
torchs = least(torch.nn.SyncBatchNorm.convert_sync_batchnorm)
timms = least(convert_sync_batchnorm)
print(f"least output: {before:.3f}, after torch's conversion {torchs:.3f}, after timm's {timms:.3f}")
assert before == 0 and timms == 0
assert torchs < -1
PYTHON
