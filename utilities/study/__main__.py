"""Run or continue the study, and draw it.

    python -m utilities.study run --source_path DIR [--runs DIR] [--results docs/results] [--jobs 2] [--tiers ...]
    python -m utilities.study draw [--results docs/results]
    python -m utilities.study print

`run` trains what is missing, each run in a process of its own with one thread, by the training scripts; scores the
network of its last epoch on the test split by evaluate_model.py (what was tried for all rows, and trials, on val alone,
by what training logged), and writes a line into the results. A kill costs the runs under way: fine-tuned ones resume
from their checkpoints. Of runs that are done, the first seed of each row keeps its network.
`print` shows the commands; those beyond the trials follow from the trials' results.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing.connection
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from utilities.errors import RunFailure, UserError, main_guard
from utilities.neighbours.table import read_neighbours
from utilities.study import table
from utilities.study.plan import GROUNDS, ON_VAL, SELECTED_BY, TRIAL_SEED, Run, plan

ALL_TIERS = ("shared", "trials", "frozen", "grn", "ablation", "finetuned", *GROUNDS)
LOGGED = ("recall@1", "label_jaccard@8")
PICTURED, NEAREST = 6, 5  # queries whose nearest images are kept for the picture


def training(run: Run, source: str, runs: Path) -> list[str]:
    """The command line of a run: a new one, or the rest of one that was stopped."""
    folder, data = runs / run.dataset / run.name, ["--source_path", source_of(run, source, runs)]
    if (folder / "args.json").exists():
        return ["--load_from_checkpoint", str(folder), *data]
    places = [*data, "--save_path", str(runs), "--savename", run.name]
    return [*places, "--eval_metric", *LOGGED, *run.flags()]


def source_of(run: Run, source: str, runs: Path) -> str:
    """The folder of its images; the demo paints its own."""
    return str(runs / "demo_data") if run.dataset == "Demo" else source


def evaluations(run: Run, source: str, runs: Path) -> list[list[str]]:
    """Of the network of the last epoch on the test split: the measures of the study, and the one of GRN's code."""
    common = [
        "--load_from_checkpoint", str(runs / run.dataset / run.name), "--source_path", source_of(run, source, runs),
        "--checkpoint", "last", "--retrieval_queries", "0", "--scores_only",
    ]  # fmt: skip
    own = ["--dataset_type", "test", "--relevance", "share", "--eval_metric", *table.RANKED]
    return [[*common, *own], [*common, "--protocol", "grn"]]


