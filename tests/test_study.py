"""The study: a fair plan, tables that grow line by line, sentences that say what numbers say, no figure by hand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

import parameters
from utilities.errors import UserError
from utilities.study import draw, figures, pictures, plan, table
from utilities.study.__main__ import ALL_TIERS, discard_weights, training
from utilities.study.analysis import Study, words, words_of_fine_tuning
from utilities.study.plan import ABLATIONS, FEATURES, ROWS, TRIALS, Run, chosen, merged, trials

ROOT = Path(__file__).parent.parent
TRAINED = [row.name for row in ROWS[1:]]


def line(run: Run, *, val: float = 0.5, test: float = 0.6) -> dict[str, str]:
    filled = dict.fromkeys(table.COLUMNS, "")
    filled |= {"name": run.name, "tier": run.tier, "row": run.row, "seed": str(run.seed), "script": run.script}
    filled |= {"trial": "" if run.trial is None else str(run.trial), "flags": " ".join(run.own)}
    filled |= {f"val {measure}": f"{val}" for measure in plan.SELECTED_BY}
    if run.trial is None:
        filled |= dict.fromkeys(table.MEASURES, f"{test:.5f}")
        filled |= {f"chance {measure}": "0.25" for measure in table.MEASURES}
    if run.row != FEATURES:
        filled |= {"minutes": "0.5", "images_per_second": "3000.0"}
    return filled | {"memory_gb": "1.2", "processor": "a processor", "date": "2026-11-28", "threads": "1"}


@pytest.fixture(scope="module")
def tried() -> list[dict[str, str]]:
    """All trials done; trial 5 is the best of each row."""
    return [line(run, val=0.7 if run.trial == 5 else 0.5) for run in trials()]


@pytest.fixture(scope="module")
def results(tried, tmp_path_factory) -> Path:
    """Tables of a small study in which `sndl` is better than the rest, by half, and everything else is noise."""
    folder = tmp_path_factory.mktemp("results")
    draws = np.random.default_rng(0)
    difficulty = draws.random(60) * 0.4
    runs = [r for r in plan.plan(tried, ("frozen", "ablation", "finetuned", "demo")) if r.seed < 3]
    for record in tried[:24] + tried[24:]:
        table.add(folder, record)
    for run in runs:
        lift = 0.3 if run.row == "sndl" else 0.0
        values = np.clip(difficulty + lift + draws.normal(0, 0.02, 60), 0, 1)
        curve = [{"epoch": e, "recall@1": 0.5, "label_jaccard@8": 0.4 + e / 100} for e in (10, 20)]
        queries = dict.fromkeys(table.PER_QUERY, values)
        table.add(folder, line(run, test=float(values.mean())), curve if run.seed == 0 else [], queries)
    return folder


def test_trials_differ_in_their_row_alone():
    """Trial t has one rate in all rows and one place in the range of each row's own number; all rows have as many."""
    by_number: dict[int, set[str]] = {}
    for run in trials():
        rate = run.own[run.own.index("--lr") + 1]
        by_number.setdefault(run.trial, set()).add(rate)
        assert plan.RATES[0] <= float(rate) <= plan.RATES[1]
    assert len(by_number) == TRIALS
    assert all(len(rates) == 1 for rates in by_number.values())
    assert len({next(iter(rates)) for rates in by_number.values()}) == TRIALS
    assert sorted({run.row for run in trials()}) == sorted(TRAINED)
    assert trials() == trials()


def test_knobs_stay_in_their_range():
    for row in ROWS[1:]:
        values = [row.knob.draw(u) for u in (0.0, 0.3, 0.999999)]
        assert min(row.knob.values) * 0.999 <= min(values) <= max(values) <= max(row.knob.values) * 1.001


def test_the_best_val_sum_is_chosen_and_a_tie_goes_to_the_first(tried):
    settings = chosen(tried)
    fifth = {run.row: run.own for run in trials() if run.trial == 5}
    assert settings == fifth
    flat = [line(run) for run in trials()]
    assert chosen(flat) == {run.row: run.own for run in trials() if run.trial == 0}


