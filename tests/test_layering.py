"""Imports run downwards. Each folder's `__init__` says what it may import; no two folders import each other."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOPS = ("datasets", "batchminer", "criteria", "architectures", "utilities")
# The one module that may import each heavy or optional package.
HOMES = {
    "faiss": "utilities/neighbours/search.py",
    "wandb": "utilities/runs/logger.py",
    "matplotlib": "utilities/report/figures.py",
    "vaex": "utilities/neighbours/statistics.py",
    "lmdb": "datasets/bigearthnet/lmdb_patches.py",
    "rasterio": "utilities/rasters.py",
    "openpyxl": "datasets/mlrsnet/labels.py",
    "timm": "architectures/timm_models.py",
    "osgeo": None,
    "pretrainedmodels": None,
}
MOST_MODULES = 12  # in a folder, its __init__ aside


def folders():
    """Every package, dotted."""
    return sorted(".".join(p.parent.relative_to(ROOT).parts) for top in TOPS for p in (ROOT / top).rglob("__init__.py"))


def sources():
    files = [p for top in TOPS for p in sorted((ROOT / top).rglob("*.py"))]
    return files + sorted(ROOT.glob("*.py"))


def imports(path):
    """Modules imported anywhere in the file, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = ROOT / node.module.replace(".", "/") / alias.name
                is_module = whole.is_dir() or whole.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def folder_of(module):
    """The folder in which a module of ours lies, dotted; None for other people's, "" for the top level."""
    if module.split(".")[0] in TOPS:
        path = ROOT / module.replace(".", "/")
        return module if path.is_dir() else module.rpartition(".")[0]
    return "" if (ROOT / f"{module.split('.')[0]}.py").is_file() else None


@cache
def declared(folder):
    """What the docstring of a folder's `__init__` says after "May import:": folders, and single modules."""
    text = ast.get_docstring(ast.parse((ROOT / folder.replace(".", "/") / "__init__.py").read_text())) or ""
    sentence = re.search(r"May import: ([^;]*?)\.(?:\s|$)", text, re.DOTALL)
    if sentence is None:
        return None
    return set() if sentence[1].startswith("nothing") else set(re.split(r",\s+", sentence[1]))


def importing(folder):
    """(module, what it imports) of the files that lie right in a folder; `datasets/__main__.py` is a script."""
    for path in sorted((ROOT / folder.replace(".", "/")).glob("*.py")):
        if path.name != "__main__.py":
            yield from ((path, name) for name in imports(path) if folder_of(name) is not None)


@pytest.mark.parametrize("folder", folders())
def test_a_folder_imports_what_its_docstring_says(folder):
    allowed = declared(folder)
    assert allowed is not None, f"{folder}/__init__.py does not say «May import: ...»"
    for path, name in importing(folder):
        target = folder_of(name)
        fine = target == folder or target in allowed or name in allowed or (folder == target.rpartition(".")[0])
        assert fine, f"{path.relative_to(ROOT)} imports {name}, which {folder}/__init__.py does not allow"


@pytest.mark.parametrize("folder", folders())
def test_nothing_is_declared_that_is_not_imported(folder):
    used = {part for _, name in importing(folder) for part in (name, folder_of(name))}
    assert declared(folder) <= used, f"{folder}/__init__.py allows what nobody imports: {declared(folder) - used}"


def test_no_two_folders_import_each_other():
    """Nor any more of them in a circle; a folder and its own sub-folders count as one."""
    below = {f: {folder_of(n) for _, n in importing(f)} - {f} for f in folders()}
    below = {f: {t for t in targets if not t.startswith(f"{f}.")} for f, targets in below.items()}
    floors = 0
    while below:
        ground = {f for f, targets in below.items() if not targets & below.keys()}
        assert ground, f"these import each other: { {f: sorted(t & below.keys()) for f, t in below.items()} }"
        below = {f: targets for f, targets in below.items() if f not in ground}
        floors += 1
    assert floors > 3


def test_folders_never_import_the_top_level():
    for folder in folders():
        for path, name in importing(folder):
            assert folder_of(name) != "", f"{path} imports the script {name}"


def test_scripts_never_import_each_other():
    for path in sorted(ROOT.glob("*.py")):
        assert [name for name in imports(path) if folder_of(name) == "" and name != "parameters"] == [], path


@pytest.mark.parametrize("folder", folders())
def test_a_folder_is_no_drawer(folder):
    modules = [p for p in (ROOT / folder.replace(".", "/")).glob("*.py") if p.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES


def test_the_map_of_the_readme_has_every_folder():
    """Alone, or with others as `parent/{one,other}/`."""
    table = (ROOT / "README.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([\w/]+)/`", table, re.MULTILINE))
    for stem, names in re.findall(r"`([\w/]+)/\{([\w,]+)\}/`", table):
        listed |= {f"{stem}/{name}" for name in names.split(",")}
    there = {folder.replace(".", "/") for folder in folders()}
    assert there - listed == set(), "folders without a line"
    assert listed - there == {"tests"}, "lines without a folder"


@pytest.mark.parametrize("package", sorted(HOMES))
def test_optional_packages_have_one_home(package):
    users = [str(p.relative_to(ROOT)) for p in sources() if any(n.split(".")[0] == package for n in imports(p))]
    assert set(users) <= {HOMES[package]}


def imported_packages():
    """Other people's packages, by `import` or by `import_module("...")`, in code and not in tests."""
    found = {"openpyxl", "xlrd"}  # by suffix of a workbook
    for path in sources():
        called = re.findall(r'import_module\("(\w+)', path.read_text())
        found |= {name.split(".")[0] for name in [*imports(path), *called] if folder_of(name) is None}
    return found - set(sys.stdlib_module_names) - {"__future__"}


def test_what_code_imports_stands_in_the_requirements():
    """In requirements.txt, or in an extra of pyproject.toml; and each has its version in constraints.txt."""
    spelled = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-gpu", "vaex": "vaex-core"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines() + [line for extra in extras.values() for line in extra]
    lines += [line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if not line.startswith("-r")]
    named = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines if line[0] != "#"}
    wanted = {spelled.get(name, name).lower().replace("_", "-") for name in imported_packages()}
    assert wanted - named == set()
    fixed = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert named <= fixed, named - fixed


def test_core_modules_import_without_the_optional_packages(tmp_path):
    """In a process where faiss, wandb, vaex, rasterio, openpyxl, timm and pyarrow cannot be imported."""
    import subprocess
    import sys

    blocked = (
        "faiss",
        "wandb",
        "vaex",
        "rasterio",
        "openpyxl",
        "pyarrow",
        "xlrd",
        "pandas",
        "lmdb",
        "timm",
        "onnx",
        "onnxscript",
    )
    for name in blocked:
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import train_baseline, evaluate_model; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "fine", done.stderr
