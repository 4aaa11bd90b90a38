#!/usr/bin/env bash
# Format, lint, types and tests, in this order; arguments go to pytest (`bash tests/run.sh -k margin`).
# Tests run in as many processes as there are cores, four at most, each with one thread: `-n 0` runs them one by one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash SampleRun.sh setup dev
bin=.venv/bin
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
export OMP_NUM_THREADS=1
$bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
