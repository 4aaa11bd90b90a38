#!/usr/bin/env bash
# Format, lint, types and tests, in this order; arguments go to pytest (`bash tests/run.sh -k margin`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash SampleRun.sh setup dev
bin=.venv/bin
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/python -m pytest "$@"
