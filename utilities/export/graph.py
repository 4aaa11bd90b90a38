"""Networks with their preprocessing as graphs that run without this code: torch.export and ONNX.

The batch is of any size; everything else of the input is fixed. onnx and onnxscript write the one, onnxruntime, where
it is installed, reads it back to be compared.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utilities.errors import UserError
from utilities.files import replacing

INPUT, OUTPUT = "pixels", "embedding"


class RawEmbedder(nn.Module):
    """(B, C, S, S) stored pixels -> (B, D) float32 unit rows: preprocessing, then `network.embed`."""

    def __init__(self, preprocessing: nn.Module, network: Any) -> None:
        super().__init__()
        self.preprocessing, self.network = preprocessing, network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.embed(self.preprocessing(pixels))


def write_torch_export(path: Path, embedder: nn.Module, pixels: Tensor) -> None:
    """A .pt2 archive: `torch.export.load(path).module()(pixels)`. pixels: an example of what goes in."""
    with torch.no_grad(), _quiet():
        program = torch.export.export(embedder.eval(), (pixels,), dynamic_shapes=_any_batch())
    with replacing(path) as temporary:
        torch.export.save(program, temporary)


def write_onnx(path: Path, embedder: nn.Module, pixels: Tensor) -> None:
    """One .onnx file, weights included, of input "pixels" and output "embedding". Raises UserError without onnx."""
    check_onnx()
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            embedder.eval(),
            (pixels,),
            dynamo=True,
            dynamic_shapes=_any_batch(),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None  # with dynamo
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)


def check_onnx() -> None:
    """Raise UserError, which says what to install, where packages are missing that write ONNX."""
    for package in ("onnx", "onnxscript"):
        _optional(package, "--export onnx writes its file with")


def reader_of(path: Path) -> Callable[[np.ndarray], np.ndarray] | None:
    """pixels -> embeddings by what lies in the file; None for an .onnx where onnxruntime is not installed."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda pixels: module(torch.from_numpy(pixels)).detach().numpy()
    try:
        runtime = _optional("onnxruntime", "reading it back needs")
    except UserError:
        return None
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([OUTPUT], {INPUT: pixels})[0]


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _optional(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{what} {package} ({error}): pip install onnx onnxscript onnxruntime") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell about themselves; errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
