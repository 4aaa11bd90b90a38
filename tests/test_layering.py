"""Imports run downwards: ground floor, then the four folders (never a sibling), engine floor, parameters, scripts."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE_FLOOR = {
    "method",
    "engine",
    "evaluation",
    "optim",
    "checkpoint",
    "logger",
    "loss_window",
    "figures",
    "check_figures",
    "combinations",
    "comparison",
    "search_page",
    "search_picture",
    "search_example",
    "search_results",
    "report",
    "results",
    "retrieval_picture",
    "run_folder",
}
FOLDERS = ("datasets", "batchminer", "criteria", "architectures")
# The one module that may import each heavy or optional package.
HOMES = {
    "faiss": "utilities/neighbours.py",
    "wandb": "utilities/logger.py",
    "matplotlib": "utilities/figures.py",
    "vaex": "utilities/neighbour_statistics.py",
    "lmdb": "datasets/bigearthnet_lmdb.py",
    "rasterio": "utilities/geojson.py",
    "openpyxl": "datasets/mlrsnet_labels.py",
    "osgeo": None,
    "pretrainedmodels": None,
}


def sources():
    tops = [*FOLDERS, "utilities"]
    files = [p for top in tops for p in sorted((ROOT / top).rglob("*.py"))]
    return files + sorted(ROOT.glob("*.py"))


def imports(path):
    """Modules imported anywhere in the file, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module):
    top, _, rest = module.partition(".")
    if rest == "__main__":  # `python -m datasets`
        return "script"
    if top == "utilities":
        return "engine" if rest.split(".")[0] in ENGINE_FLOOR else "ground"
    if top in FOLDERS:
        return top
    if top == "parameters":
        return "parameters"
    if top.startswith("train_") or top == "evaluate_model":
        return "script"
    return None


ALLOWED = {
    "ground": {"ground"},
    **{folder: {"ground", folder} for folder in FOLDERS},
    "engine": {"ground", "engine"},
    "parameters": {"ground", "engine", "parameters", *FOLDERS},
    "script": {"ground", "engine", "parameters", *FOLDERS},
}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = floor(module) or "ground"
    if module == "utilities":
        own = "ground"
    for name in imports(path):
        target = floor(name)
        if target is None or name in ("utilities", *FOLDERS):
            continue
        assert target in ALLOWED[own], f"{module} ({own}) imports {name} ({target})"


@pytest.mark.parametrize("package", sorted(HOMES))
def test_optional_packages_have_one_home(package):
    users = [str(p.relative_to(ROOT)) for p in sources() if any(n.split(".")[0] == package for n in imports(p))]
    assert set(users) <= {HOMES[package]}


def test_core_modules_import_without_the_optional_packages(tmp_path):
    """In a process where faiss, wandb, vaex, rasterio, openpyxl and pyarrow cannot be imported."""
    import subprocess
    import sys

    blocked = ("faiss", "wandb", "vaex", "rasterio", "openpyxl", "pyarrow", "xlrd", "pandas", "lmdb")
    for name in blocked:
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import train_baseline, evaluate_model; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "fine", done.stderr
