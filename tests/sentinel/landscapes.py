"""Sentinel-2 patches of 1.2 km: land cover classes, their parcels, and the twelve bands that see them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tests.sentinel.spectra import BANDS, COVER_NAMES, COVERS, LANDSCAPES, SURFACES, Landscape, spectra_of

SIDES = dict.fromkeys(("B02", "B03", "B04", "B08"), 120) | {"B01": 20, "B09": 20}  # the others: 60
SIZE = 240  # truth is painted at 5 m
METRES = 1200 / SIZE
BEACH = "Beaches, dunes, sands"
TABLE = 64  # cells are told apart by their place in a table of TABLE x TABLE random numbers
# How each band follows the vigour of vegetation: red falls while the near infrared rises.
VIGOUR = (-0.2, -0.4, -0.2, -0.9, -0.3, 0.6, 0.9, 1.0, 1.0, 1.0, -0.2, -0.5)
LEAST_SHARE = 0.03  # of the patch that a class must cover to be one of its labels


class Patch(NamedTuple):
    """bands: name -> (side, side) uint16; labels: CLC classes, the largest first; shares: class -> share.

    classes (SIZE, SIZE) int64: row of every 5 m of truth in COVER_NAMES.
    """

    bands: dict[str, np.ndarray]
    labels: tuple[str, ...]
    shares: dict[str, float]
    classes: np.ndarray


class Cells(NamedTuple):
    """A cellular partition: the cell of every pixel, and its distance to the cell's border (in cells)."""

    cell: np.ndarray
    border: np.ndarray


def paint(landscape: str, season: str, seed: int) -> Patch:
    """A patch of the landscape; equal seeds give equal patches."""
    rng = np.random.default_rng(seed)
    recipe = LANDSCAPES[landscape]
    classes = _classes(rng, recipe)
    surface, speckle, tone = _surfaces(rng, classes)
    _draw_roofs(rng, classes, surface)
    _draw_roads(rng, recipe.roads, classes, surface)
    shares = np.bincount(classes.ravel(), minlength=len(COVER_NAMES)) / classes.size
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= LEAST_SHARE]
    return Patch(
        bands=_sense(rng, surface, speckle, tone, season),
        labels=tuple(COVER_NAMES[i] for i in order),
        shares={COVER_NAMES[i]: float(shares[i]) for i in np.flatnonzero(shares)},
        classes=classes,
    )


def _smooth(rng: np.random.Generator, cells: int) -> np.ndarray:
    """(SIZE, SIZE) float32 noise with grains of SIZE / cells pixels."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _cells(rng: np.random.Generator, metres: float, *, natural: bool, stretch: float = 1.0) -> Cells:
    """Cells about `metres` wide and `stretch` times as long, turned at random.

    Natural cells have wandering borders; the others are bounded by straight lines, mostly at right angles, as
    the nearest seed by max(|dx|, |dy|) bounds them.
    """
    rows, columns = (np.mgrid[:SIZE, :SIZE] * METRES).astype(np.float32)
    angle = rng.uniform(0, math.pi)
    u = (columns * math.cos(angle) + rows * math.sin(angle)) / (metres * stretch) + 20
    v = (rows * math.cos(angle) - columns * math.sin(angle)) / metres + 30
    wander, grains = (0.2, round(2400 / metres)) if natural else (0.06, 4)
    u, v = u + wander * _smooth(rng, max(4, grains)), v + wander * _smooth(rng, max(4, grains))
    jitter = rng.uniform(0.15, 0.85, (2, TABLE * TABLE)).astype(np.float32)
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    nearest = np.full((SIZE, SIZE), np.inf, np.float32)
    second, cell = nearest.copy(), np.zeros((SIZE, SIZE), np.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = row + down, column + right
            place = (i % TABLE) * TABLE + j % TABLE
            dx, dy = u - j - jitter[0][place], v - i - jitter[1][place]
            distance = dx * dx + dy * dy if natural else np.maximum(np.abs(dx), np.abs(dy))
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            cell = np.where(closer, place, cell)
            nearest = np.where(closer, distance, nearest)
    if natural:
        nearest, second = np.sqrt(nearest), np.sqrt(second)
    return Cells(cell, second - nearest)


def _classes(rng: np.random.Generator, recipe: Landscape) -> np.ndarray:
    """(SIZE, SIZE) class of every pixel: wandering regions, and the landscape's water."""
    names, weights = list(recipe.covers), np.array(list(recipe.covers.values()), float)
    codes = np.array([COVER_NAMES.index(name) for name in names])
    chosen = rng.choice(len(codes), min(len(codes), int(rng.integers(2, 4))), False, weights / weights.sum())
    share = weights[chosen] / weights[chosen].sum()
    regions = _cells(rng, 1200 / recipe.regions, natural=True)
    classes = rng.choice(codes[chosen], TABLE * TABLE, p=share)[regions.cell]
    if recipe.water:
        classes[_water(rng, recipe.water)] = COVER_NAMES.index(recipe.water)
        if recipe.water == "Sea and ocean" and rng.random() < 0.75:
            classes[_shore(classes == COVER_NAMES.index(recipe.water))] = COVER_NAMES.index(BEACH)
    return classes


def _shore(sea: np.ndarray) -> np.ndarray:
    """(SIZE, SIZE) bool: the land within some 40 m of the sea."""
    near = Image.fromarray(sea).convert("L").filter(ImageFilter.BoxBlur(40 / METRES))
    return (np.asarray(near) > 25) & ~sea


