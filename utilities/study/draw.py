"""Every table and figure of the study, from docs/results alone; tables go between their marks in Markdown files."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.ucmerced.dataset import UCMerced
from utilities.errors import UserError
from utilities.files import replacing
from utilities.study import figures, pictures, table
from utilities.study.analysis import ABLATED, LEVEL, Study, Summary, listed, title, words, words_of_fine_tuning
from utilities.study.plan import METHODS, ROWS, SEEDS, SELECTED_BY, TRIALS, TRIED, TRIED_ROWS, chosen

PAIRED = ("label_jaccard@8", "recall@1")
NOTHING = "*No run of this part yet.*"


def draw(results: Path, docs: Path, source: Path | None = None) -> None:
    """Rewrite the tables of docs/study.md and README.md beside `docs`, and the figures in `docs`.

    source  folder of UC Merced; without it the picture of what was found stays as it is
    """
    study = Study(table.read(results), table.read_queries(results))
    if not study.lines:
        raise UserError(f"{results} holds no results yet; start python -m utilities.study run")
    for path in (docs / "study.md", docs.parent / "README.md"):
        if path.exists():
            text = filled(path.read_text(encoding="utf-8"), study)
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    figures.scores(docs / "study_scores.png", study)
    figures.differences(docs / "study_differences.png", study, PAIRED[0], "frozen")
    if is_whole(study, "finetuned"):
        figures.differences(docs / "study_differences_finetuned.png", study, PAIRED[0], "finetuned")
    figures.cost(docs / "study_cost.png", study, PAIRED[0])
    figures.curves(docs / "study_curves.png", table.read_csv(results / table.CURVES))
    if source and source.is_dir():
        _draw_found(docs / "study_found.jpg", table.read_csv(results / table.FOUND), source)


def _draw_found(path: Path, lines: Sequence[Mapping[str, str]], source: Path) -> None:
    """By the heads on stored features, of which every row has a first seed."""
    shown = [line for line in lines if line["name"].startswith("frozen-")]
    if not shown:
        return
    test = UCMerced(source_path=source, split="test")
    rows = {name: row for row, name in enumerate(map(str, test.names))}
    wanted = {line[column] for line in shown for column in ("query", "image")}
    thumbnails = {name: test.thumbnail(rows[name], side=128) for name in sorted(wanted)}
    carried = {name: ", ".join(np.array(test.label_names)[test.labels[rows[name]] > 0]) for name in wanted}
    pictures.found(path, shown, thumbnails, carried)


def filled(text: str, study: Study) -> str:
    """The text with what stands between `<!-- study NAME -->` and `<!-- end -->` made anew."""

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise UserError(f"there is no table {name!r} of the study; tables: {', '.join(BLOCKS)}")
        return f"<!-- study {name} -->\n{BLOCKS[name](study).strip()}\n<!-- end -->"

    return re.sub(r"<!-- study ([\w-]+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def scores_table(study: Study, tier: str) -> str:
    """Mean ± standard deviation over seeds of each measure, a row a line."""
    rows = [study.summary(tier, row) for row in study.rows(tier)]
    if not rows:
        return NOTHING
    measures = [m for m in table.MEASURES if any(m in row.means for row in rows)]
    lines = [
        "| row | seeds | " + " | ".join(measures) + " |",
        "| --- | --- |" + " --- |" * len(measures),
        "| *level of chance* | | " + " | ".join(chance(study, tier, m) for m in measures) + " |",
    ]
    best = {m: max(row.means.get(m, -math.inf) for row in rows) for m in measures}
    for row in rows:
        cells = [cell(row, m, bold=row.means.get(m) == best[m]) for m in measures]
        lines.append(f"| {row.title} | {row.seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: Summary, measure: str, *, bold: bool) -> str:
    if measure not in row.means:
        return ""
    mean = f"{row.means[measure]:.3f}".removeprefix("0")
    deviation = row.deviations[measure]
    spread = "" if math.isnan(deviation) else f" ± {deviation:.3f}".replace("0.", ".")
    return f"**{mean}**{spread}" if bold else f"{mean}{spread}"


def chance(study: Study, tier: str, measure: str) -> str:
    line = study.of(tier, study.rows(tier)[0])[0]
    value = line[f"chance {measure}"]
    return f"{float(value):.3f}".removeprefix("0") if value else ""


def pairs_table(study: Study, tier: str) -> str:
    """Each of the five methods beside the features without training, and the intervals of what it gains."""
    rows = study.rows(tier)
    if "features" not in rows or len(rows) < 2:
        return NOTHING
    lines = ["| method less features | " + " | ".join(f"{m} | p (Holm) | d" for m in PAIRED) + " |"]
    lines.append("| --- |" + " --- | --- | --- |" * len(PAIRED))
    found = {measure: study.differences(tier, rows, measure) for measure in PAIRED}
    for row in rows:
        if row == "features":
            continue
        cells = []
        for measure in PAIRED:
            difference, p = found[measure]["features", row]
            cells += [f"{-difference.difference:+.3f} ({-difference.high:+.3f} to {-difference.low:+.3f})",
                      spelled_p(p), f"{-difference.effect:+.2f}"]  # fmt: skip
        name = f"**{title(row)}**" if row in METHODS else title(row)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spelled_p(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def ablations_table(study: Study) -> str:
    return "\n\n".join(filter(None, [_ablations(study, "frozen"), _ablations(study, "finetuned")])) or NOTHING


def _ablations(study: Study, tier: str) -> str:
    found = {measure: study.ablations(tier, measure) for measure in PAIRED}
    if not found[PAIRED[0]]:
        return ""
    lines = [
        f"| {figures.TIERS[tier]} | seeds | less the whole method, "
        + " | ".join(f"{m} | p (Holm)" for m in PAIRED)
        + " |"
    ]
    lines.append("| --- | --- |" + " --- | --- |" * len(PAIRED))
    for variant, row in found[PAIRED[0]]:
        cells = []
        for measure in PAIRED:
            difference, p = found[measure][variant, row]
            clear = "**" if p < LEVEL else ""
            interval = f"({difference.low:+.3f} to {difference.high:+.3f})"
            cells += [f"{clear}{difference.difference:+.3f}{clear} {interval}", spelled_p(p)]
        lines.append(f"| {variant} | {len(study.of(ABLATED[tier], variant))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grounds_table(study: Study) -> str:
    """The five methods on every ground by one measure, and how alike their orders are."""
    grounds = {
        "frozen": "heads on stored features",
        "finetuned": "all weights trained",
        "scratch": "ResNet50 from scratch",
        "demo": "generated scenes, from scratch",
    }
    held = [tier for tier in grounds if all(study.of(tier, method) for method in METHODS)]
    if not {"scratch", "demo"} & set(held):
        return NOTHING
    lines = [f"| {PAIRED[0]} | " + " | ".join(grounds[tier] for tier in held) + " |", "| --- |" + " --- |" * len(held)]
    means = {tier: {m: study.summary(tier, m) for m in METHODS} for tier in held}
    for method in METHODS:
        cells = []
        for tier in held:
            best = max(summary.means[PAIRED[0]] for summary in means[tier].values())
            own = means[tier][method]
            cells.append(f"{cell(own, PAIRED[0], bold=own.means[PAIRED[0]] == best)} ({own.seeds})")
        lines.append(f"| {title(method)} | " + " | ".join(cells) + " |")
    orders = []
    for tier in held[1:]:
        values = [[means[t][m].means[PAIRED[0]] for m in METHODS] for t in (held[0], tier)]
        orders.append(f"{rank_correlation(*values):+.2f}")
    lines.append(f"| *rank correlation with {grounds[held[0]]}* | | " + " | ".join(orders) + " |")
    return "\n".join(lines)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    size = len(first)
    return float(1 - 6 * np.sum((ranks[0] - ranks[1]) ** 2) / (size * (size**2 - 1)))


def ablation_words(study: Study) -> str:
    """Which parts are worth something by the first measure, and which the method does better without."""
    found = study.ablations("frozen", PAIRED[0])
    if not found:
        return ""
    clear = {variant: d.difference for (variant, _), (d, p) in found.items() if p < LEVEL}
    kinds = {
        "worse": [variant for variant, difference in clear.items() if difference < 0],
        "better": [variant for variant, difference in clear.items() if difference > 0],
        "not told from the whole method": [variant for variant, _ in found if variant not in clear],
    }
    said = [f"{what}: {listed([f'`{name}`' for name in names])}" for what, names in kinds.items() if names]
    return f"By {PAIRED[0]}, beyond chance (p < {LEVEL:g} after Holm over {len(found)} variants), {'; '.join(said)}."


def is_whole(study: Study, tier: str) -> bool:
    """Whether every row has the seeds that are planned for it."""
    return all(len(study.of(tier, row.name)) >= SEEDS[tier] for row in ROWS[1:])


def finetuned_words(study: Study) -> str:
    """What can be concluded, once there are enough runs for it."""
    if not study.rows("finetuned"):
        return ""
    if is_whole(study, "finetuned"):
        said = [f"{words(study, 'finetuned', m)} {words_of_fine_tuning(study, m)}" for m in PAIRED]
        return "\n\n".join(said)
    done = sum(min(len(study.of("finetuned", row.name)), SEEDS["finetuned"]) for row in ROWS[1:])
    planned = SEEDS["finetuned"] * (len(ROWS) - 1)
    return (
        f"*Under way: {done} of the first {planned} runs. Nothing is concluded before every row has "
        f"{SEEDS['finetuned']} seeds; `bash SampleRun.sh study` goes on.*"
    )


def shared_table(study: Study) -> str:
    """What was tried of what all rows share: means over seeds on val."""
    lines = ["| val recall@1 (label_jaccard@8) | seeds | " + " | ".join(map(title, TRIED_ROWS)) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(TRIED_ROWS))
    for what in TRIED:
        found = [study.of("shared", f"{name}: {what}") for name in TRIED_ROWS]
        if not any(found):
            continue
        cells = []
        for runs in found:
            means = [statistics.mean([float(run[f"val {m}"]) for run in runs] or [math.nan]) for m in SELECTED_BY]
            cells.append("{:.3f} ({:.3f})".format(*means).replace("0.", ".") if runs else "")
        lines.append(f"| {what} | {len(found[0])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def settings_table(study: Study) -> str:
    """What the trials chose, and how far the trials of a row lie apart."""
    settings = chosen(study.lines)
    lines = [
        "| row | trials | chosen | val recall@1 | val label_jaccard@8 | sum, best less worst trial |",
        "| --- |" + " --- |" * 5,
    ]
    for row in ROWS[1:]:
        trials = study.of("trials", row.name)
        if not trials or row.name not in settings:
            continue
        totals = [sum(float(line[f"val {m}"]) for m in SELECTED_BY) for line in trials]
        best = trials[totals.index(max(totals))]
        scores = " | ".join(f"{float(best[f'val {m}']):.3f}".removeprefix("0") for m in SELECTED_BY)
        flags = best["flags"].removeprefix(" ".join(row.flags)).strip()
        lines.append(f"| {row.title} | {len(trials)} | `{flags}` | {scores} | {max(totals) - min(totals):.3f} |")
    return "\n".join(lines)


def cost_table(study: Study) -> str:
    lines = [
        "| row | frozen: images/s | minutes | GB | fine-tuned: images/s | minutes | GB |",
        "| --- |" + " --- |" * 6,
    ]
    for row in ROWS[1:]:
        cells = []
        for tier in ("frozen", "finetuned"):
            if study.of(tier, row.name):
                summary = study.summary(tier, row.name)
                times = [f"{summary.images_per_second:,.0f}", f"{summary.minutes:.2f}"]
                cells += ["–", "–"] if math.isnan(summary.minutes) else times
                cells.append(f"{summary.memory:.1f}")
            else:
                cells += ["", "", ""]
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(study: Study) -> str:
    """What was run, where and when."""
    tiers = Counter(line["tier"] for line in study.lines)
    count = ", ".join(f"{tier} {number}" for tier, number in tiers.items())
    dates = sorted({line["date"] for line in study.lines})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    processors = ", ".join(sorted({line["processor"] for line in study.lines}))
    return (
        f"{len(study.lines)} runs ({count}; {TRIALS} trials a row), {days}, each on one thread of: {processors}. "
        "Made by `bash SampleRun.sh study`, drawn by `python -m utilities.study draw` from `docs/results`."
    )


def summary_table(study: Study) -> str:
    """For README: two measures of each tier, and seeds."""
    tiers = ["frozen", "finetuned"] if is_whole(study, "finetuned") else ["frozen"]
    lines = [
        "| row | " + " | ".join(f"{figures.TIERS[t]}: {m}" for t in tiers for m in reversed(PAIRED)) + " | seeds |"
    ]
    lines.append("| --- |" + " --- |" * (2 * len(tiers) + 1))
    for row in ROWS:
        summaries = {tier: study.summary(tier, row.name) for tier in tiers if study.of(tier, row.name)}
        if not summaries:
            continue
        cells = []
        for tier in tiers:
            for measure in reversed(PAIRED):
                best = max(study.summary(tier, other).means[measure] for other in study.rows(tier))
                own = summaries.get(tier)
                cells.append("" if own is None else cell(own, measure, bold=own.means[measure] == best))
        seeds = " / ".join(str(summary.seeds) for summary in summaries.values())
        lines.append(f"| {row.title} | " + " | ".join(cells) + f" | {seeds} |")
    return "\n".join(lines)


def summary_words(study: Study) -> str:
    """For README: who wins in each tier, and at what cost."""
    said = []
    for tier, name in figures.TIERS.items():
        if not study.rows(tier) or (tier == "finetuned" and not is_whole(study, tier)):
            continue
        minutes = [study.summary(tier, row.name).minutes for row in ROWS[1:] if study.of(tier, row.name)]
        low, high = np.nanmin(minutes), np.nanmax(minutes)  # of rows that were timed
        cost = f"{low:.0f} to {high:.0f} minutes" if high >= 2 else f"{60 * low:.0f} to {60 * high:.0f} seconds"
        said.append(f"**{name.capitalize()}**, {cost} of training on one thread. {words(study, tier, PAIRED[0])}")
        if tier == "finetuned":
            said[-1] += " " + words_of_fine_tuning(study, PAIRED[0])
    return "\n\n".join(said)


BLOCKS: dict[str, Callable[[Study], str]] = {
    "frozen": lambda study: scores_table(study, "frozen"),
    "frozen-pairs": lambda study: pairs_table(study, "frozen"),
    "frozen-words": lambda study: "\n\n".join(words(study, "frozen", measure) for measure in PAIRED),
    "finetuned": lambda study: scores_table(study, "finetuned"),
    "finetuned-words": finetuned_words,
    "grn": lambda study: scores_table(study, "grn"),
    "ablations": ablations_table,
    "shared": shared_table,
    "ablation-words": ablation_words,
    "grounds": grounds_table,
    "settings": settings_table,
    "cost": cost_table,
    "provenance": provenance,
    "summary": summary_table,
    "summary-words": summary_words,
}
