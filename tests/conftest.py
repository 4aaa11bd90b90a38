"""Shared fixtures: the real data where it lies, and miniatures with a run on each, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts import TINY, run_inside
from tests.sentinel.patches import write_bigearthnet_layout
from utilities.report.figures import Figure

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real files; tests that need them are skipped where the folder is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED}")
    return SHARED


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from here on, as they were drawn."""
    kept: list[Figure] = []
    saved = Figure.savefig

    def keep(figure: Figure, *where: object, **options: object) -> None:
        kept.append(figure)
        saved(figure, *where, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A miniature of the demo and a run of one epoch on it: (archive, run folder). Not to be changed by a test."""
    source, runs = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("demo_runs")
    run_inside("train_baseline", "--source_path", source, "--save_path", runs, *TINY, "--nb_epochs", 1)
    return source / "Demo", runs / "Demo" / "baseline"


@pytest.fixture(scope="session")
def sentinel_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Generated patches in the layout of BigEarthNet v1 and a run on them: (archive, run folder)."""
    source, runs = tmp_path_factory.mktemp("sentinel") / "patches", tmp_path_factory.mktemp("sentinel_runs")
    write_bigearthnet_layout(source, patches=40, seed=0)
    given = ["--dataset", "BigEarthNet", "--source_path", source, "--save_path", runs, "--weights", "none"]
    run_inside("train_baseline", *given, *TINY, "--nb_epochs", 1, "--batch_size", 8)
    return source, runs / "BigEarthNet" / "baseline"
