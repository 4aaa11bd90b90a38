"""Recipes: bare land, beach, farmland, forest, lake, meadow, river."""

from __future__ import annotations

import math

import numpy as np

from datasets.demo.painting.canvas import Canvas
from datasets.demo.painting.grounds import bridge, road
from datasets.demo.painting.objects import VEGETATED, field, forest, hall, house, scatter_trees, ship, tree_row
from datasets.demo.painting.scenes import (
    across,
    beyond,
    chance,
    coast,
    everywhere,
    house_rows,
    open_ground,
    parcels,
    scene,
    somewhere,
    street,
    wild_beyond,
    winding,
)
from datasets.demo.painting.shapes import blob, shaded, shifted


@scene("bareland", extent=(100, 260))
def bareland(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    canvas.ground("bare soil", canvas.tone("soil"))
    for _ in range(8):
        outline = blob(rng, *somewhere(canvas, 0.7), extent * rng.uniform(0.05, 0.2), 0.4)
        canvas.polygon(outline, shaded(canvas.tone("soil"), rng.uniform(0.9, 1.1)))
    for _ in range(3):
        track = winding(canvas, rng.normal(0, 0.3) * extent, 0.2)
        canvas.line(track, 1.2, shaded(canvas.tone("soil"), rng.choice([0.85, 1.15])))
    if chance(canvas, 0.4):
        outline = blob(rng, *somewhere(canvas, 0.4), 0.22 * extent, 0.4)
        canvas.patch(outline, canvas.tone("grass"), "grass", ragged=0.06 * extent)
    if chance(canvas, 0.4):
        street(canvas, rng.uniform(-0.4, 0.4) * extent)
    if chance(canvas, 0.3):
        hall(canvas, *somewhere(canvas, 0.3), 30, 18, rng.uniform(0, 3), 7)
    if chance(canvas, 0.5):
        scatter_trees(canvas, 12, (2, 4))


@scene("beach", extent=(120, 280))
def beach(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    canvas.ground("sand", canvas.tone("sand"))
    shore = coast(canvas, rng.uniform(-0.12, 0.2) * extent)
    canvas.line(shifted(shore, 0, -5), 7, shaded(canvas.tone("sand"), 0.85))  # wet sand
    if chance(canvas, 0.6):
        land = wild_beyond(canvas, -rng.uniform(0.2, 0.42) * extent)
        canvas.patch(land, canvas.tone("grass"), "grass", ragged=0.03 * extent)
        scatter_trees(canvas, int(rng.integers(4, 40)), (2.5, 5), ("grass",))
    if chance(canvas, 0.3):
        street(canvas, -0.4 * extent)
    if chance(canvas, 0.2):
        house_rows(canvas, [-0.42 * extent], 20, 0.1)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        where = (rng.uniform(-0.3, 0.3) * extent, 0.38 * extent)
        ship(canvas, *where, rng.uniform(0, 6), rng.uniform(9, 22), wake=True)


@scene("farmland", extent=(200, 480))
def farmland(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    parcels(canvas, 0.25, 0.7)
    if chance(canvas, 0.4):
        canvas.line(winding(canvas, rng.uniform(-0.3, 0.3) * extent, 0.04), 5, canvas.tone("soil"), "bare soil", 0)
    elif chance(canvas, 0.6):
        street(canvas, rng.uniform(-0.3, 0.3) * extent, spacing=70)
    if chance(canvas, 0.5):
        tree_row(canvas, across(canvas, rng.uniform(-0.4, 0.4) * extent), rng.uniform(4, 6))
    if chance(canvas, 0.25):
        for _ in range(3):
            hall(canvas, *somewhere(canvas, 0.15), 30, 15, rng.uniform(0, 3), 7)
    if chance(canvas, 0.25):
        forest(canvas, blob(rng, *somewhere(canvas, 0.3), 0.17 * extent))


@scene("forest", extent=(90, 220))
def woodland(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    open_ground(canvas, soil=0.3)
    forest(canvas, everywhere(canvas))
    if chance(canvas, 0.5):  # a second stand
        forest(canvas, blob(rng, *somewhere(canvas, 0.4), 0.4 * extent))
    if chance(canvas, 0.45):
        clearing = blob(rng, *somewhere(canvas, 0.3), rng.uniform(0.14, 0.26) * extent, 0.4)
        material, tone = [("grass", "grass"), ("bare soil", "soil")][int(rng.integers(2))]
        canvas.patch(clearing, canvas.tone(tone), material, ragged=4)
    if chance(canvas, 0.3):
        road(canvas, winding(canvas, 0, 0.15), rng.uniform(4, 7), markings=False)
    if chance(canvas, 0.12):
        canvas.polygon(blob(rng, *somewhere(canvas, 0.2), 0.2 * extent), canvas.tone("lake"), "lake", 0)


@scene("lake", extent=(170, 400))
def lake(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.25):
        parcels(canvas, 0.2, 0.5)
    else:
        open_ground(canvas, soil=0.25)
    if chance(canvas, 0.5):
        for _ in range(2):
            forest(canvas, blob(rng, *somewhere(canvas, 0.5), 0.26 * extent, 0.35))
    x, y = somewhere(canvas, 0.15)
    shore = blob(rng, 0, 0, rng.uniform(0.22, 0.4) * extent, 0.35)
    material, tone = [("bare soil", "soil"), ("sand", "sand"), (None, None)][int(rng.integers(3))]
    if tone:
        bank = [(x + 1.15 * a, y + 1.15 * b) for a, b in shore]
        canvas.patch(bank, canvas.tone(tone), material, ragged=0.03 * extent)
    for part, light in ((1.0, 1.18), (0.93, 1.08), (0.85, 1.0)):
        ring = [(x + part * a, y + part * b) for a, b in shore]
        canvas.polygon(ring, shaded(canvas.tone("lake"), light), "lake", 0)
    if chance(canvas, 0.2):
        ship(canvas, x, y, rng.uniform(0, 6), rng.uniform(9, 14))
    if chance(canvas, 0.25):
        street(canvas, -0.44 * extent, spacing=50)
    scatter_trees(canvas, int(rng.integers(0, 40)), (3, 6))


@scene("meadow", extent=(90, 260))
def meadow(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    open_ground(canvas)
    if chance(canvas, 0.3):  # mown
        canvas.furrows(beyond(canvas, rng.uniform(0.01, 0.4) * extent), 0, rng.uniform(5, 12), 0.05)
    if chance(canvas, 0.3):  # a ploughed or sown neighbour of much the same tones
        field(canvas, beyond(canvas, -rng.uniform(0.1, 0.4) * extent), rng.choice([0, math.pi / 2]))
    if chance(canvas, 0.35):
        outline = blob(rng, *somewhere(canvas, 0.3), 0.2 * extent)
        canvas.patch(outline, canvas.tone("soil"), "bare soil", ragged=0.06 * extent)
    if chance(canvas, 0.25):
        road(canvas, winding(canvas, 0.1 * extent, 0.15), 6)
    if chance(canvas, 0.2):
        house(canvas, *somewhere(canvas, 0.3), 18, 11, rng.uniform(0, 3))
    if chance(canvas, 0.3):
        forest(canvas, wild_beyond(canvas, rng.uniform(0.2, 0.4) * extent))
    scatter_trees(canvas, int(rng.integers(0, 30)), (3, 6))


@scene("river", extent=(160, 380))
def river(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.5):
        parcels(canvas, 0.25, 0.5)
    else:
        open_ground(canvas, soil=0.15)
    if chance(canvas, 0.4):
        forest(canvas, wild_beyond(canvas, rng.uniform(0.05, 0.3) * extent))
    course, width = winding(canvas, 0, 0.16), rng.uniform(0.1, 0.22) * extent
    material, tone = [("sand", "sand"), ("bare soil", "soil"), ("grass", "grass")][int(rng.integers(3))]
    bank = shifted(course, 0, rng.normal(0, 0.12) * width)
    canvas.line(bank, width * rng.uniform(1.2, 1.6), canvas.tone(tone), material, 0)
    canvas.line(course, width, shaded(canvas.tone("river"), 1.12), "river", 0)
    canvas.line(course, width * 0.75, canvas.tone("river"), "river", 0)
    if chance(canvas, 0.18):
        road(canvas, [(0, -canvas.reach), (0, canvas.reach)], 8)
        middle = course[int(np.argmin([abs(x) for x, _ in course]))][1]
        bridge(canvas, 0, middle, 0.9 * width, 12, 7)
    for side in (-1, 1):
        if chance(canvas, 0.6):
            line = shifted(course, 0, side * width * 0.75)
            tree_row(canvas, line, rng.uniform(3.5, 5.5), (*VEGETATED, "sand"))
    scatter_trees(canvas, int(rng.integers(0, 20)), (3, 6))
