"""Paired timing for the benchmarks: candidates take turns, ratios are formed pair by pair."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch


def default_device() -> torch.device:
    """The GPU where there is one, with convolutions chosen by trial as `engine.session` does."""
    torch.backends.cudnn.benchmark = torch.cuda.is_available()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def paired(candidates: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; within a round they run one after the other, the order alternating."""
    for _ in range(warm_up):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        order = list(candidates.items())
        for name, run in order if number % 2 == 0 else reversed(order):
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> float:
    """Median over rounds of name / reference."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True))


@functools.cache
def best_faiss_kernels() -> str:
    """Have the OpenBLAS in faiss's wheel, of 2021, take the best kernels this processor has; call before faiss starts.

    An OPENBLAS_CORETYPE that is set is kept: `installed` leaves the choice to OpenBLAS. Returns what it was told.
    """
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    best = "SkylakeX" if "avx512f" in flags else "Haswell" if "avx2" in flags else "installed"
    chosen = os.environ.setdefault("OPENBLAS_CORETYPE", best)
    if chosen == "installed":
        del os.environ["OPENBLAS_CORETYPE"]
        return "kernels as installed"
    return f"{chosen} kernels"


def machine() -> str:
    """One line: device, cores, library, date."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
        device = f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
    return f"{device}; torch {torch.__version__}; {date.today().isoformat()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(title: str, rows: Sequence[Mapping[str, Any]], json_path: str | None) -> None:
    """Print a Markdown table (columns: the keys of the first row) and write the rows as JSON on request."""
    print(f"### {title}\n\n{machine()}\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |")
    print()
    if json_path:
        content = {"title": title, "machine": machine(), "rows": list(rows)}
        Path(json_path).write_text(json.dumps(content, indent=2) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def arguments(description: str, **flags: Any) -> argparse.Namespace:
    """`--json FILE` and the given flags with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", help="write the rows there as JSON")
    for name, default in flags.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    return parser.parse_args()
