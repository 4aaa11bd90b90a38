#!/usr/bin/env bash
# Documented recipes. `bash SampleRun.sh` prepares .venv and runs the demo; `bash SampleRun.sh NAME` runs another recipe;
# `bash SampleRun.sh NAME --print` only shows its commands. `bash SampleRun.sh list` names them all.
#
# Folders and seeds may be set from outside:  DATA=/archives RESULTS=/scratch/results bash SampleRun.sh mlrsnet
# SEEDS="0 1 2" bash SampleRun.sh demo  trains every method once a seed, and the table ends with means over seeds.
# USE_PYTHON=python3.12 bash SampleRun.sh demo  takes a Python that has torch and what else is wanted, and installs nothing.
set -euo pipefail
CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -e parameters.py ] || cd "$CALLER" # sbatch runs a copy of this file, elsewhere
[ -e parameters.py ] || { echo "error: neither $CALLER nor the folder of this script holds the code; start it there" >&2; exit 2; }

# from_caller PATH: a path of who calls this, from whatever folder.
from_caller() { if [[ $1 == /* || $CALLER == "$PWD" ]]; then printf '%s' "$1"; else printf '%s' "$CALLER/$1"; fi; }
DATA=${DATA:+$(from_caller "$DATA")}
DATA=${DATA:-../shared/data}
RESULTS=${RESULTS:+$(from_caller "$RESULTS")}
RESULTS=${RESULTS:-Training_Results}
[[ ${USE_PYTHON:-} != */* ]] || USE_PYTHON=$(from_caller "$USE_PYTHON")
[[ ${PYTHON:-} != */* ]] || PYTHON=$(from_caller "$PYTHON")
SEEDS=${SEEDS:-0}
[[ $SEEDS =~ ^[0-9]+(\ +[0-9]+)*$ ]] || { echo "error: SEEDS='$SEEDS' must be whole numbers with blanks between: SEEDS=\"0 1 2\"" >&2; exit 2; }
RUN_PYTHON=${USE_PYTHON:-.venv/bin/python}
NAME=${1:-demo}
PRINT_ONLY=no
case "$NAME ${*:2}" in
  "-h "* | "--help "*) NAME=help ;;
  "setup dev" | "setup study" | *" ") ;;
  "setup --print" | "list --print") echo "error: $NAME has no commands to print" >&2; exit 2 ;;
  *" --print") PRINT_ONLY=yes ;;
  *) echo "error: unknown option '${*:2}'; usage: bash SampleRun.sh [NAME [--print]]" >&2; exit 2 ;;
esac

# ---- set-up -------------------------------------------------------------------------------------------------------

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or 3.12 is needed (set PYTHON=/path/to/python3.12 if it is not on the PATH)" >&2
  exit 2
}

# setup [dev | study]: .venv with the versions of constraints.txt; does nothing when they are already there.
setup() {
  local requirements=requirements${1:+-$1}.txt
  local sum stamp
  sum=$(cat requirements.txt requirements-study.txt requirements-dev.txt constraints.txt | sha256sum | cut -c1-16)
  stamp=.venv/installed-${requirements%.txt}-$sum
  [ -e "$stamp" ] || [ -e ".venv/installed-requirements-dev-$sum" ] && return # dev holds the others as well
  (
    flock 9 # two callers at once: the second waits, then finds the stamp
    [ -e "$stamp" ] && exit 0
    local python
    python=$(find_python)
    # What an interrupted start left has a python and no pip, or nothing whole; --clear takes its stamps as well.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null 2>&1 ||
      "$python" -m venv --clear .venv || {
      echo "error: $python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2
      exit 2
    }
    echo "installing $requirements into .venv (some 8 GB, a few minutes; once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" -c constraints.txt || {
      echo "error: installing $requirements failed, see above; it takes some 8 GB here, and its downloads as" \
        "much again in ${TMPDIR:-/tmp} at most; $(df -h --output=avail . | tail -n 1 | tr -d ' ') are free here." >&2
      exit 1
    }
    touch "$stamp"
  ) 9>.venv.lock # beside what --clear empties
}

# show COMMAND ...: one line to be pasted into a shell; words that mean nothing to it stay as they are.
show() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[a-zA-Z0-9_@%+=:,./-]+$ ]] || word=$(printf '%q' "$word")
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# run COMMAND ...: show it and, unless --print was given, do it.
run() {
  show "$@"
  [ "$PRINT_ONLY" = yes ] || "$@"
}

train() { run "$RUN_PYTHON" "train_$1.py" "${@:2}"; }
# of_seed NAME SEED: the name of its run.
of_seed() { if [ "$2" = 0 ]; then echo "$1"; else echo "$1-seed$2"; fi; }
# places FLAGS ...: into PLACES, those that say where the data lie, which may be elsewhere in the next job.
places() {
  PLACES=()
  while [ $# -gt 1 ]; do
    case $1 in --source_path | --cache_path) PLACES+=("$1" "$2") ;; esac
    shift
  done
}
# train_once DATASET METHOD NAME FLAGS ...: a new run a seed, or the rest of the one that is there (nothing, when it is
# complete).
train_once() {
  local seed folder seeding
  for seed in $SEEDS; do
    folder="$RESULTS/$1/$(of_seed "$3" "$seed")"
    seeding=()
    [ "$seed" = 0 ] || seeding=(--random_seed "$seed")
    if [ "$PRINT_ONLY" = no ] && [ -e "$folder/args.json" ]; then
      places "${@:4}"
      train "$2" --load_from_checkpoint "$folder" "${PLACES[@]}"
    else
      train "$2" --dataset "$1" --save_path "$RESULTS" --savename "${folder##*/}" "${@:4}" "${seeding[@]}"
    fi
  done
}
evaluate() { run "$RUN_PYTHON" evaluate_model.py "$@"; }

# ---- recipes ------------------------------------------------------------------------------------------------------

METHODS=(baseline diva dac bier sndl)

# find_runs DATASET [NAME ...]: into RUNS, the folders of all methods' runs, or of those of other names.
find_runs() {
  local names=("${@:2}") name seed
  [ $# -gt 1 ] || names=("${METHODS[@]}")
  RUNS=()
  for name in "${names[@]}"; do
    for seed in $SEEDS; do RUNS+=("$RESULTS/$1/$(of_seed "$name" "$seed")"); done
  done
}

# The shortest look at what this is: a small network on a handful of generated scenes, and pages of what it finds.
trial() {
  train_once Demo baseline trial --source_path demo_data/trial --demo_images_per_category 20 --demo_side 48 --arch resnet18 --image_size 32 --batch_size 24 --num_samples_per_class 2 --sz_embedding 64 --baseline_loss batch_nca --nb_epochs 5 --eval_epoch 5 --num_workers 0
  evaluate --load_from_checkpoint "$RESULTS/Demo/trial" --dataset_type test
}

# All methods on the embedded scenes, from scratch, and one table: less than ten minutes on two cores.
demo() {
  local method
  for method in "${METHODS[@]}"; do
    train_once Demo "$method" "$method" --source_path demo_data --nb_epochs 6 --eval_epoch 6 --batch_size 60 --num_workers 1
  done
  find_runs Demo
  evaluate --load_from_checkpoint "${RUNS[@]}" --dataset_type test
}

# Real images from scratch at 128 pixels, method by method: 10 to 26 minutes each, by processor, with one thread and bf16.
ucmerced() {
  local method
  for method in "${METHODS[@]}"; do
    train_once UCMerced "$method" "$method" --source_path "$DATA/UCMerced" "${UCMERCED_FLAGS[@]}"
  done
  find_runs UCMerced
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/UCMerced" --dataset_type test
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/UCMerced" --dataset_type test --is_evaluate_initial
}
UCMERCED_FLAGS=(--weights none --image_size 128 --batch_size 60 --nb_epochs 30 --small_epochs 24 --color_jitter 0.2 --eval_epoch 6 --num_workers 1 --is_log_intra_inter_overlap)

# What the baseline can do there in 8 to 18 minutes, by processor, on two cores: every pair of large shuffled batches, stronger crops.
ucmerced_baseline() {
  train_once UCMerced baseline baseline-best --source_path "$DATA/UCMerced" --weights none --image_size 128 --baseline_loss batch_nca --baseline_batches shuffled --batch_size 240 --lr 1.5e-3 --nb_epochs 60 --small_epochs 53 --crop_area 0.25 1 --color_jitter 0.2 --eval_epoch 20 --num_workers 1 --use_npmem --cache_path "$RESULTS/prepared"
  find_runs UCMerced baseline-best
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/UCMerced" --dataset_type test
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/UCMerced" --dataset_type test --is_evaluate_initial
}

# The comparison of docs/study.md: runs what is missing of it, for hours, goes on after a stop, and draws its tables.
study() {
  local places=(--source_path "$DATA/UCMerced" --runs "$RESULTS/study")
  if [ "$PRINT_ONLY" = yes ]; then
    "$RUN_PYTHON" -m utilities.study print "${places[@]}"
    return
  fi
  [ -n "${USE_PYTHON:-}" ] || setup study
  run "$RUN_PYTHON" -m utilities.study run "${places[@]}" --jobs "${STUDY_JOBS:-2}"
  run "$RUN_PYTHON" -m utilities.study draw
}

# The recipes of CV4RS; the backbone starts from ImageNet weights.
mlrsnet() {
  local method
  for method in "${METHODS[@]}"; do
    train_once MLRSNet "$method" "$method" --source_path "$DATA/MLRSNet" --project MLRSNet --group "$method" --num_samples_per_class 3 --use_npmem --eval_epoch 10 --nb_epochs 120 --is_log_intra_inter_overlap
  done
  find_runs MLRSNet
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/MLRSNet" --dataset_type test
}

bigearthnet() {
  local method
  for method in "${METHODS[@]}"; do
    train_once BigEarthNet "$method" "$method" --source_path "$DATA/BigEarthNet" --project BigEarthNet --group "$method" --num_samples_per_class 3 --use_npmem --eval_epoch 10 --nb_epochs 120
  done
  find_runs BigEarthNet
  evaluate --load_from_checkpoint "${RUNS[@]}" --source_path "$DATA/BigEarthNet" --dataset_type test
}

# Go on with a run that was stopped or killed, or that should have more epochs.
resume() {
  train baseline --load_from_checkpoint "$RESULTS/Demo/baseline" --nb_epochs 10
}

evaluate_runs() {
  evaluate --load_from_checkpoint "$RESULTS/Demo/baseline" --dataset_type val
  evaluate --load_from_checkpoint "$RESULTS/Demo/baseline" --dataset_type test --is_plot_dist --relevance share --eval_metric recall@K hit@K precision@K map_at_r ndcg@K
}

# The images most like one image: pages, pictures and tables under <run>/search_results.
search() {
  evaluate --load_from_checkpoint "$RESULTS/Demo/baseline" --query demo_data/Demo/Images/lake/lake_00001.jpg --top 20
}

multi_gpu() {
  train baseline --dataset MLRSNet --source_path "$DATA/MLRSNet" --save_path "$RESULTS" --savename baseline-4gpu --gpu_ids 0 1 2 3 --batch_size 120 --use_npmem
}

# Several machines, one torchrun each, with the GPUs that Slurm gives them; prepare .venv before (`SampleRun.sh setup`):
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=1 --cpus-per-task=32 --wrap "bash SampleRun.sh slurm"
slurm() {
  local first=${SLURM_JOB_NODELIST:-localhost} cores=()
  [ -z "${SLURM_JOB_NODELIST:-}" ] || first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # srun does not take it from sbatch since Slurm 22.05
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || cores=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  run srun --kill-on-bad-exit=1 "${cores[@]}" "$RUN_PYTHON" -m torch.distributed.run --nnodes "${SLURM_NNODES:-2}" --nproc_per_node "${SLURM_GPUS_ON_NODE:-4}" --rdzv_backend c10d --rdzv_id "${SLURM_JOB_ID:-0}" --rdzv_endpoint "$first:29500" train_baseline.py --dataset MLRSNet --source_path "$DATA/MLRSNet" --save_path "$RESULTS" --savename baseline-slurm --batch_size 120 --num_workers 7 --use_npmem
}

wandb_offline() {
  train baseline --dataset Demo --source_path demo_data --save_path "$RESULTS" --savename baseline-wandb --nb_epochs 2 --eval_epoch 1 --log_online --wandb_dryrun
}

RECIPES="trial demo ucmerced ucmerced_baseline study mlrsnet bigearthnet resume evaluate search multi_gpu slurm wandb_offline"
case $NAME in
  setup) setup "${2:-}" ;;
  help) sed -n '2,/^set /{/^# /!d; s/^# //; p}' "${BASH_SOURCE[0]##*/}"; echo "Recipes: setup list $RECIPES" ;;
  list) echo "setup $RECIPES" ;;
  *)
    case " $RECIPES " in
      *" $NAME "*) ;;
      *) echo "error: unknown recipe '$NAME'; choices: setup list $RECIPES" >&2; exit 2 ;;
    esac
    [ "$PRINT_ONLY" = yes ] || [ -n "${USE_PYTHON:-}" ] || setup
    [ "$NAME" = evaluate ] && NAME=evaluate_runs
    "$NAME"
    ;;
esac
