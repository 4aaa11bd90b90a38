"""tests/benchmarks/gpu.sh in sizes that a CPU manages: every part that a GPU will run once, and one that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.scripts import ENVIRONMENT, ROOT


def test_every_part_is_tried_and_one_file_holds_what_was_measured(tmp_path: Path):
    """The second part fails here, by a Python that does not know it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" != tests.benchmarks.evaluator ] || exit 3\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    settings = {"USE_PYTHON": str(python), "GPU_TINY": "yes", "GPU_PARTS": "step_120 search embedding"}
    command = ["bash", str(ROOT / "tests" / "benchmarks" / "gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT | settings, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.strip().endswith("holds 3 parts; failed: search")
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [(name, part["exit_code"]) for name, part in parts.items()] == [
        ("step_120", 0),
        ("search", 3),
        ("embedding", 0),
    ]
    assert parts["step_120"]["rows"][0]["method"] == "baseline"
    assert [row["beside"] for row in parts["embedding"]["rows"]][-1] == "from images on the device"
    assert all(row["time ratio"] > 0 for row in parts["embedding"]["rows"])
