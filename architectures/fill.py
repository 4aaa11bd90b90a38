"""Pretrained tensors into a network: found among the names of a file, first layers for the bands of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from architectures.checkpoints import Weights, read_weights
from architectures.sources import RGB, SAME_LIGHT, Source, find_source, of_length
from utilities.errors import UserError

MISSING = ("mean", "zero")
# Modules that files have behind a backbone: classifiers, projections of contrastive training, heads of this project.
HEADS = (
    "fc", "last_linear", "classifier", "head", "head_dist", "heads", "projector", "projection_head", "predictor",
    "queue", "queue_ptr",
)  # fmt: skip
# Copies that training keeps of the network that it trains.
COPIES = ("encoder_k", "key_network", "momentum", "student", "ema")


class Origin(NamedTuple):
    """Where pretrained weights come from, as flags say it.

    weights   --weights: "none", a name, or the path of a file
    bands     --weights_bands; None: as the file tells
    missing   --missing_bands: filters of bands that it lacks; None: an error, but the mean for networks of photographs
    """

    weights: str
    bands: str | None = None
    missing: str | None = None

    def read(self) -> Weights:
        """The file, its bands as --weights_bands says. Raises UserError."""
        found = read_weights(Path(self.weights))
        if self.bands is None:
            return found
        source = find_source(self.bands)
        if found.source and [_light(b) for b in found.source.bands] != [_light(b) for b in source.bands]:
            raise UserError(
                f"--weights {self.weights} says that its bands are {' '.join(found.source.bands)}; leave out "
                f"--weights_bands {self.bands}"
            )
        return found if found.source else found._replace(source=source)


def fill(
    net: nn.Module,
    found: Weights,
    bands: Sequence[str],
    origin: Origin,
    *,
    stems: Sequence[str] = ("conv1",),
    classifiers: Sequence[str] = (),
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Load the tensors into `net`, whose first layers are `stems`, built for the bands. Every tensor must be there and
    fit, and none may be left over but those of heads. Raises UserError.

    classifiers  further modules of a file that `net` does not have
    convert      brings older names of the library into those of today
    """
    # torchvision's oldest files lack the step counter of batch norm, which nothing here reads.
    wanted = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = under_one_prefix(found.state, wanted, origin.weights)
    if convert is not None:
        state = convert(state)
    heads = {*HEADS, *classifiers}
    # some of timm's have a norm or a last layer in a "head" of theirs, which stays when the classifier goes
    state = {k: v for k, v in state.items() if k in wanted or not any(k == h or k.startswith(f"{h}.") for h in heads)}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for stem in stems:
        weight = state.get(f"{stem}.weight")
        if weight is not None and weight.ndim == 4:
            # TResNet's first layer sees squares of pixels, the bands of each behind each other
            pixels = max(1, wanted[f"{stem}.weight"].shape[1] // len(bands))
            squares = weight.unflatten(1, (pixels, -1)).flatten(0, 1) if weight.shape[1] % pixels == 0 else weight
            adapted = adapt_stem(squares, bands, found.source, origin)
            state[f"{stem}.weight"] = adapted.unflatten(0, (len(weight), -1)).flatten(1, 2)
    _compare(state, wanted, found.state, origin.weights, type(net).__name__)
    _refuse_non_finite(state, origin.weights)
    net.load_state_dict(state, strict=False)


def under_one_prefix(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The part of a file that is the network, without what stands before its names there (`module.encoder_q.`)."""
    marks = [name for name in wanted if wanted[name].ndim > 1][:3]
    prefixes = dict.fromkeys(name[: -len(mark)] for mark in marks for name in state if _ends(name, mark))
    held = {prefix: sum(prefix + name in state for name in wanted) for prefix in prefixes}
    most = max(held.values(), default=0)
    best = [prefix for prefix in held if held[prefix] == most]
    plain = [prefix for prefix in best if not any(copy in prefix for copy in COPIES)]
    best = plain or best
    if len(best) > 1:
        raise UserError(
            f"--weights {source} holds several networks of this kind: {', '.join(best)}; write a file with the tensors "
            "of one alone"
        )
    prefix = best[0] if best else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _ends(name: str, mark: str) -> bool:
    return name == mark or name.endswith(f".{mark}")


def adapt_stem(weight: Tensor, bands: Sequence[str], source: Source | None, origin: Origin) -> Tensor:
    """First-layer filters for the bands of a run, by name: (O, F, k, k) of the source's bands -> (O, C, k, k).

    Without a source, three channels are R, G, B; R, G, B are B04, B03, B02. Filters of bands that the run lacks are
    left out, which is as if these were 0. Those of bands that the file lacks are 0, or the mean of the file's with all
    of them rescaled by F / C: an image equal in all bands then excites the layer as before, where either none or all of
    the file's bands are there.
    """
    count = weight.shape[1]
    if source is None and count == 3:
        source = Source(RGB, "dataset")
    if source is None:
        known = of_length(count)
        raise UserError(
            f"--weights {origin.weights} is for {count} bands and does not say which: give --weights_bands with their "
            f"names in order{f', or a source: {known}' if known else ''}"
        )
    if len(source.bands) != count:
        raise UserError(
            f"--weights {origin.weights} has a first layer for {count} bands, not for the {len(source.bands)} of "
            f"{origin.bands or 'its description'}: {' '.join(source.bands)}"
        )
    channel = {_light(band): number for number, band in enumerate(source.bands)}
    absent = [band for band in bands if _light(band) not in channel]
    missing = origin.missing or ("mean" if source.bands == RGB else None)
    if absent and missing is None:
        raise UserError(
            f"--weights {origin.weights} knows no {', '.join(absent)}: it was trained on {' '.join(source.bands)}. "
            f"Leave these out of the run, or say what their filters start from: --missing_bands {' or '.join(MISSING)}"
        )
    other = torch.zeros_like(weight[:, 0]) if missing == "zero" else weight.mean(1)
    filters = [weight[:, channel[_light(band)]] if _light(band) in channel else other for band in bands]
    rescale = count / len(bands) if absent and missing == "mean" else 1
    return torch.stack(filters, 1) * rescale


def _light(band: str) -> str:
    return SAME_LIGHT.get(band, band)


def _compare(
    state: dict[str, Tensor], wanted: dict[str, Tensor], held: dict[str, Tensor], source: str, kind: str
) -> None:
    """Raise UserError where a network and the tensors for it differ: names of both, and the --arch that fits."""
    missing = [name for name in wanted if name not in state]
    surplus = [name for name in state if name not in wanted]
    unfit = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if not missing + surplus + unfit:
        return
    said = []
    if missing:
        said.append(f"{len(missing)} tensors missing ({_some(missing)}); the file begins with {_some(list(held))}")
    if surplus:
        said.append(f"{len(surplus)} tensors more than this network has ({_some(surplus)})")
    if unfit:
        shapes = ", ".join(f"{n} {[*state[n].shape]} instead of {[*wanted[n].shape]}" for n in unfit[:3])
        said.append(f"{len(unfit)} of another shape ({shapes})")
    fitting = [arch for arch in _torchvision_resnets() if _shapes(arch) == _comparable(state)]
    hint = f": give --arch {' or '.join(fitting)}" if fitting else ""
    raise UserError(f"--weights {source} is not a {kind} of this --arch{hint}; {'; '.join(said)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")


def _torchvision_resnets() -> list[str]:
    return [name for name in torchvision.models.list_models() if name.startswith(("resnet", "resnext", "wide_resnet"))]


@cache
def _shapes(arch: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        net = torchvision.models.get_model(arch)
    return _comparable({k: v for k, v in net.state_dict().items() if not k.startswith("fc.")})


def _comparable(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes but for the first layer, which depends on bands, and counters."""
    return {k: v.shape for k, v in state.items() if k != "conv1.weight" and not k.endswith("num_batches_tracked")}


def _refuse_non_finite(state: dict[str, Tensor], source: str) -> None:
    # a sum is ten times faster, and finite where every value is, unless it overflows
    suspicious = [name for name, tensor in state.items() if not tensor.sum().isfinite()]
    broken = [name for name in suspicious if not state[name].isfinite().all()]
    if broken:
        raise UserError(
            f"--weights {source} is damaged, or comes from a training that diverged: {len(broken)} of its tensors hold "
            f"values that are not finite ({_some(broken)}); take another file"
        )
