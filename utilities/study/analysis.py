"""What the tables of the study say: means over seeds, intervals, paired differences, and the sentences about them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utilities.measures.paired import Difference, compare, holm
from utilities.study.plan import ABLATIONS, REFERENCES, ROWS
from utilities.study.table import MEASURES

LEVEL = 0.05  # of the whole family of comparisons of a measure, after Holm's correction
ABLATED = {"frozen": "ablation", "finetuned": "finetuned-ablation"}  # tier -> that of its variants
Lines = Sequence[Mapping[str, str]]


class Summary(NamedTuple):
    """A row of a tier: mean and standard deviation over seeds of every measure, intervals of the paired ones, and what
    its runs cost, medians."""

    row: str
    title: str
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    minutes: float
    images_per_second: float
    memory: float


class Study:
    """The tables, by tier and row."""

    def __init__(self, lines: Lines, queries: Mapping[tuple[str, str], np.ndarray]) -> None:
        self.lines, self.queries = lines, queries

    def of(self, tier: str, row: str) -> list[Mapping[str, str]]:
        found = [line for line in self.lines if line["tier"] == tier and line["row"] == row]
        return sorted(found, key=lambda line: int(line["seed"]))

    def rows(self, tier: str) -> list[str]:
        """Rows of a tier with a run, in the order of the plan."""
        named = [row.name for row in ROWS] + list(ABLATIONS)
        return [name for name in named if self.of(tier, name)]

    def values(self, tier: str, row: str, measure: str) -> Tensor:
        """(S, Q) of the runs whose queries' scores are kept."""
        found = [self.queries.get((line["name"], measure)) for line in self.of(tier, row)]
        kept = [torch.from_numpy(scores) for scores in found if scores is not None]
        return torch.stack(kept) if kept else torch.empty(0, 0, dtype=torch.float64)

    def summary(self, tier: str, row: str) -> Summary:
        lines = self.of(tier, row)
        means, deviations, intervals = {}, {}, {}
        for measure in MEASURES:
            scores = [float(line[measure]) for line in lines if line[measure]]
            if not scores:
                continue
            means[measure] = statistics.mean(scores)
            deviations[measure] = statistics.stdev(scores) if len(scores) > 1 else math.nan
            values = self.values(tier, row, measure)
            if len(values):
                whole = compare(values, torch.zeros(1, values.shape[1], dtype=torch.float64))
                intervals[measure] = (whole.low, whole.high)
        cost = {  # medians: a run beside which others worked took longer, by what is none of the method's
            name: statistics.median([float(line[name]) for line in lines if line[name]] or [math.nan])
            for name in ("minutes", "images_per_second", "memory_gb")
        }
        return Summary(row, title(row), len(lines), means, deviations, intervals, *cost.values())

    def differences(
        self, tier: str, rows: Sequence[str], measure: str
    ) -> dict[tuple[str, str], tuple[Difference, float]]:
        """(row, other row) -> the difference of every pair, and its p after Holm's correction over all of them."""
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        return self._compared([(tier, a, tier, b) for a, b in pairs], measure)

    def ablations(self, tier: str, measure: str) -> dict[tuple[str, str], tuple[Difference, float]]:
        """(variant, its method) -> the variant less the whole method, with p after Holm over all variants of the
        tier."""
        ablated = ABLATED[tier]
        wanted = [(ablated, v, tier, row) for v, (row, _) in ABLATIONS.items() if self.of(ablated, v)]
        return self._compared([w for w in wanted if self.of(tier, w[3])], measure)

    def fine_tuning(self, measure: str) -> dict[tuple[str, str], tuple[Difference, float]]:
        """(row, row) -> its fine-tuned networks less its heads on stored features, with p after Holm over all rows."""
        rows = [row for row in self.rows("finetuned") if self.of("frozen", row)]
        return self._compared([("finetuned", row, "frozen", row) for row in rows], measure)

    def _compared(
        self, wanted: Sequence[tuple[str, str, str, str]], measure: str
    ) -> dict[tuple[str, str], tuple[Difference, float]]:
        found = [compare(self.values(t, a, measure), self.values(u, b, measure)) for t, a, u, b in wanted]
        adjusted = holm([difference.p for difference in found])
        return {(a, b): (d, p) for (_, a, _, b), d, p in zip(wanted, found, adjusted, strict=True)}


def title(row: str) -> str:
    """As tables name a row, or a variant."""
    return next((known.title for known in ROWS if known.name == row), row)


def larger_than_chance(a: str, b: str, differences: Mapping[tuple[str, str], tuple[Difference, float]]) -> bool:
    return (differences[a, b] if (a, b) in differences else differences[b, a])[1] < LEVEL


def words(study: Study, tier: str, measure: str) -> str:
    """Who wins, all that are not told from it wherever they stand, and what is larger than chance, in sentences."""
    rows = sorted(study.rows(tier), key=lambda row: -study.summary(tier, row).means[measure])
    if len(rows) < 2:
        return ""
    differences = study.differences(tier, rows, measure)
    best, *others = rows
    near = [title(row) for row in others if not larger_than_chance(best, row, differences)]
    first = f"{title(best)} is best"
    if near:
        verb = "are" if len(near) > 1 else "is"
        first = f"{title(best)} has the highest mean, and {listed(near)} {verb} not told from it"
    total = len(differences)
    clear = sum(p < LEVEL for _, p in differences.values())
    said = [
        f"By {measure}, {first}; {clear} of the {total} pairs of rows differ by more than chance "
        f"(p < {LEVEL:g} after Holm's correction)."
    ]
    for reference, named in REFERENCES.items():
        if reference not in rows:
            continue
        others = [row for row in rows if row != reference]
        clear_of = [row for row in others if larger_than_chance(row, reference, differences)]
        above = [title(row) for row in clear_of if signed(row, reference, differences) > 0]
        below = [title(row) for row in clear_of if signed(row, reference, differences) < 0]
        rest = [title(row) for row in others if row not in clear_of]
        for names, what in ((above, "better than"), (below, "worse than"), (rest, "not told from")):
            if names:
                said.append(f"{what.capitalize()} {named}: {listed(names)}.")
    return " ".join(said)


def words_of_fine_tuning(study: Study, measure: str) -> str:
    """What training all weights adds to training heads, in a sentence."""
    gains = study.fine_tuning(measure)
    ranked = sorted(gains, key=lambda pair: gains[pair][0].difference)
    if not ranked:
        return ""
    ends = [f"{gains[pair][0].difference:+.3f} ({title(pair[0])})" for pair in (ranked[0], ranked[-1])]
    clear = [title(row) for row, _ in ranked if gains[row, row][1] < LEVEL]
    return (
        f"Beside heads on stored features of the same row, {measure} changes by {ends[0]} to {ends[1]}; beyond chance "
        f"(p < {LEVEL:g} after Holm over {len(ranked)} rows) for {listed(clear) if clear else 'none'}."
    )


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def signed(a: str, b: str, differences: Mapping[tuple[str, str], tuple[Difference, float]]) -> float:
    """a less b, whichever way round the pair is kept."""
    return differences[a, b][0].difference if (a, b) in differences else -differences[b, a][0].difference