def work(run: Run, source: str, runs: Path) -> None:
    """One run, in a process of its own: train, score, and leave `study.json` in the run folder."""
    log = (runs / "logs" / f"{run.name}.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    started = time.perf_counter()
    importlib.import_module(f"train_{run.script}").main(training(run, source, runs))
    if run.tier not in ON_VAL:
        for flags in evaluations(run, source, runs):
            importlib.import_module("evaluate_model").main(flags)
    folder = runs / run.dataset / run.name
    record = {
        "seconds": time.perf_counter() - started,
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    (folder / "study.json").write_text(json.dumps(record))


class Harvest(NamedTuple):
    """What stays of a finished run: its line, its learning curve, the scores of its queries, and what some found."""

    line: dict[str, Any]
    curve: Sequence[dict[str, Any]] = ()
    queries: Mapping[str, np.ndarray] = MappingProxyType({})
    found: Sequence[dict[str, Any]] = ()


def harvest(run: Run, runs: Path) -> Harvest:
    folder = runs / run.dataset / run.name
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validations = [record for record in records if record["split"] == "val"]
    trained = [record for record in records if record["split"] == "train"]
    seconds = sum(record["seconds"] for record in trained)
    images = sum(record["seconds"] * record["images_per_second"] for record in trained)
    environment = json.loads((folder / "environment.json").read_text())
    line: dict[str, Any] = {
        "name": run.name, "tier": run.tier, "row": run.row, "seed": run.seed, "script": run.script,
        "trial": "" if run.trial is None else run.trial, "flags": shlex.join(run.own),
        "minutes": f"{seconds / 60:.3f}", "images_per_second": f"{images / seconds:.1f}" if seconds else "",
        "memory_gb": json.loads((folder / "study.json").read_text())["memory_gb"],
        "processor": processor(), "threads": environment["threads"], "commit": environment["git_commit"],
        "date": date.today().isoformat(),
    }  # fmt: skip
    line |= {f"val {measure}": f"{validations[-1]['scores'][measure]:.5f}" for measure in SELECTED_BY}
    curve = [{"epoch": v["epoch"], **{m: f"{v['scores'][m]:.4f}" for m in SELECTED_BY}} for v in validations]
    if run.tier in ON_VAL:
        return Harvest(line)
    results = folder / "evaluation_results" / "last_test"
    content = json.loads((results / "scores.json").read_text())
    published = json.loads((results.with_name("last_test_in_train") / "scores.json").read_text())["published"]
    for part, prefix in (("scores", ""), ("chance", "chance ")):
        values = {name: content[part].get(name) for name in table.RANKED} | published[part]
        line |= {f"{prefix}{m}": f"{values[m]:.5f}" for m in table.MEASURES if values[m] is not None}
    with np.load(results / "query_scores.npz") as kept:
        queries = {measure: kept[measure] for measure in table.PER_QUERY}
    shown = run.seed == 0 and run.tier in ("frozen", "finetuned")
    return Harvest(line, curve if shown else (), queries, found(results) if shown else ())


def discard_weights(run: Run, runs: Path) -> None:
    """Checkpoints of hundreds of runs would fill a disk; those of the first seed stay, for searches and pages."""
    kept = ("last.pt",) if run.tier not in ON_VAL and run.seed == 0 else ()
    for path in (runs / run.dataset / run.name).glob("*.pt"):
        if path.name not in kept:
            path.unlink()


def found(results: Path) -> list[dict[str, Any]]:
    """The nearest images of the queries that are pictured, which were drawn before anything was trained."""
    neighbours = read_neighbours(results)
    names = sorted(set(neighbours["query"].tolist()))
    drawn = np.random.default_rng(TRIAL_SEED).choice(len(names), PICTURED, replace=False)
    lines = zip(*(neighbours[column].tolist() for column in table.FOUND_COLUMNS[1:]), strict=True)
    kept = [line for line in lines if line[0] in {names[i] for i in drawn} and line[1] <= NEAREST]
    return [dict(zip(table.FOUND_COLUMNS[1:], line, strict=True)) for line in kept]


def processor() -> str:
    """Name of the processor as Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def run_all(args: argparse.Namespace) -> None:
    runs, results = Path(args.runs), Path(args.results)
    (runs / "logs").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")  # imports are paid once, by this process
    for script in ("train_baseline", "train_diva", "train_dac", "train_bier", "train_sndl", "evaluate_model"):
        importlib.import_module(script)
    under_way: dict[str, tuple[Run, Any, float]] = {}
    durations: dict[str, list[float]] = {}
    try:
        while True:
            finished = table.read(results)
            names = {line["name"] for line in finished} | set(under_way)
            whole = plan(finished, args.tiers)
            todo = [run for run in whole if run.name not in names]
            done = len(whole) - len(todo) - len(under_way)
            while todo and len(under_way) < args.jobs:
                run = todo.pop(0)
                process = context.Process(target=work, args=(run, args.source_path, runs))
                process.start()
                under_way[run.name] = (run, process, time.monotonic())
            if not under_way:
                break
            multiprocessing.connection.wait([process.sentinel for _, process, _ in under_way.values()])
            for name, (run, process, since) in list(under_way.items()):
                if process.is_alive():
                    continue
                del under_way[name]
                if process.exitcode:
                    raise RunFailure(f"{name} ended with exit code {process.exitcode}: see {runs / 'logs' / name}.log")
                table.add(results, *harvest(run, runs))
                discard_weights(run, runs)
                durations.setdefault(run.tier, []).append(time.monotonic() - since)
                rest = left(todo, durations, args.jobs)
                done += 1
                print(f"{done}/{len(whole)}  {name}  {durations[run.tier][-1]:.0f} s  {rest}", flush=True)
    finally:
        for _, process, _ in under_way.values():
            process.terminate()
            process.join()


def left(todo: Sequence[Run], durations: dict[str, list[float]], jobs: int) -> str:
    """How long the rest takes, as far as runs of its tiers have been timed."""
    known = {tier: statistics.median(of) for tier, of in durations.items()}  # the first waits for what all share
    seconds = sum(known[run.tier] for run in todo if run.tier in known) / jobs
    untimed = sorted({run.tier for run in todo} - known.keys())
    return f"{seconds / 60:.0f} minutes left" + (f", and {', '.join(untimed)}" if untimed else "")


def show(args: argparse.Namespace) -> None:
    for run in plan(table.read(Path(args.results)), args.tiers):
        print(shlex.join(["python", f"train_{run.script}.py", *training(run, args.source_path, Path(args.runs))]))
        if run.tier not in ON_VAL:
            for flags in evaluations(run, args.source_path, Path(args.runs)):
                print(shlex.join(["python", "evaluate_model.py", *flags]))


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utilities.study", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", choices=("run", "draw", "print"))
    parser.add_argument("--source_path", default="../shared/data/UCMerced", help="folder of UC Merced")
    parser.add_argument("--runs", default="Training_Results/study", help="folder of the run folders")
    parser.add_argument("--results", default="docs/results", help="folder of the tables")
    parser.add_argument("--docs", default="docs", help="folder of study.md and its figures")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--tiers", nargs="+", choices=ALL_TIERS, default=ALL_TIERS, help="parts of the study")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs} must be at least 1")
    if args.what == "run":
        run_all(args)
    elif args.what == "print":
        show(args)
    else:
        from utilities.study.draw import draw  # matplotlib

        draw(Path(args.results), Path(args.docs), Path(args.source_path))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
