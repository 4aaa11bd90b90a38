"""Who reads a flag: a name such as `--diva_moco_temperature` can be followed to the `temperature` that it feeds."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from utilities.flags.registry import Registry

BAGS = ("args", "run", "settings", "recorded")  # names under which settings travel
MOST = 4  # modules named of a flag that many read
ELSEWHERE = ("utilities/flags/", "utilities/study/")


def readers(flags: Iterable[str], registries: Iterable[Registry[Any]], root: Path, script: str) -> dict[str, list[str]]:
    """Flag -> who reads it: registered classes that it feeds, as `file (name)`, then scripts and modules.

    script: the scripts whose flags they are, as a pattern of names. What only checks or derives flags
    (`utilities/flags/`, `parameters.py`) is named where nobody else reads one; the study has flags of its own.
    """
    known = set(flags)
    feeding: dict[str, list[str]] = {flag: [] for flag in known}
    for registry in registries:
        for name in registry:
            file = Path(inspect.getfile(registry[name])).relative_to(root)
            for flag in known.intersection(registry.flags(name, set())):
                feeding[flag].append(f"{file} ({name})")
    modules = {str(path.relative_to(root)): _read_in(path, known) for path in _modules(root, script)}
    found = {}
    for flag in known:
        reading = [path for path, names in modules.items() if flag in names and path not in str(feeding[flag])]
        scripts = [path for path in reading if "/" not in path]
        at_work = [path for path in reading if "/" in path and not path.startswith(ELSEWHERE)]
        listed = [script] if len(scripts) > 2 else scripts
        listed += at_work[:MOST] + ["..."] * (len(at_work) > MOST)
        found[flag] = [*feeding[flag], *listed] or [path for path in reading if "/" in path] or ["parameters.py"]
    return found


def _modules(root: Path, script: str) -> list[Path]:
    """The scripts, and the modules of all packages but the tests."""
    packages = sorted(path.parent for path in root.glob("*/__init__.py") if path.parent.name != "tests")
    return sorted(root.glob(script)) + [path for package in packages for path in sorted(package.rglob("*.py"))]


def _read_in(path: Path, flags: Collection[str]) -> set[str]:
    """Flags that the file reads: `args.flag`, `args["flag"]` or `args.get("flag", ...)`."""
    return {name for name in _keys(ast.parse(path.read_text(encoding="utf-8"))) if name in flags}


def _keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_bag(node.value):
            yield node.attr
        elif isinstance(node, ast.Subscript) and _is_bag(node.value) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_bag(node.func.value):
            yield from (str(given.value) for given in node.args[:1] if isinstance(given, ast.Constant))


def _is_bag(node: ast.AST) -> bool:
    """`args`, or `self.args`."""
    return (isinstance(node, ast.Name) and node.id in BAGS) or (isinstance(node, ast.Attribute) and node.attr in BAGS)
