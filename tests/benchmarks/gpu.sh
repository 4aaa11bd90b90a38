#!/usr/bin/env bash
# All that is to be seen on a GPU, meant to take eight minutes of an H100, from the checkout's root:
#
#     bash tests/benchmarks/gpu.sh [OUT]           # gpu_results unless given
#
# The tests of GPUs, the step table at 224 px with batches of 120 and 512, search and whole ranking of 125,866 images beside
# the bare product with top-k and sort, embedding, and an epoch of --frozen. It needs PyTorch with CUDA and the packages of
# requirements-dev.txt, and no data: without ../shared/data labels are drawn. A part that fails or takes too long is noted
# and the next one begins. Each part leaves OUT/<part>.txt, and where it measures OUT/<part>.json; OUT/gpu.json holds all.
# GPU_TINY=yes takes sizes that a CPU manages, to see that everything runs. GPU_PARTS="tests step_120" takes some parts.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
OUT=${1:-gpu_results}
PYTHON=${USE_PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
PARTS=${GPU_PARTS:-tests step_120 step_512 search embedding}
mkdir -p "$OUT" || exit 2

if [ "${GPU_TINY:-no}" = yes ]; then
  STEP=(--batch_size 4 --image_size 32 --rounds 1) STEP_LARGE=(--batch_size 6 --image_size 32 --rounds 1)
  METHODS="baseline"
  SEARCH=(--images 600 --queries 64 --device cpu) EMBEDDING=(--image_size 32 --images 300 --shown 16 --batch_size 4 --rounds 1 --arch resnet18)
else
  STEP=(--batch_size 120 --image_size 224 --rounds 3) STEP_LARGE=(--batch_size 512 --image_size 224 --rounds 3)
  METHODS="baseline diva dac bier sndl"
  SEARCH=(--images 125866 --queries 4096 --device cuda) EMBEDDING=(--image_size 224 --images 20000 --shown 4096 --batch_size 512 --rounds 3)
fi

# part NAME SECONDS COMMAND ...
part() {
  local name=$1 limit=$2 code=0 begun=$SECONDS
  shift 2
  [ "${GPU_TINY:-no}" = no ] || limit=600 # a CPU may have other things to do
  [[ " $PARTS " == *" $name "* ]] || return 0
  echo "== $name"
  timeout -k 10 "$limit" "$PYTHON" -m "$@" >"$OUT/$name.txt" 2>&1 || code=$?
  tail -n 15 "$OUT/$name.txt"
  echo "== $name ended with $code after $((SECONDS - begun)) s"
  printf '%s %s %s\n' "$name" "$code" "$((SECONDS - begun))" >>"$OUT/parts"
}

: >"$OUT/parts"
part tests 180 pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py
part step_120 90 tests.benchmarks.step "${STEP[@]}" --methods "$METHODS" --json "$OUT/step_120.json"
part step_512 90 tests.benchmarks.step "${STEP_LARGE[@]}" --methods "$METHODS" --json "$OUT/step_512.json"
part search 120 tests.benchmarks.evaluator "${SEARCH[@]}" --pml_images 0 --rounds 2 --json "$OUT/search.json"
part embedding 60 tests.benchmarks.embedding "${EMBEDDING[@]}" --json "$OUT/embedding.json"

"$PYTHON" - "$OUT" <<'PYTHON'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
parts = {}
for line in (out / "parts").read_text().splitlines():
    name, code, seconds = line.split()
    parts[name] = {"exit_code": int(code), "seconds": int(seconds)}
    if (out / f"{name}.json").exists():
        parts[name] |= json.loads((out / f"{name}.json").read_text())
(out / "gpu.json").write_text(json.dumps(parts, indent=2) + "\n")
failed = [name for name, part in parts.items() if part["exit_code"]]
print(f"{out / 'gpu.json'} holds {len(parts)} parts" + (f"; failed: {', '.join(failed)}" if failed else ""))
sys.exit(1 if failed else 0)
PYTHON