def test_nothing_but_trials_is_planned_before_all_are_there(tried):
    assert [run.tier for run in plan.plan(tried[:-1], ("trials", "frozen"))] == ["trials"] * len(tried)
    later = plan.plan(tried, ("frozen",))
    assert later[: len(ROWS)] == [run for run in later if run.seed == 0]  # all rows once, before any a second time
    assert len(later) == 1 + plan.SEEDS["frozen"] * len(TRAINED)
    assert plan.TRIAL_SEED not in {run.seed for run in later}


def test_three_rows_get_more_seeds_once_all_have_three(tried):
    first = list(plan.plan(tried, ("finetuned",)))
    assert len(first) == 3 * len(TRAINED)
    done = tried + [line(run, val=0.9 if run.row in ("dac", "bier", "sndl") else 0.5) for run in first]
    more = plan.plan(done, ("finetuned",))[len(first) :]
    assert {run.row for run in more} == {"dac", "bier", "sndl"}
    assert {run.seed for run in more} == {3, 4}


def test_the_two_most_telling_parts_are_fine_tuned(tried):
    """By val alone, once the frozen tier is whole; presets change everything at once, and explain no part."""
    frozen = [line(run) for run in plan.plan(tried, ("frozen", "ablation"))]
    for record in frozen:
        far = {"bier-1-group": 0.1, "dac-8-clusters": 0.9, "diva-authors": 0.0}
        if record["row"] in far:
            record |= {f"val {measure}": str(far[record["row"]]) for measure in plan.SELECTED_BY}
    assert plan.telling([record for record in frozen if record["name"] != "ablation-bier-1-group-seed19"]) == []
    assert sorted(plan.telling(frozen)) == ["bier-1-group", "dac-8-clusters"]
    runs = [r for r in plan.plan([*tried, *frozen], ("finetuned",)) if r.tier == "finetuned-ablation"]
    assert sorted({run.row for run in runs}) == ["bier-1-group", "dac-8-clusters"]
    assert "--bier_groups" in next(run.own for run in runs if run.row == "bier-1-group")
    assert {run.seed for run in runs} == {0, 1, 2}


def test_names_are_unique_and_every_command_is_understood(tried):
    runs = plan.plan(tried, ALL_TIERS)
    assert len({run.name for run in runs}) == len(runs)
    seen = set()
    for run in runs:
        kind = (run.tier, run.row)
        if kind in seen:
            continue
        seen.add(kind)
        settings = parameters.parse(run.script, ["--source_path", "somewhere", *run.flags()])
        assert settings.random_seed == run.seed
        assert settings.dataset == run.dataset
        if run.tier != "shared":  # which tries things for both tiers
            assert settings.frozen == (run.tier in ("trials", "frozen", "ablation", "grn"))
    assert {row for tier, row in seen if tier == "ablation"} == set(ABLATIONS)


def test_a_later_flag_replaces_an_earlier_one():
    assert merged(["--a", "1", "--b", "--a", "2", "3"]) == ["--a", "2", "3", "--b"]


def test_a_run_of_the_same_name_is_replaced(tmp_path):
    run = Run("frozen", "sndl", 0, "sndl", ())
    for score in (0.1, 0.2):
        curve = [{"epoch": 1, "recall@1": score, "label_jaccard@8": score}]
        table.add(tmp_path, line(run, test=score), curve, {"recall@1": np.array([score, 1 / 3])})
    (only,) = table.read(tmp_path)
    assert only["recall@1"] == "0.20000"
    assert table.read_queries(tmp_path)[run.name, "recall@1"].tolist() == [0.2, 0.3333]
    assert [point["recall@1"] for point in table.read_csv(tmp_path / table.CURVES)] == ["0.2"]


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / table.RUNS).write_text("name,tier\na,b,c\n")
    with pytest.raises(UserError, match=r"runs\.csv has lines"):
        table.read(tmp_path)


