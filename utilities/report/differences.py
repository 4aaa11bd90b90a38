"""Which of several evaluated methods are better than which, by more than chance, and in which flags runs differ."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.flags.flag import spelled
from utilities.measures.formulae import LOWER_IS_BETTER
from utilities.measures.paired import Difference, compare, holm
from utilities.report.compared import Run, notes, shown, table

LEVEL = 0.05
HOW = (
    "Paired differences of means with 95 % intervals, by Student's t with the standard error of a bootstrap of queries "
    "and seeds together; * larger than chance: p < 0.05 after Holm's correction over the pairs of a measure."
)
UNRECORDED = "not recorded"  # by a version that had no such flag
ONE_SEED = (
    "one run each: what another seed would give is not in their intervals. Train with several --random_seed to compare "
    "methods rather than runs"
)


class Group(NamedTuple):
    """A method: runs of one recipe with different seeds, or a run by itself."""

    name: str
    runs: list[Run]

    def values(self, measure: str) -> Tensor:
        """(S, Q)."""
        return torch.stack([run.per_query[measure] for run in self.runs])

    def mean(self, measure: str) -> float:
        return float(self.values(measure).nanmean(1).mean())


class Pair(NamedTuple):
    """`one` less `other` in a measure; p_holm is corrected for the number of pairs."""

    measure: str
    one: str
    other: str
    difference: Difference
    p_holm: float

    @property
    def real(self) -> bool:
        """Larger than chance."""
        return self.p_holm < LEVEL


def by_recipe(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone together, in the order of the first of each; all others by themselves."""
    recipes: dict[str, list[Run]] = {}
    for run in runs:
        recipes.setdefault(run.recipe, []).append(run)
    found = []
    for same in recipes.values():
        apart = len({run.seed for run in same}) < len(same)  # one seed twice is no repetition
        found += [[run] for run in same] if apart else [same]
    return found


def groups(runs: Sequence[Run]) -> list[Group]:
    """`by_recipe`, named: a run by its name, several by their method and what sets its recipes apart."""
    parts = by_recipe(runs)
    named = []
    for part in parts:
        rivals = [other[0] for other in parts if len(other) > 1 and other[0].method == part[0].method]
        differing = differing_flags(rivals)
        prefix = f"{part[0].method}_"  # of the method's own flags, and said already
        own = ", ".join(f"{f.removeprefix(prefix)} {_said(_flags(part[0]), f)}" for f in differing)
        named.append(part[0].name if len(part) == 1 else part[0].method + (f" ({own})" if own else ""))
    return [Group(name, part) for name, part in zip(named, parts, strict=True)]


