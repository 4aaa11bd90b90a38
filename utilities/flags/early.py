"""Imported first by every script, for what needs none of the seconds that importing torch takes: `--help`, and Ctrl-C.

`--help` names the flags that people set; `--help all` is argparse's own, by the whole of `parameters.py`. That file is
read here, not imported: it asks the classes of methods, data sets and networks for their names.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
WIDTH, INDENT = 110, 34  # characters
OF_TRAINING = {
    "data": ("dataset", "source_path", "use_npmem", "image_size", "batch_size", "num_workers"),
    "network": ("weights", "sz_embedding"),
    "training": ("nb_epochs", "lr", "random_seed"),
    "run": ("save_path", "savename", "load_from_checkpoint"),
}
OF_METHOD = {"baseline": ("baseline_loss",)} | {name: (f"{name}_preset",) for name in ("diva", "dac", "bier", "sndl")}
OF_EVALUATION = {
    "what": (
        "load_from_checkpoint",
        "source_path",
        "dataset_type",
        "gallery_split",
        "checkpoint",
        "is_evaluate_initial",
    ),
    "scores": ("eval_metric", "relevance", "retrieval_queries", "scores_only", "comparison_path", "codes"),
    "search by example": ("query", "top"),
    "machine": ("device",),
}
CHECK = "-m datasets"
METAVARS = {"int": "N", "float": "X", "yes_no": "{yes,no}"}


class Entry(NamedTuple):
    """A flag as its line in `parameters.py` says it."""

    name: str
    default: Any
    help: str
    metavar: str


def metavar(name: str, kind: str) -> str:
    """Short, for the value of a flag of this type."""
    if kind == "str":
        return "RUN" if name == "load_from_checkpoint" else "DIR" if name.endswith("_path") else "NAME"
    return METAVARS.get(kind, "VALUE")


def short_help(script: str) -> str:
    """What `python <script>.py --help` prints; "" for a script that is none of ours."""
    method = script.removeprefix("train_")
    if script == "evaluate_model":
        groups: Mapping[str, tuple[str, ...]] = OF_EVALUATION
        ways = [
            "--load_from_checkpoint RUN",
            "--load_from_checkpoint RUN --query IMAGE",
            "--load_from_checkpoint RUN RUN ...",
        ]
        about = "Evaluate saved runs on one split, or search it by example."
    elif method in OF_METHOD and method != script:
        groups = OF_TRAINING | {"method": OF_METHOD[method]}
        ways = ["--dataset NAME --source_path DIR", "--load_from_checkpoint RUN"]
        about = f"Train {method} for multi-label image retrieval."
    elif script == CHECK:
        groups = {"check": tuple(entry.name for entry in _read(ROOT / "datasets" / "__main__.py")[0]["FLAGS"])}
        ways = ["NAME --source_path DIR"]
        about = f"Check a data set, and prepare its pixels. NAME: {', '.join(_choices('dataset', None))}."
    else:
        return ""
    tables, presets = _read(ROOT / "parameters.py")
    of_check = {entry.name: entry for entry in _read(ROOT / "datasets" / "__main__.py")[0]["FLAGS"]}
    of_evaluation = {entry.name: entry for table in ("RELEVANCE", "EVALUATION") for entry in tables[table]}
    of_training = {entry.name: entry for table, flags in tables.items() if table != "EVALUATION" for entry in flags}
    flags = {"evaluate_model": of_evaluation, CHECK: of_check}.get(script, of_training)
    changed = presets.get(method, {}).get("paper", {})
    program = CHECK if script == CHECK else f"{script}.py"
    lines = ["usage: " + "\n       ".join(f"python {program} {way} [flags]" for way in ways), "", about]
    those = "those of single data sets as well" if script == CHECK else "every one, docs/flags.md too"
    lines += [f"These are the flags that people set; --help all lists {those}.", ""]
    for title, names in groups.items():
        entries = [flags[name]._replace(default=changed.get(name, flags[name].default)) for name in names]
        lines += [title, *(line for entry in entries for line in _lines(entry)), ""]
    return "\n".join(lines).rstrip()


def _lines(entry: Entry) -> Iterator[str]:
    """--name METAVAR, then the help in a column of its own."""
    head = f"  --{entry.name} {entry.metavar}".rstrip()
    shown = "" if entry.default in (None, False) else f" [{_shown(entry.default)}]"
    column = textwrap.wrap(entry.help + shown, WIDTH - INDENT)
    if len(head) > INDENT - 2:
        yield head
        head = ""
    yield from (f"{head:<{INDENT}}{line}" if number == 0 else " " * INDENT + line for number, line in enumerate(column))


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


@functools.cache
def _read(path: Path) -> tuple[dict[str, list[Entry]], dict[str, dict[str, dict[str, Any]]]]:
    """The tables of flags of `parameters.py`, or of another file, by name, and its PRESETS."""
    tables: dict[str, list[Entry]] = {}
    presets: dict[str, dict[str, dict[str, Any]]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        if target.id == "PRESETS":
            presets = ast.literal_eval(node.value)
        calls = [
            call for call in ast.walk(node.value) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        ]
        entries = [_entry(call) for call in calls if call.func.id in ("Flag", "switch")]  # type: ignore[attr-defined]
        if entries:
            tables[target.id] = entries
    return tables, presets


def _entry(call: ast.Call) -> Entry:
    is_switch = isinstance(call.func, ast.Name) and call.func.id == "switch"
    name, *middle, text = call.args[:2] if is_switch else call.args[:3]
    while isinstance(text, ast.BinOp):  # what follows is computed
        text = text.left
    default = False if is_switch else _literal(middle[0])
    kind = "str" if len(call.args) < 4 else getattr(call.args[3], "id", "")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    told = str(ast.literal_eval(name))
    choices = _choices(told, options.get("choices"))
    word = "" if is_switch else f"{{{','.join(map(str, choices))}}}" if choices else metavar(told, kind)
    several = " ..." if "nargs" in options else ""
    return Entry(told, default, str(ast.literal_eval(text)).rstrip(": "), f"{word}{several}")


def _choices(name: str, node: ast.expr | None) -> list[Any]:
    """Those of a flag, where they stand in its line; the data sets, of which each is a folder."""
    if name == "dataset":
        found = (
            re.findall(r'@DATASETS\.register\("(\w+)"', path.read_text()) for path in ROOT.glob("datasets/*/dataset.py")
        )
        return sorted(name for names in found for name in names)
    plain = isinstance(node, ast.Tuple) and all(isinstance(entry, (ast.Constant, ast.Name)) for entry in node.elts)
    return [_literal(entry) for entry in node.elts] if plain and isinstance(node, ast.Tuple) else []


def _literal(node: ast.expr) -> Any:
    """Its value, or the name of a constant in small letters (AUTO: auto); None where it is computed."""
    if isinstance(node, ast.Name):
        return node.id.lower()
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C before `main` begins."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _started(argv: list[str], whole: list[str]) -> str:
    """What runs: the name of a script, CHECK of `python -m datasets`, else "".

    argv: as a program sees it, which is "-m" first while a package is imported; whole: of the interpreter
    """
    script = Path(argv[0]).stem if argv else ""
    if script == "evaluate_model" or script.removeprefix("train_") in OF_METHOD:
        return script
    return CHECK if script == "-m" and " ".join(whole).find(f" {CHECK} ") >= 0 else ""


def _answer(argv: list[str], whole: list[str]) -> None:
    """Print the short help and end where the command line asks for it."""
    script = _started(argv, whole)
    if not script:  # imported by something else
        return
    sys.excepthook = _interrupted
    asked = [number for number, word in enumerate(argv) if word in ("-h", "--help")]
    if asked and argv[asked[0] + 1 : asked[0] + 2] != ["all"]:
        print(short_help(script))
        sys.exit(0)


_answer(sys.argv, sys.orig_argv)