def test_words_say_who_wins_and_what_is_noise(results):
    study = Study(table.read(results), table.read_queries(results))
    said = words(study, "frozen", "recall@1")
    assert said.startswith("By recall@1, SNDL is best;")
    assert "Better than the untrained features: SNDL." in said
    assert "Not told from the untrained features: " in said
    assert "Better than the classifier: SNDL." in said
    assert "Not told from the classifier: " in said
    differences = study.differences("frozen", study.rows("frozen"), "recall@1")
    difference, p = differences["sndl", "mulsupcon"]
    assert difference.difference == pytest.approx(0.3, abs=0.03)
    assert p < 0.001
    assert (
        differences["bier", "dac"][1] > 0.05 if ("bier", "dac") in differences else differences["dac", "bier"][1] > 0.05
    )


def test_all_that_are_not_told_from_the_best_are_named_wherever_they_stand(tmp_path):
    """The third row varies so much that nothing tells it from the first, though the second is told from it."""
    draws = np.random.default_rng(0)
    ease = draws.random(60) * 0.3 + 0.4
    noise = draws.normal(0, 0.3, 60)
    values = {"sndl": ease, "dac": ease - 0.03 + draws.normal(0, 0.01, 60), "bier": ease - 0.04 + noise - noise.mean()}
    for row, scores in values.items():
        run = Run("finetuned", row, 0, row, ())
        table.add(tmp_path, line(run, test=float(scores.mean())), queries=dict.fromkeys(table.PER_QUERY, scores))
    said = words(Study(table.read(tmp_path), table.read_queries(tmp_path)), "finetuned", "recall@1")
    assert said.startswith("By recall@1, SNDL has the highest mean, and BIER is not told from it; 1 of the 3 pairs")