def differing_flags(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """flag -> value -> names of the runs that have it, for flags of which runs have different values.

    A flag that only some methods have is compared among their runs.
    """
    recipes = [_flags(run) for run in runs]
    found = {}
    for flag in sorted({flag for recipe in recipes for flag in recipe} - {"method"}):
        values: dict[str, list[str]] = {}
        methods = {run.method for run, recipe in zip(runs, recipes, strict=True) if flag in recipe}
        for run, recipe in zip(runs, recipes, strict=True):
            if recipe and run.method in methods:
                values.setdefault(_said(recipe, flag), []).append(run.name)
        if len(values) > 1:
            found[flag] = values
    return found


def _said(recipe: Mapping[str, Any], flag: str) -> str:
    return spelled(recipe[flag]) if flag in recipe else UNRECORDED


def _flags(run: Run) -> dict[str, Any]:
    return dict(json.loads(run.recipe)) if run.recipe else {}


def pairs(found: Sequence[Group]) -> list[Pair]:
    """Every pair of groups in every measure of the table; none where runs were asked different queries or kept none."""
    runs = [run for group in found for run in group.runs]
    asked = {tuple(run.query_names) for run in runs}
    if len(found) < 2 or len(asked) > 1 or notes(runs):
        return []
    compared = []
    for measure in shown(runs):
        if all(measure in run.per_query for run in runs):
            both = list(itertools.combinations(found, 2))
            differences = [compare(one.values(measure), other.values(measure)) for one, other in both]
            corrected = holm([difference.p for difference in differences])
            compared += [
                Pair(measure, one.name, other.name, difference, p)
                for (one, other), difference, p in zip(both, differences, corrected, strict=True)
            ]
    return compared


def markdown(found: Sequence[Group], compared: Sequence[Pair], flags: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """What to say about the runs below their table: flags, differences, and these in words."""
    parts = []
    if flags:
        parts += ["flags in which the runs differ", "", flags_markdown(flags), ""]
    if compared:
        parts += [HOW, "", pairs_markdown(compared), "", *in_words(found, compared)]
    return "\n".join(parts)


def flags_markdown(flags: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """One line a flag: each value with the runs that have it."""
    rows = [["flag", "value: runs"]]
    for flag, values in flags.items():
        rows.append([f"--{flag}", "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())])
    return table(rows)


def pairs_markdown(compared: Sequence[Pair]) -> str:
    """One line a pair, one column a measure."""
    measures = list(dict.fromkeys(pair.measure for pair in compared))
    rows = [["pair", *measures]]
    for one, other in dict.fromkeys((pair.one, pair.other) for pair in compared):
        cells = [_cell(pair) for pair in compared if (pair.one, pair.other) == (one, other)]
        rows.append([f"{one} − {other}", *cells])
    return table(rows)


def _cell(pair: Pair) -> str:
    value = pair.difference
    if math.isnan(value.p):
        return "-"
    return f"{value.difference:+.4f} [{value.low:+.4f}, {value.high:+.4f}]{' *' if pair.real else ''}"


def in_words(found: Sequence[Group], compared: Sequence[Pair]) -> list[str]:
    """Who is better than whom, a line a measure and group, the best first; and what cannot be said."""
    lines = []
    for measure in dict.fromkeys(pair.measure for pair in compared):
        lower = measure.split("@")[0] in LOWER_IS_BETTER
        order = sorted(found, key=lambda group, m=measure: group.mean(m), reverse=not lower)  # type: ignore[misc]
        lines.append(f"{measure}:")
        ahead = {group.name: _beaten(group.name, compared, measure, lower) for group in order}
        lines += [f"- {name} is better than {', '.join(beaten)}" for name, beaten in ahead.items() if beaten]
        open_ = [f"{p.one} and {p.other}" for p in compared if p.measure == measure and not p.real]
        if open_:
            lines.append(f"- no difference beyond chance between {'; '.join(open_)}")
    single = [group.name for group in found if len(group.runs) == 1]
    return [*lines, "", f"note: {', '.join(single)}: {ONE_SEED}"] if single else lines


def _beaten(name: str, compared: Sequence[Pair], measure: str, lower: bool) -> list[str]:
    """Groups than which `name` is better by more than chance, with by how much."""
    beaten = []
    for pair in compared:
        if pair.measure == measure and pair.real and name in (pair.one, pair.other):
            gain = pair.difference.difference * (1 if name == pair.one else -1)
            if (gain < 0) == lower:
                beaten.append(f"{pair.other if name == pair.one else pair.one} by {abs(gain):.4f}")
    return beaten


def rows(compared: Sequence[Pair]) -> list[dict[str, Any]]:
    """Plain values, one a pair and measure, for differences.csv and comparison.json."""
    return [
        {"measure": pair.measure, "one": pair.one, "other": pair.other}
        | {key: _plain(value) for key, value in pair.difference._asdict().items() if key != "seeds"}
        | {"seeds_one": pair.difference.seeds[0], "seeds_other": pair.difference.seeds[1]}
        | {"p_holm": _plain(pair.p_holm), "larger_than_chance": pair.real}
        for pair in compared
    ]


def _plain(value: float | int) -> float | int | None:
    return None if isinstance(value, float) and math.isnan(value) else value
