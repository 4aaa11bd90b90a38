"""Recipes: courts, commercial and industrial areas, residential areas, car parks, pools, tank farms."""

from __future__ import annotations

import math

import numpy as np

from datasets.demo.painting.canvas import Canvas
from datasets.demo.painting.grounds import basketball_court, parking_lot, railway, road, swimming_pool, tennis_court
from datasets.demo.painting.objects import VEGETATED, car, forest, hall, house, scatter_trees, tank, traffic, tree_row
from datasets.demo.painting.scenes import (
    across,
    beyond,
    chance,
    coast,
    house_rows,
    open_ground,
    scene,
    somewhere,
    street,
    wild_beyond,
    winding,
)
from datasets.demo.painting.shapes import box


def sports_ground(canvas: Canvas) -> None:
    """Grass, or a paved yard with a strip of it."""
    if chance(canvas, 0.55):
        open_ground(canvas)
    else:
        canvas.ground("pavement", canvas.tone("concrete"))
        canvas.polygon(beyond(canvas, canvas.rng.uniform(0.1, 0.4) * canvas.extent), canvas.tone("grass"), "grass", 0)


@scene("basketball_court", extent=(60, 110))
def basketball(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    sports_ground(canvas)
    count = int(rng.integers(1, 4))
    for place in range(count):
        basketball_court(canvas, rng.normal(0, 2), (place - (count - 1) / 2) * 22, 0)
    if chance(canvas, 0.4):
        hall(canvas, -0.42 * extent, rng.uniform(-0.2, 0.2) * extent, 18, 40, 0, 10)
    if chance(canvas, 0.4):
        street(canvas, -0.42 * extent)
    if chance(canvas, 0.25):
        tennis_court(canvas, 0.42 * extent, rng.uniform(-0.2, 0.2) * extent, math.pi / 2)
    scatter_trees(canvas, int(rng.integers(0, 22)), (2.5, 4.5), (*VEGETATED, "pavement"))


@scene("tennis_court", extent=(65, 130))
def tennis(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    sports_ground(canvas)
    count = int(rng.integers(1, 5))
    for place in range(count):
        tennis_court(canvas, rng.normal(0, 1), (place - (count - 1) / 2) * 18.5, 0)
    if chance(canvas, 0.25):
        basketball_court(canvas, 36, 0, math.pi / 2)
    if chance(canvas, 0.35):
        hall(canvas, -0.42 * extent, rng.uniform(-0.2, 0.2) * extent, 16, 30, 0, 8)
    if chance(canvas, 0.3):
        parking_lot(canvas, 0.42 * extent, 0, 18, 50, 0.6)
    elif chance(canvas, 0.3):
        street(canvas, 0.44 * extent)
    scatter_trees(canvas, int(rng.integers(0, 40)), (2.5, 4.5), (*VEGETATED, "pavement"))


@scene("commercial_area", extent=(130, 240))
def commercial_area(canvas: Canvas) -> None:
    rng, extent, reach = canvas.rng, canvas.extent, canvas.reach
    canvas.ground("pavement", canvas.tone("concrete"))
    block, half = rng.uniform(55, 80), rng.uniform(6, 8)
    corners = np.arange(-reach - rng.uniform(0, block), reach, block)
    for x in corners + block / 2:
        for y in corners + block / 2:
            city_block(canvas, x, y, block - 2 * half - 4)
    for offset in corners:
        for points in (across(canvas, offset), [(y, x) for x, y in across(canvas, offset)]):
            road(canvas, points, 2 * half - 4)
            traffic(canvas, points, (-2.2, 2.2), 20)
    if chance(canvas, 0.5):
        scatter_trees(canvas, int(extent / 3), (2, 3.5), ("pavement", "grass"))


def city_block(canvas: Canvas, x: float, y: float, room: float) -> None:
    """One large building, two, a car park or a lawn, within `room` metres."""
    rng = canvas.rng
    kind = rng.choice(["one", "two", "parking", "green"], p=[0.45, 0.3, 0.15, 0.1])
    if kind == "one":
        hall(canvas, x, y, room * rng.uniform(0.75, 1), room * rng.uniform(0.7, 1), 0, rng.uniform(8, 28))
    elif kind == "two":
        for side in (-0.25, 0.25):
            hall(canvas, x + side * room, y, 0.42 * room, 0.9 * room, 0, rng.uniform(8, 30))
    elif kind == "parking":
        parking_lot(canvas, x, y, room, room, rng.uniform(0.4, 0.9))
    else:
        canvas.polygon(box(x, y, room, room), canvas.tone("grass"), "grass", 0)


@scene("industrial_area", extent=(150, 320))
def industrial_area(canvas: Canvas) -> None:
    rng, extent, reach = canvas.rng, canvas.extent, canvas.reach
    if chance(canvas, 0.3):
        open_ground(canvas, soil=0.8)
    else:
        canvas.ground("pavement", canvas.tone("concrete"))
    gaps, y = [], -reach
    while y < reach:
        depth, x = rng.uniform(28, 60), -reach
        while x < reach:
            length = rng.uniform(30, 95)
            if chance(canvas, 0.75):
                hall(canvas, x + length / 2, y + depth / 2, length, depth, 0, rng.uniform(7, 15))
            x += length + rng.uniform(6, 22)
        gaps.append(y + depth + 10)
        y += depth + 20
    way = min(gaps, key=abs)
    if chance(canvas, 0.35):
        railway(canvas, across(canvas, way), 2)
    else:
        street(canvas, way, 9, 22)
    if chance(canvas, 0.35):
        for place in range(int(rng.integers(2, 6))):
            tank(canvas, -0.25 * extent + 22 * place, way + 20, rng.uniform(6, 9))
    if chance(canvas, 0.4):
        scatter_trees(canvas, 40, (3, 5), ("pavement", *VEGETATED))


@scene("dense_residential_area", extent=(100, 170))
def dense_residential_area(canvas: Canvas) -> None:
    rng, reach = canvas.rng, canvas.reach
    open_ground(canvas, soil=0.25)
    spacing, block = rng.uniform(13, 18), rng.uniform(46, 58)
    streets = np.arange(-reach - rng.uniform(0, block), reach + block, block)
    pools = rng.choice([0, 0, 0.15])
    for y in streets:
        house_rows(canvas, [y + 0.24 * block, y + 0.76 * block], spacing, pools)
    for y in streets:
        road(canvas, across(canvas, y), 7, markings=False)
        traffic(canvas, across(canvas, y), (-2.6, 2.6), 13)
    scatter_trees(canvas, int(rng.integers(10, 60)), (1.8, 3.6))


@scene("sparse_residential_area", extent=(80, 160))
def sparse_residential_area(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    open_ground(canvas, soil=0.2)
    if chance(canvas, 0.35):
        forest(canvas, wild_beyond(canvas, rng.uniform(0.2, 0.35) * extent))
    if chance(canvas, 0.75):
        road(canvas, winding(canvas, -0.33 * extent, 0.04), 6, markings=False)
    count = int(rng.integers(1, 4))
    for place in range(count):
        x = ((place + 0.5) / count - 0.5) * 0.8 * extent + rng.normal(0, 3)
        y = rng.uniform(-0.14, 0.22) * extent
        homestead(canvas, x, y, rng.normal(0, 0.5))
    scatter_trees(canvas, int(rng.integers(8, 45)), (2.5, 5.5))


def homestead(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """A house, perhaps with a wing, a pool and a car on the drive."""
    rng = canvas.rng
    canvas.line([(x, y), (x, -0.33 * canvas.extent)], 4, canvas.tone("concrete"), "unlabelled", 0)
    house(canvas, x, y, rng.uniform(14, 22), rng.uniform(9, 13), angle)
    if chance(canvas, 0.5):
        house(canvas, x + 8 * math.cos(angle), y + 8 * math.sin(angle), 12, 9, angle + math.pi / 2)
    if chance(canvas, 0.35):
        swimming_pool(canvas, x + rng.normal(0, 5), y + 17, rng.uniform(8, 12), angle)
    if chance(canvas, 0.4):
        car(canvas, x + 1, y - 12, math.pi / 2)


@scene("swimmimg_pool", extent=(45, 95))
def pool_garden(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    sports_ground(canvas)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        swimming_pool(canvas, *somewhere(canvas, 0.25), rng.uniform(9, 24), rng.uniform(0, math.pi))
    if chance(canvas, 0.7):
        x = rng.uniform(-0.2, 0.2) * extent
        house(canvas, x, -0.38 * extent, rng.uniform(16, 30), rng.uniform(9, 14), rng.normal(0, 0.1))
    if chance(canvas, 0.2):
        street(canvas, 0.42 * extent)
    if chance(canvas, 0.15):
        tennis_court(canvas, 0.3 * extent, 0.3 * extent, 0)
    scatter_trees(canvas, int(rng.integers(3, 30)), (1.8, 4), (*VEGETATED, "pavement"))


@scene("parking_lot", extent=(70, 150))
def car_park(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    open_ground(canvas)
    length, width = extent * rng.uniform(0.7, 1.3), extent * rng.uniform(0.5, 0.9)
    parking_lot(canvas, 0, 0, length, width, rng.uniform(0.25, 0.9))
    if chance(canvas, 0.45):
        hall(canvas, 0, -width / 2 - 14, length, 24, 0, rng.uniform(8, 16))
    if chance(canvas, 0.35):
        street(canvas, width / 2 + 6)
    if chance(canvas, 0.4):
        for row in (-width / 2, 0, width / 2):
            tree_row(canvas, across(canvas, row), 2.6, (*VEGETATED, "parking lot"))
    scatter_trees(canvas, int(rng.integers(0, 25)), (2.5, 4.5))


@scene("storage_tank", extent=(110, 260))
def tank_farm(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.35):
        canvas.ground("pavement", canvas.tone("concrete"))
    else:
        open_ground(canvas, soil=0.5)
    if chance(canvas, 0.25):
        coast(canvas, 0.34 * extent, foam=False)
    radius, count = rng.uniform(0.05, 0.11) * extent, int(rng.integers(1, 4))
    spacing = radius * rng.uniform(2.5, 3.1)
    left, top = rng.uniform(-0.1, 0.1, 2) * extent - (count - 1) / 2 * spacing
    road(canvas, across(canvas, top - spacing * 0.75), 7, markings=False)
    for i in range(count):
        for j in range(max(1, count - int(rng.integers(0, 2)))):
            tank(canvas, left + i * spacing, top + j * spacing, radius * rng.uniform(0.75, 1.05))
    if chance(canvas, 0.4):
        hall(canvas, -0.38 * extent, 0.1 * extent, 18, 40, 0, 7)
    if chance(canvas, 0.3):
        traffic(canvas, across(canvas, top - spacing * 0.75), (-1.7, 1.7), 18)
    scatter_trees(canvas, int(rng.integers(0, 25)), (2.5, 5))
