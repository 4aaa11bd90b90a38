"""Curves of a training: epochs, chance, the best of them, and what is said of terms below zero."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from criteria.decorrelation import ABierTerms
from train_bier import BIER
from train_diva import DiVA
from utilities.report.curves import REWARDS, Curved, curves, epoch_positions
from utilities.report.figures import Figure


def test_curves(tmp_path: Path) -> None:
    records = [
        {"epoch": 1, "step": 10, "split": "train", "losses": {"margin": 1.0, "shared": None}},
        {"epoch": 2, "step": 20, "split": "train", "losses": {"margin": 0.5, "shared": float("nan")}},
        {"epoch": 2, "step": 20, "split": "val", "scores": {"recall@1": 0.5, "recall@2": 0.7, "map@1": 0.2}},
        {"epoch": 2, "step": 20, "split": "test", "scores": {"recall@1": 0.4}},
    ]
    curves(tmp_path / "figures", records)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["losses.png", "scores.png"]
    with Image.open(tmp_path / "figures" / "losses.png") as one, Image.open(tmp_path / "figures" / "scores.png") as all:
        assert all.width > one.width  # shared never had a value; recall and map have a panel each


@pytest.mark.parametrize("epochs", [(1,), (7,), (1, 2), (5, 10, 60)])
def test_epochs_of_curves_are_whole(tmp_path: Path, drawn: list[Figure], epochs: tuple[int, ...]) -> None:
    records = [{"epoch": e, "step": 10 * e, "split": "val", "scores": {"recall@1": 0.5}} for e in range(1, 61)]
    curves(tmp_path, [record if record["epoch"] in epochs else record | {"scores": {}} for record in records])
    (axes,) = drawn[0].axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(float(tick).is_integer() for tick in ticks)
    assert set(ticks) >= set(epochs), "each of a few validations has its tick"
    assert low < epochs[0] <= epochs[-1] < high
    assert high - low <= max(2, epochs[-1] - epochs[0]) * 1.1


def test_scores_are_drawn_over_their_chance(tmp_path: Path, drawn: list[Figure]) -> None:
    scores, chance = {"recall@1": 0.9, "recall@8": 0.95, "overlap": 0.3}, {"recall@1": 0.2, "recall@8": 0.6}
    curves(tmp_path, [{"epoch": 1, "step": 9, "split": "val", "scores": scores, "chance": chance}])
    recall, overlap = drawn[0].axes
    assert [float(line.get_ydata()[0]) for line in recall.lines] == [0.9, 0.95, 0.2, 0.6]  # type: ignore[index]
    assert [text.get_text() for text in recall.texts] == ["chance", "chance"]
    low, high = recall.get_ylim()
    assert 0.2 - low > 0.08 * (high - low), "the word below the line stands above the axis"
    assert len(overlap.lines) == 1


def test_a_constant_stays_flat(tmp_path: Path, drawn: list[Figure]) -> None:
    records = [{"epoch": e, "step": e, "split": "val", "scores": {"map@8": 0.5 + e * 1e-6}} for e in (1, 2, 3)]
    curves(tmp_path, records)
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 0.49
    assert high > 0.51


def test_records_within_an_epoch_stand_where_they_were_written() -> None:
    """Epochs of 10, then of 20 steps, with a line of losses every 8 steps."""
    lines = [(1, 8), (1, 10), (2, 16), (2, 24), (2, 30)]
    records = [{"epoch": epoch, "step": step} for epoch, step in lines]
    assert epoch_positions(records) == pytest.approx([0.8, 1, 1.3, 1.7, 2])


def test_curves_of_a_run_without_records(tmp_path: Path) -> None:
    curves(tmp_path / "figures", [])
    assert not (tmp_path / "figures").exists()


def run_of(best: int) -> list[dict]:
    """Six epochs whose recall@1 is largest after `best`, with a term that falls below zero."""
    losses = [
        {"epoch": e, "step": e, "split": "train", "losses": {"disc": 1 / e, "nce_to_disc": -e, "total": 1 / e - e}}
        for e in range(1, 7)
    ]
    scores = [
        {"epoch": e, "step": e, "split": "val", "scores": {"recall@1": 0.5 + (e == best), "map@8": 0.1 * e}}
        for e in range(1, 7)
    ]
    return [record for both in zip(losses, scores, strict=True) for record in both]


def test_curves_say_which_run_and_which_epoch_is_the_best(tmp_path: Path, drawn: list[Figure]) -> None:
    curves(tmp_path, run_of(4), Curved("diva on Demo", 4, "recall@1", "rewards of the regressors"))
    for figure, part, what in zip(drawn, ("train", "val"), ("loss terms", "scores"), strict=True):
        title = figure.get_suptitle()
        assert title == f"diva on Demo, {part}: {what}"
        for axes in figure.axes[:3] if part == "train" else figure.axes:
            upright = [line for line in axes.lines if list(line.get_xdata()) == [4, 4]]
            assert len(upright) == 1, "a line at the best epoch"
            assert upright[0].get_zorder() > 1, "over the grid"
        assert "epoch 4, whose network is best.pt, the best recall@1 of val" in figure.get_supxlabel()
    assert "rewards of the regressors" in drawn[0].get_supxlabel()
    assert "rewards of the regressors" not in drawn[1].get_supxlabel()


def test_curves_without_a_best_epoch_or_a_term_below_zero_say_nothing_of_them(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    records = [record | {"losses": {"margin": 0.5}} if "losses" in record else record for record in run_of(2)]
    curves(tmp_path, records, Curved("a on Demo", 0, "recall@1", "rewards"))
    assert [figure.get_supxlabel() for figure in drawn] == ["", ""]
    assert not [line for figure in drawn for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 2]
    curves(tmp_path, run_of(2))
    assert drawn[2].get_supxlabel() == REWARDS, "a method that explains nothing"


def test_methods_with_terms_below_zero_explain_them() -> None:
    """By the names of their terms, as the run's figures show them."""
    assert all(f"{source}_to_disc" in DiVA.below_zero for source in ("nce", "shared", "intra"))
    assert BIER.below_zero.startswith(f"{ABierTerms._fields[0]}: ")