def test_a_row_looks_alike_in_both_tiers(tmp_path, monkeypatch):
    """Whatever came first into the table of curves."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    points = [
        {"name": f"{tier}-{row}-seed0", "epoch": str(epoch), "recall@1": "0.5", "label_jaccard@8": "0.4"}
        for tier, rows in (("finetuned", ["sndl", "dac"]), ("frozen", TRAINED))
        for row in rows
        for epoch in (4, 8)
    ]
    figures.curves(tmp_path / "curves.png", points)
    (figure,) = drawn
    looks = [{x.get_label(): (x.get_color(), x.get_linestyle()) for x in axes.lines} for axes in figure.axes]
    first, second = looks
    assert len(set(first.values())) == len(TRAINED)
    assert second == {name: first[name] for name in ("SNDL", "D&C")}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [row.title for row in ROWS[1:]]


def test_tables_and_figures_are_drawn(results, tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "study.md"
    page.write_text((ROOT / "docs" / "study.md").read_text())
    draw.draw(results, tmp_path / "docs")
    text = page.read_text()
    assert "| SNDL | 3 | **" in text
    assert "| diva-no-shared | 3 |" in text
    assert "| *rank correlation with heads on stored features* | | " in text
    assert draw.filled(text, Study(table.read(results), table.read_queries(results))) == text
    for name in ("scores", "differences", "differences_finetuned", "cost", "curves"):
        with Image.open(tmp_path / "docs" / f"study_{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_what_was_found_is_pictured(tmp_path):
    """Six queries by two rows: every image stands where its rank and row are, with its bar."""
    queries = [f"q{i}" for i in range(6)]
    lines = [
        {
            "name": f"frozen-{row}-seed0",
            "query": query,
            "rank": str(rank),
            "image": f"i{rank}",
            "jaccard": f"{rank / 2}",
        }
        for row in ("features", "sndl")
        for query in queries
        for rank in (1, 2)
    ]
    images = {"i1": (255, 0, 0), "i2": (0, 0, 255)} | dict.fromkeys(queries, (120, 120, 120))
    thumbnails = {name: np.full((8, 8, 3), colour, np.uint8) for name, colour in images.items()}
    pictures.found(tmp_path / "found.png", lines, thumbnails, dict.fromkeys(queries, "trees, water"))
    with Image.open(tmp_path / "found.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    side = (pictures.SIDE * 130) ** 2
    for colour in ((255, 0, 0), (0, 0, 255)):
        area = (np.abs(pixels - colour).sum(2) < 30).sum()
        assert area == pytest.approx(12 * side, rel=0.08)


def test_nothing_is_concluded_from_a_part_of_the_fine_tuned_tier(results, tmp_path):
    """README goes on showing what is whole; the page counts what is there."""
    lines = table.read(results)
    queries = table.read_queries(results)
    whole = Study(lines, queries)
    assert draw.BLOCKS["finetuned-words"](whole).startswith("By label_jaccard@8, SNDL is best")
    assert "all weights trained" in draw.BLOCKS["summary"](whole)
    assert "**All weights trained**, 30 to 30 seconds of training" in draw.BLOCKS["summary-words"](whole)
    part = Study([record for record in lines if record["name"] != "finetuned-bier-seed2"], queries)
    assert f"{3 * len(TRAINED) - 1} of the first {3 * len(TRAINED)} runs" in draw.BLOCKS["finetuned-words"](part)
    more = [
        dict(record, name=f"{record['name']}{n}") for record in part.lines for n in (3, 4) if record["row"] == "sndl"
    ]
    assert f"{3 * len(TRAINED) - 1} of the first" in draw.BLOCKS["finetuned-words"](
        Study([*part.lines, *more], queries)
    )
    assert "all weights trained" not in draw.BLOCKS["summary"](part)
    assert "All weights trained" not in draw.BLOCKS["summary-words"](part)


def test_what_training_all_weights_adds_is_said(tmp_path):
    """Of two rows one gains .1 on each query, by noise more or less; the other nothing beyond noise."""
    draws = np.random.default_rng(0)
    for tier, gain in (("frozen", 0.0), ("finetuned", 0.1)):
        for row, own in (("sndl", gain), ("diva", 0.0)):
            for seed in range(3):
                values = 0.5 + own + draws.normal(0, 0.02, 60)
                run = Run(tier, row, seed, row, ())
                table.add(tmp_path, line(run), queries=dict.fromkeys(table.PER_QUERY, values))
    said = words_of_fine_tuning(Study(table.read(tmp_path), table.read_queries(tmp_path)), "label_jaccard@8")
    assert re.search(
        r"changes by [+-]0\.00\d \(DiVA\) to \+0\.(09|10)\d \(SNDL\); beyond chance .* 2 rows\) for SNDL\.", said
    )


def test_what_all_rows_share_was_tried_on_val_alone():
    """Each variant changes one thing of what all rows share, with seeds that nothing else has."""
    runs = plan.shared()
    first = {(run.row.partition(": ")[0], run.seed): run for run in runs if run.row.endswith(": as chosen")}
    for run in runs:
        name, _, what = run.row.partition(": ")
        changed = plan.TRIED[what][1]
        flags = run.flags()
        if plan.TRIED[what][0] == "frozen":
            assert [*merged([*first[name, run.seed].flags(), *changed])] == flags
        else:
            assert "--frozen" not in flags
            assert merged([*flags, *changed]) == flags
        assert run.seed not in range(20)
        assert run.seed != plan.TRIAL_SEED
    assert {run.tier for run in runs} <= set(plan.ON_VAL)


def test_what_was_tried_is_a_table_of_means(tmp_path):
    for run in plan.shared():
        if run.row.startswith("batch_nca: ") and not run.row.endswith("60 epochs"):
            table.add(tmp_path, line(run, val=0.5 + (run.seed - 2000) / 10))
    text = draw.BLOCKS["shared"](Study(table.read(tmp_path), {}))
    assert "| as chosen | 4 | .650 (.650) |  |  |" in text
    assert "| all weights | 1 | .500 (.500) |  |  |" in text
    assert "60 epochs" not in text
    assert not (tmp_path / table.RUNS).exists()


def test_a_slow_machine_does_not_make_a_method_dear():
    """One of three runs took ten times as long, since others worked beside it."""
    runs = [Run("frozen", "sndl", seed, "sndl", ()) for seed in range(3)]
    lines = [line(run) | {"minutes": m, "images_per_second": i} for run, m, i in zip(runs, "215", "351", strict=True)]
    assert "| SNDL | 3 | 2.00 | 1.2 |" in draw.BLOCKS["cost"](Study(lines, {}))
    untimed = line(Run("frozen", "bier", 0, "bier", ())) | {"minutes": "", "images_per_second": ""}
    assert "2 to 2 minutes of training" in draw.BLOCKS["summary-words"](Study([untimed, *lines], {}))


def test_ranks_of_orders():
    assert draw.rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert draw.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert draw.rank_correlation([0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.4, 0.3]) == pytest.approx(0.6)


@pytest.mark.parametrize(("tier", "seed", "trial", "left"), [
    ("frozen", 0, None, ["last.pt"]), ("frozen", 1, None, []), ("trials", plan.TRIAL_SEED, 3, []),
])  # fmt: skip
def test_networks_of_the_first_seed_alone_are_kept(tier, seed, trial, left, tmp_path):
    run = Run(tier, "sndl", seed, "sndl", (), trial)
    folder = tmp_path / "UCMerced" / run.name
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt", "last.previous.pt", "args.json"):
        (folder / name).write_text("x")
    discard_weights(run, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["args.json", *left]


def test_an_unknown_table_is_refused(results):
    with pytest.raises(UserError, match="no table 'nothing'"):
        draw.filled("<!-- study nothing -->\n<!-- end -->", Study(table.read(results), {}))


@pytest.mark.parametrize("page", ["docs/study.md", "README.md"])
def test_pages_hold_what_the_results_say(page):
    """Nothing between the marks was typed, and no result is missing from them."""
    folder = ROOT / "docs" / "results"
    if not table.read(folder):
        pytest.skip("no results yet")
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- study " in text
    assert draw.filled(text, Study(table.read(folder), table.read_queries(folder))) == text


def test_what_is_said_of_the_second_ground_holds():
    """docs/study.md: SNDL leads and the baseline comes second everywhere, the other three change places."""
    study = Study(table.read(Path(__file__).parent.parent / "docs" / "results"), {})
    orders = [
        sorted(plan.METHODS, key=lambda row: -study.summary(tier, row).means["label_jaccard@8"])
        for tier in ("frozen", "finetuned", *plan.GROUNDS)
    ]
    assert {tuple(order[:2]) for order in orders} == {("sndl", "margin")}
    assert len({tuple(order[2:]) for order in orders}) > 1


def test_the_results_are_those_of_the_plan():
    """A range, a row or a flag that was changed after its runs would leave results of something else under its name."""
    finished = table.read(ROOT / "docs" / "results")
    planned = {run.name: shlex.join(run.own) for run in plan.plan(finished, ALL_TIERS)}
    assert [line["name"] for line in finished if planned.get(line["name"]) != line["flags"]] == []
    assert len({line["name"] for line in finished}) == len(finished)


def test_every_table_has_a_place():
    text = (ROOT / "docs" / "study.md").read_text() + (ROOT / "README.md").read_text()
    assert [name for name in draw.BLOCKS if f"<!-- study {name} -->" not in text] == []


def test_labels_of_points_do_not_cover_each_other(results, tmp_path, monkeypatch):
    """Where scores are nearly equal and both tiers take the same time, names still stand apart."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    figures.cost(tmp_path / "cost.png", Study(table.read(results), table.read_queries(results)), "label_jaccard@8")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    names = figure.axes[0].texts
    assert len(names) == 2 * len(TRAINED)
    boxes = [Text.get_window_extent(name) for name in names]  # without the lines to their points
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_a_run_that_was_stopped_goes_on_with_the_images_where_they_lie_now(tmp_path):
    run = Run("frozen", "margin", 0, "baseline", ("--nb_epochs", "2"))
    folder = tmp_path / run.dataset / run.name
    assert training(run, "/old", tmp_path)[:3] == ["--source_path", "/old", "--save_path"]
    folder.mkdir(parents=True)
    (folder / "args.json").touch()
    assert training(run, "/new", tmp_path) == ["--load_from_checkpoint", str(folder), "--source_path", "/new"]