def _water(rng: np.random.Generator, kind: str) -> np.ndarray:
    """(SIZE, SIZE) bool: a lake, a river or everything beyond a shore."""
    rows, columns = (np.mgrid[:SIZE, :SIZE] / SIZE - 0.5).astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    along, away = (
        columns * math.cos(angle) + rows * math.sin(angle),
        rows * math.cos(angle) - columns * math.sin(angle),
    )
    wobble = 0.05 * _smooth(rng, 6) + 0.02 * _smooth(rng, 18)
    if kind == "Sea and ocean":
        return away + wobble > rng.uniform(-0.15, 0.25)
    if kind == "Water courses":
        course = 0.12 * np.sin(along * rng.uniform(4, 9) + rng.uniform(0, 6)) + rng.uniform(-0.15, 0.15)
        return np.abs(away + course + 0.4 * wobble) < rng.uniform(0.03, 0.08)
    x, y = rng.uniform(-0.3, 0.3, 2)
    radius, stretch = rng.uniform(0.18, 0.38), rng.uniform(0.5, 1.2)
    return np.hypot(along - x, (away - y) / stretch) + 1.3 * wobble < radius


def _surfaces(rng: np.random.Generator, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface index, speckle amplitude and brightness of every pixel, (SIZE, SIZE) each."""
    surface = np.zeros((SIZE, SIZE), np.int64)
    speckle, tone = np.zeros((SIZE, SIZE), np.float32), np.ones((SIZE, SIZE), np.float32)
    for code in np.unique(classes):
        cover, inside = COVERS[COVER_NAMES[code]], classes == code
        weights = np.array(list(cover.mix.values()), float)
        choices = [SURFACES.index(name) for name in cover.mix]
        parcels = _cells(rng, cover.parcel, natural=cover.natural, stretch=rng.uniform(1, 2.2))
        of_cell = rng.choice(choices, TABLE * TABLE, p=weights / weights.sum())
        tone_of_cell = rng.normal(1, 0.05 if cover.natural else 0.12, TABLE * TABLE).clip(0.7, 1.35).astype(np.float32)
        surface[inside] = of_cell[parcels.cell][inside]
        tone[inside] = tone_of_cell[parcels.cell][inside]
        speckle[inside] = cover.speckle
        if cover.hedges:
            hedge = inside & (parcels.border * cover.parcel < cover.hedges)
            surface[hedge], speckle[hedge] = SURFACES.index("broad-leaved"), 0.1
    return surface, speckle, tone


def _draw_roofs(rng: np.random.Generator, classes: np.ndarray, surface: np.ndarray) -> None:
    """Buildings of 10 to 30 m on the classes that have them."""
    layer = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(layer)
    roofs = [SURFACES.index(name) for name in ("red roof", "grey roof", "bright roof")]
    for code in np.unique(classes):
        density = COVERS[COVER_NAMES[code]].roofs
        rows, columns = np.nonzero(classes == code)
        count = int(density * len(rows) * METRES**2 / 10_000)
        for place in rng.integers(0, len(rows), count):
            x, y = columns[place], rows[place]
            right, bottom = (x, y) + rng.integers(1, 5, 2)
            draw.rectangle((x, y, right, bottom), fill=int(rng.choice(roofs, p=[0.5, 0.38, 0.12])))
    drawn = np.asarray(layer)
    surface[drawn > 0] = drawn[drawn > 0]


def _draw_roads(rng: np.random.Generator, count: int, classes: np.ndarray, surface: np.ndarray) -> None:
    """Roads and tracks that wind across the land; too narrow to be a class of their own."""
    layer = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(layer)
    t = np.linspace(-0.75, 0.75, 30)
    for _ in range(count):
        angle, offset = rng.uniform(0, math.pi), rng.uniform(-0.35, 0.35)
        bend = offset + 0.06 * np.sin(t * rng.uniform(3, 8) + rng.uniform(0, 6))
        xs, ys = (
            t * math.cos(angle) - bend * math.sin(angle) + 0.5,
            t * math.sin(angle) + bend * math.cos(angle) + 0.5,
        )
        draw.line(list(zip(xs * SIZE, ys * SIZE, strict=True)), fill=1, width=int(rng.integers(1, 4)))
    wet = [COVER_NAMES.index(name) for name in ("Sea and ocean", "Water bodies")]
    road = (np.asarray(layer) > 0) & ~np.isin(classes, wet)
    surface[road] = SURFACES.index("asphalt")


def _sense(
    rng: np.random.Generator, surface: np.ndarray, speckle: np.ndarray, tone: np.ndarray, season: str
) -> dict[str, np.ndarray]:
    """What the instrument records: each band at its resolution, with its noise, as digital numbers."""
    table = spectra_of(season)
    light = tone * (1 + 0.02 * _smooth(rng, 8) + speckle * rng.standard_normal((SIZE, SIZE), np.float32))
    green = table[:, BANDS.index("B08")] > 2 * table[:, BANDS.index("B04")]
    vigour = (0.06 * _smooth(rng, 24) + 0.04 * _smooth(rng, 60)) * green[surface]
    haze = max(0.0, rng.normal(20, 40))
    bands = {}
    for i, band in enumerate(BANDS):
        side = SIDES.get(band, 60)
        field = table[:, i][surface] * light * (1 + VIGOUR[i] * vigour)
        seen = field.reshape(side, SIZE // side, side, SIZE // side).mean((1, 3))
        seen = seen + haze * max(0, 1 - i / 4) + rng.normal(0, 6 + 0.006 * seen)
        bands[band] = seen.clip(1, 15_000).round().astype(np.uint16)
    return bands
