"""The comparison of runs: its table, what it refuses to compare, and a figure for whatever comes."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import browser, missing
from utilities.files import filling
from utilities.neighbours.search import Neighbours
from utilities.neighbours.table import write_neighbours
from utilities.report import differences
from utilities.report.compared import Run, common_parent, describe, notes, place, shown
from utilities.report.comparison import LEFTOVERS, draw, markdown, over_seeds, seeds_markdown, write_comparison
from utilities.report.comparison_page import Pictured, chosen
from utilities.report.page_parts import Collection

PROTOCOL = {"dataset": "Demo", "split": "test", "network": "best", "queries": 9, "gallery": 9}


def content(fingerprint: str = "a", **scores: float) -> dict[str, Any]:
    scores = scores or {"recall@1": 0.5, "map@8": 0.25, "ndcg": 0.1}
    return {
        "scores": scores,
        "chance": {name: value / 2 for name, value in scores.items()},
        "interval": {name: [value - 0.05, value + 0.05] for name, value in scores.items()},
        "protocol": {"fingerprint": fingerprint, **PROTOCOL},
    }


def run(name: str, **options: Any) -> Run:
    return Run(name, "diva", content(**options), 80.0, 1.5)


def folder(path: Path, method: str, records: list[dict[str, Any]]) -> Path:
    path.mkdir(parents=True)
    (path / "args.json").write_text(json.dumps({"method": method, "dataset": "Demo"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_runs_are_named_by_their_place_and_timed_by_their_log(tmp_path: Path) -> None:
    trained = [
        {"epoch": 1, "step": 9, "split": "train", "seconds": 60, "images_per_second": 10},
        {"epoch": 1, "step": 9, "split": "val", "seconds": 999, "images_per_second": 1, "scores": {}},
        {"epoch": 2, "step": 18, "split": "train", "seconds": 30, "images_per_second": 40},
    ]
    folders = [folder(tmp_path / "x" / "one", "bier", trained), folder(tmp_path / "y" / "one", "dac", [])]
    assert common_parent(folders) == tmp_path
    assert common_parent(folders[:1]) == tmp_path / "x"
    first, second = describe(folders, [content(), content()], ())
    assert (first.name, first.method, first.minutes, first.images_per_second) == ("x/one", "bier", 1.5, 20)
    assert (second.name, second.method, second.minutes, second.images_per_second) == ("y/one", "dac", None, None)


def test_a_network_before_training_has_no_time_of_training(tmp_path: Path) -> None:
    trained = [{"epoch": 1, "step": 9, "split": "train", "seconds": 60, "images_per_second": 10}]
    initial = content()
    initial["protocol"]["network"] = "initial"
    (untrained,) = describe([folder(tmp_path / "one", "bier", trained)], [initial], ())
    assert (untrained.minutes, untrained.images_per_second) == (None, None)
    assert [cell.strip() for cell in markdown([untrained]).splitlines()[-1].split("|")[-3:-1]] == ["-", "-"]


@pytest.mark.parametrize(("minutes", "said"), [(0.0331, "0.033"), (1.5, "1.5"), (9.96, "10"), (332.4, "332")])
def test_minutes_have_two_digits(minutes: float, said: str) -> None:
    assert markdown([run("a")._replace(minutes=minutes)]).splitlines()[-1].split("|")[-2].strip() == said


def test_a_comparison_lies_beside_its_runs_or_in_the_current_folder(tmp_path: Path) -> None:
    assert place([tmp_path / "runs" / "one", tmp_path / "runs" / "two"]) == (tmp_path / "runs").resolve()
    assert place([tmp_path / "runs" / "one", tmp_path / "more" / "two"]) == Path()


def test_the_table() -> None:
    lines = markdown([run("a"), run("b")._replace(images_per_second=None)]).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["run", "method", "recall@1", "map@8", "images/s", "training min"]
    assert cells[2] == ["level of chance", "", "0.2500", "0.1250", "", ""]
    assert cells[3] == ["a", "diva", "0.5000", "0.2500", "80", "1.5"]
    assert cells[4][4] == "-"


def test_measures_that_all_runs_have() -> None:
    assert shown([run("a"), run("b", **{"map@8": 0.1, "ndcg": 0.2})]) == ["map@8"]
    assert shown([run("a", ndcg=0.2, map=0.1)]) == ["ndcg", "map"]


def test_other_data_is_said_and_has_no_common_chance() -> None:
    runs = [run("a"), run("b", fingerprint="other")]
    assert notes(runs[:1]) == []
    (note,) = notes(runs)
    assert "different images or labels (a: Demo, b: Demo)" in note
    assert "chance" not in markdown(runs)


def test_runs_that_differ_in_their_seed_have_a_mean(tmp_path: Path) -> None:
    flags = [{"lr": 1.0, "savename": "a"}, {"lr": 1.0, "savename": "b"}, {"lr": 2.0, "savename": "c"}]
    folders = [folder(tmp_path / f"{n}", "diva", []) for n in range(4)]
    for n, path in enumerate(folders):
        args = {"method": "diva", "dataset": "Demo", "random_seed": n, **flags[min(n, 2)]}
        (path / "args.json").write_text(json.dumps(args))
    contents = [content(**{"map@8": value, "recall@1": 0.5}) for value in (0.2, 0.4, 0.6, 0.8)]
    runs = describe(folders, contents, {"savename"})
    first, second = over_seeds(runs)
    assert first.names == ["0", "1"]
    assert first.scores["map@8"] == pytest.approx((0.3, 0.02**0.5))
    assert second.scores == {"map@8": pytest.approx((0.7, 0.02**0.5)), "recall@1": (0.5, 0)}
    assert over_seeds([run._replace(seed=0) for run in runs]) == [], "one seed"
    assert over_seeds([runs[0], runs[2]]) == [], "one run of a recipe"
    assert over_seeds(describe(folders[:2], contents[:2], ())) == [], "another flag differs"
    other = runs[1]._replace(content=content(fingerprint="other"))
    assert over_seeds([runs[0], other]) == [], "other images"
    text = write_comparison(tmp_path, runs, title="title")
    assert seeds_markdown([first, second]) in text
    assert "| 0.3000 ± 0.1414 |" in text
    assert json.loads((tmp_path / "comparison.json").read_text())["over_seeds"][0]["names"] == ["0", "1"]
    assert "over seeds" not in write_comparison(tmp_path, runs[1:3], title="title")


@pytest.mark.parametrize("count", [1, 2, 12])
def test_what_is_written(tmp_path: Path, count: int) -> None:
    runs = [run(f"a run with a very long name, number {number}") for number in range(count)]
    text = write_comparison(tmp_path / "new", runs, title="title")
    assert (tmp_path / "new" / "comparison.md").read_text() == text
    rows = json.loads((tmp_path / "new" / "comparison.json").read_text())["runs"]
    assert [rows[0][key] for key in ("map@8", "map@8 low", "map@8 high", "map@8 chance")] == [0.25, 0.2, 0.3, 0.125]
    with (tmp_path / "new" / "comparison.csv").open(newline="") as file:
        assert [{k: str(v) for k, v in row.items()} for row in rows] == list(csv.DictReader(file))


def test_scores_that_could_not_be_had(tmp_path: Path) -> None:
    nothing = content(**{"map@8": math.nan})
    runs = [Run("a", "diva", nothing, None, 0.0), run("b")]
    assert "| -  " in markdown(runs)
    write_comparison(tmp_path, runs, title="title")
    assert json.loads((tmp_path / "comparison.json").read_text())["runs"][0]["map@8"] is None


def test_the_figure_has_a_line_a_run(tmp_path: Path) -> None:
    heights = []
    for count in (1, 2, 3):
        draw(tmp_path / "a.png", [run(str(number)) for number in range(count)], title="title")
        with Image.open(tmp_path / "a.png") as picture:
            heights.append(picture.height)
    assert heights[2] - heights[1] == heights[1] - heights[0] > 30


# Differences -------------------------------------------------------------------------------------------------


def answered(name: str, values: torch.Tensor, flags: dict[str, Any], method: str = "diva", seed: int = 0) -> Run:
    """A run whose queries have these values of recall@1, and as many less a tenth of label_hamming@1."""
    per_query = {"recall@1": values, "label_hamming@1": values - 0.1}
    scores = {measure: float(v.nanmean()) for measure, v in per_query.items()}
    names = [f"image {number}" for number in range(len(values))]
    recipe = json.dumps({"method": method, **flags}, sort_keys=True)
    return Run(name, method, content(**scores), None, None, recipe, seed, names, per_query)


def study() -> list[Run]:
    """Three seeds of a good method, three of a poor one, and one run that differs from the poor in two flags."""
    draw = torch.Generator().manual_seed(0)
    queries = torch.rand(60, generator=draw, dtype=torch.float64) / 2
    noise = [0.02 * torch.randn(60, generator=draw, dtype=torch.float64) for _ in range(7)]
    good = [answered(f"good-{s}", queries + 0.2 + noise[s], {"lr": 0.1}, "bier", s) for s in range(3)]
    poor = [answered(f"poor-{s}", queries + noise[3 + s], {"lr": 0.1, "nb_epochs": 2}, "diva", s) for s in range(3)]
    return [*good, *poor, answered("alone", queries + noise[6], {"lr": 0.5, "nb_epochs": 3})]


def test_runs_of_one_recipe_are_one_group_and_named_by_what_sets_them_apart() -> None:
    runs = study()
    assert [(g.name, len(g.runs)) for g in differences.groups(runs)] == [("bier", 3), ("diva", 3), ("alone", 1)]
    other = [run._replace(name=f"x{run.seed}", recipe=run.recipe.replace("2}", "4}")) for run in runs[3:6]]
    assert [g.name for g in differences.groups([*runs[3:6], *other])] == ["diva (nb_epochs 2)", "diva (nb_epochs 4)"]
    older = [run._replace(name=f"o{run.seed}", recipe=json.dumps({"method": "diva", "lr": 0.1})) for run in runs[3:6]]
    parts = differences.groups([*runs[3:6], *older])  # before there was --nb_epochs
    assert [g.name for g in parts] == ["diva (nb_epochs 2)", "diva (nb_epochs not recorded)"]
    assert differences.differing_flags([*runs[:6], *older]) == {
        "nb_epochs": {"2": [f"poor-{s}" for s in range(3)], "not recorded": [f"o{s}" for s in range(3)]}
    }, "of the method that has it"
    twice = [runs[0], runs[1]._replace(seed=0)]
    assert [g.name for g in differences.groups(twice)] == ["good-0", "good-1"], "one seed twice is no repetition"


def test_flags_in_which_runs_differ_are_said(tmp_path: Path) -> None:
    runs = study()
    poor = [f"poor-{s}" for s in range(3)]
    assert differences.differing_flags(runs) == {
        "lr": {"0.1": ["good-0", "good-1", "good-2", *poor], "0.5": ["alone"]},
        "nb_epochs": {"2": poor, "3": ["alone"]},
    }
    text = write_comparison(tmp_path, runs, title="title")
    assert "flags in which the runs differ" in text
    assert "2: poor-0, poor-1, poor-2; 3: alone" in text
    assert json.loads((tmp_path / "comparison.json").read_text())["differing_flags"]["lr"]["0.5"] == ["alone"]
    assert "flags in which" not in write_comparison(tmp_path, runs[:3], title="title")


def test_what_is_larger_than_chance_is_said_in_words(tmp_path: Path) -> None:
    text = write_comparison(tmp_path, study(), title="title")
    lines = text.splitlines()
    place = lines.index("recall@1:")
    assert lines[place + 1] == "- bier is better than diva by 0.2031, alone by 0.2059"
    assert lines[place + 2] == "- no difference beyond chance between diva and alone"
    assert "note: alone: one run each" in text
    rows = list(csv.DictReader((tmp_path / "differences.csv").open(newline="")))
    assert [(r["measure"], r["one"], r["other"], r["larger_than_chance"]) for r in rows[:3]] == [
        ("recall@1", "bier", "diva", "True"),
        ("recall@1", "bier", "alone", "True"),
        ("recall@1", "diva", "alone", "False"),
    ]
    assert float(rows[0]["low"]) < float(rows[0]["difference"]) < float(rows[0]["high"])
    assert (rows[1]["seeds_one"], rows[1]["seeds_other"]) == ("3", "1")
    assert float(rows[0]["p_holm"]) >= float(rows[0]["p"])


def test_of_a_loss_the_smaller_value_is_better(tmp_path: Path) -> None:
    measure = "label_hamming@1"
    runs = [run._replace(content=content(**{measure: run.content["scores"][measure]})) for run in study()[1:5]]
    lines = write_comparison(tmp_path, runs, title="title").splitlines()
    assert lines[lines.index(f"{measure}:") + 1].startswith("- diva is better than bier by 0.20")


def test_runs_that_were_asked_other_queries_have_no_differences(tmp_path: Path) -> None:
    runs = study()
    write_comparison(tmp_path, runs, title="title")
    assert (tmp_path / "differences.csv").exists()
    fewer = runs[-1]._replace(query_names=[*runs[0].query_names[:-1], "another"])
    for others in ([*runs[:-1], fewer], [run("a"), run("b")]):
        with filling(tmp_path, LEFTOVERS) as folder:
            assert "Paired differences" not in write_comparison(folder, others, title="title")
        assert not (tmp_path / "differences.csv").exists(), "nor those of a comparison before"


# The page ----------------------------------------------------------------------------------------------------


def pictures(folder: Path, runs: list[Run]) -> Pictured:
    """The first run finds the next images in the order of the data, the second those from the next but one on, ..."""
    names, count = list(runs[0].query_names), len(runs[0].query_names)
    labels = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    for shift, each in enumerate(runs):
        steps = torch.arange(1, 10) + shift
        found = Neighbours((torch.arange(count)[:, None] + steps) % count, steps.float().expand(count, -1) / 10)
        both = {"query_names": names, "gallery_names": names, "query_labels": labels, "gallery_labels": labels}
        write_neighbours(folder / each.name, found, **both)  # type: ignore[arg-type]
    images = Collection(names, labels.numpy(), lambda row: np.full((20, 20, 3), row, np.uint8))
    return Pictured(images, images, ["field", "</script><b>water", "trees"], {r.name: folder / r.name for r in runs})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    write_comparison(folder, study(), title="Seven <b>runs", pictured=pictures(folder, study()))
    return folder / "comparison.html"


def test_the_page_holds_what_each_run_finds_for_the_same_queries(written: Path) -> None:
    page = written.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    assert not re.search(r"https?://", page), "nothing is fetched"
    assert [group["name"] for group in data["groups"]] == ["bier", "diva", "alone"]
    assert data["groups"][0]["shown"] == "first of 3 seeds: good-0"
    assert data["flags"][0][0] == "--lr"
    assert len(data["differences"]) == 3
    assert len(data["queries"]) <= 48
    runs = {run.name: run for run in study()}
    for query in data["queries"]:
        row = int(data["images"][query["image"]]["name"].removeprefix("image "))
        expected = [float(runs[name].per_query["recall@1"][row]) for name in ("good-0", "poor-0", "alone")]
        assert query["values"] == pytest.approx(expected, abs=1e-6)
        for shift, answer in zip((0, 3, 6), query["found"], strict=True):  # of good-0, poor-0 and alone
            names = [data["images"][number]["name"] for number, _ in answer]
            assert names == [f"image {(row + step + shift) % 60}" for step in range(1, 9)]


def test_the_page_of_other_data_has_no_level_of_chance(tmp_path: Path) -> None:
    runs = [run("a"), run("b", fingerprint="other")]
    images = Collection([], np.zeros((0, 3), bool), lambda row: np.zeros((2, 2, 3), np.uint8))
    for some, chance in ((runs[:1], 0.25), (runs, None)):
        write_comparison(tmp_path, some, title="t", pictured=Pictured(images, images, [], {}))
        page = (tmp_path / "comparison.html").read_text()
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
        assert found is not None
        assert json.loads(found.group(1))["measures"][0] == {"name": "recall@1", "chance": chance}


def test_queries_on_which_runs_differ_most_are_shown_and_others_at_even_steps() -> None:
    values = torch.zeros(2, 100, dtype=torch.float64)
    values[:] = torch.arange(100) / 100
    values[0, [7, 31]] += 5
    values[0, 50] = torch.nan
    assert chosen(values, 4) == [0, 7, 31], "31 has the largest mean as well"
    assert chosen(values, 400) == list(range(100))
    assert chosen(values[:, :1], 4) == [0]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_page_in_a_browser(written: Path) -> None:
    with browser() as page:
        page.open(written)
        assert page.run("return document.title") == "Seven <b>runs"
        assert page.run("return [...document.images].every(image => image.naturalWidth > 0)")
        assert page.run("return document.querySelectorAll('#scores tr').length") == 8
        assert page.run("return document.querySelectorAll('#differences tr').length") == 3
        count = page.run("return document.querySelectorAll('.query').length")
        assert page.run("return document.querySelectorAll('.found').length") == 3 * count
        page.run("const s = document.getElementById('sort'); s.value = 'hardest'; s.oninput()")
        means = "[...document.querySelectorAll('.query')].map(q => [...q.querySelectorAll('.answer div b')]"
        means += ".filter(b => b.textContent).reduce((a, b) => a + Number(b.textContent), 0))"
        sums = page.run(f"return {means}")
        assert sums == pytest.approx(sorted(sums), abs=4e-3)
        page.run("document.querySelector('.found button').click()")
        assert page.run("return document.querySelectorAll('#pair img').length") == 2
        page.run("document.getElementById('close').click(); document.querySelector('#chips button').click()")
        assert 0 < page.run("return document.querySelectorAll('.query').length") < count
        page.resize(400, 900)
        assert page.run("return document.documentElement.scrollWidth") <= 400
        assert page.log() == []
