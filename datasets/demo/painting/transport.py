"""Recipes: aprons, airports, bridges, freeways, harbours, railways."""

from __future__ import annotations

import math

import numpy as np

from datasets.demo.painting.canvas import Canvas
from datasets.demo.painting.grounds import bridge, railway, road, runway, train
from datasets.demo.painting.objects import airplane, car, forest, hall, scatter_trees, ship, traffic
from datasets.demo.painting.scenes import (
    across,
    beyond,
    chance,
    house_rows,
    open_ground,
    parcels,
    scene,
    street,
    wild_beyond,
    winding,
)
from datasets.demo.painting.shapes import along, shaded, shifted, turned


@scene("airplane", extent=(90, 190))
def apron(canvas: Canvas) -> None:
    rng, reach, extent = canvas.rng, canvas.reach, canvas.extent
    canvas.ground("pavement", canvas.tone("concrete"))
    for x in np.arange(-reach, reach, 15):  # slabs
        for ends in ([(x, -reach), (x, reach)], [(-reach, x), (reach, x)]):
            canvas.line(ends, 0.3, shaded(canvas.tone("concrete"), 0.9))
    if chance(canvas, 0.4):
        canvas.polygon(beyond(canvas, 0.34 * extent), canvas.tone("grass"), "grass", 0)
    if chance(canvas, 0.45):
        hall(canvas, 0, -0.42 * extent, extent * rng.uniform(0.5, 1), 0.16 * extent, 0, 12)
    canvas.line(across(canvas, 0.26 * extent), 0.6, canvas.tone("yellow paint"))
    length, count = rng.uniform(24, 46), int(rng.integers(1, 5))
    heading = rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0, 0.15)
    for place in range(count):
        x = (place - (count - 1) / 2) * length * 1.15 + rng.normal(0, 2)
        size = length * rng.uniform(0.8, 1.1)
        airplane(canvas, x, rng.normal(0, 0.06) * extent, heading + rng.normal(0, 0.1), size)
    if chance(canvas, 0.4):
        for x, y, angle in along(across(canvas, -0.26 * extent), 14):
            if chance(canvas, 0.5):
                car(canvas, x, y + rng.normal(0, 2), angle)


@scene("airport", extent=(320, 560))
def airport(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.25):
        parcels(canvas, 0.2, 0.4)
    else:
        open_ground(canvas, soil=0.2)
    if chance(canvas, 0.5):
        scatter_trees(canvas, 30, (5, 9))
    y = rng.uniform(-0.15, 0.15) * extent
    parallel = y + rng.uniform(0.18, 0.25) * extent
    if chance(canvas, 0.8):  # taxiway
        canvas.line(across(canvas, parallel), 24, canvas.tone("concrete"), "pavement", 0)
        for x in rng.uniform(-0.4, 0.4, 2) * extent:
            canvas.line([(x, y), (x + 0.06 * extent, parallel)], 20, canvas.tone("concrete"), "pavement", 0)
    runway(canvas, y, rng.uniform(35, 60))
    if chance(canvas, 0.5):
        canvas.polygon(beyond(canvas, parallel), canvas.tone("concrete"), "pavement", 0)
        hall(canvas, 0, parallel + 0.24 * extent, 0.6 * extent, 40, 0, 14)
        for x in np.arange(-0.4 * extent, 0.4 * extent, 55):
            if chance(canvas, 0.7):
                airplane(canvas, x, parallel + 0.1 * extent, math.pi / 2, rng.uniform(32, 50))
    if chance(canvas, 0.3):
        airplane(canvas, rng.uniform(-0.3, 0.3) * extent, y, 0, rng.uniform(35, 55))


@scene("bridge", extent=(130, 280))
def bridge_over_water(canvas: Canvas) -> None:
    rng, extent, reach = canvas.rng, canvas.extent, canvas.reach
    open_ground(canvas, soil=0.2)
    if chance(canvas, 0.4):
        forest(canvas, wild_beyond(canvas, 0.2 * extent))
    course, width = winding(canvas, 0, 0.1), rng.uniform(0.25, 0.5) * extent
    if chance(canvas, 0.3):
        canvas.line(course, width, canvas.tone("sea"), "sea", 0)
    else:
        canvas.line(course, width * 1.08, canvas.tone("soil"), "bare soil", 0)
        canvas.line(course, width, canvas.tone("river"), "river", 0)
    scatter_trees(canvas, int(rng.integers(0, 40)), (3, 6))
    x, deck = rng.uniform(-0.15, 0.15) * extent, rng.uniform(9, 20)
    middle = course[int(np.argmin([abs(a - x) for a, _ in course]))][1]
    spans = [x, x + deck + 8] if chance(canvas, 0.2) else [x]
    for span in spans:
        road(canvas, [(span, -reach), (span, reach)], deck - 3)
        bridge(canvas, span, middle, width * 0.62, deck, rng.uniform(5, 10))
    if chance(canvas, 0.7):
        traffic(canvas, [(x, -reach), (x, reach)], (-deck / 5, deck / 5), 24)
    if chance(canvas, 0.2):
        ship(canvas, x + 0.3 * extent, middle, rng.choice([0, math.pi]), rng.uniform(12, 30))


@scene("freeway", extent=(90, 190))
def freeway(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.25):
        parcels(canvas, 0.3, 0.6)
    else:
        open_ground(canvas, soil=0.35)
    if chance(canvas, 0.3):
        forest(canvas, wild_beyond(canvas, 0.3 * extent))
    course = winding(canvas, rng.uniform(-0.1, 0.1) * extent, 0.05)
    width, median = rng.uniform(11, 15), rng.uniform(1, 4)
    for side in (-1, 1):
        way = shifted(course, 0, side * (width / 2 + median))
        road(canvas, way, width, markings=False)
        for lane in (-width / 6, width / 6):
            for x, y, direction in along(way, 8):
                dash = turned(x, y, direction, [(-2, lane), (2, lane)])
                canvas.line(dash, 0.35, canvas.tone("paint"))
        lanes = [side * abs(lane) * width for lane in (1 / 3, 0.02, 1 / 6)]
        traffic(canvas, way, lanes, rng.uniform(18, 50))
    if chance(canvas, 0.3):
        street(canvas, -0.38 * extent)
    scatter_trees(canvas, int(rng.integers(0, 45)), (2.5, 5))


@scene("harbor&port", extent=(110, 260))
def harbour(canvas: Canvas) -> None:
    rng, extent, reach = canvas.rng, canvas.extent, canvas.reach
    canvas.ground("sea", canvas.tone("sea"))
    quay = -rng.uniform(0.12, 0.3) * extent
    material = "pavement" if chance(canvas, 0.75) else "dock"
    canvas.polygon(beyond(canvas, quay), canvas.tone("concrete"), material, 2)
    if chance(canvas, 0.55):
        for x in np.arange(-reach, reach, rng.uniform(40, 70)):
            if chance(canvas, 0.7):
                hall(canvas, x, quay - 0.17 * extent, 34, 22, 0, rng.uniform(6, 14))
    if chance(canvas, 0.5):
        for x, y, angle in along(across(canvas, quay - 7), 7):
            if chance(canvas, 0.4):
                car(canvas, x, y, angle + rng.choice([0, math.pi / 2]))
    length = rng.uniform(9, 15) if chance(canvas, 0.6) else rng.uniform(24, 50)
    width, gap = rng.uniform(3, 5) * (1 + length / 40), 3.2 * length
    wharf = canvas.fresh("wood")
    for x in np.arange(-reach + rng.uniform(0, gap), reach, gap):
        end = quay + rng.uniform(0.35, 0.6) * extent
        canvas.line([(x, quay - 3), (x, end)], width, wharf, "dock", 1.5)
        for y in np.arange(quay + length / 2, end, 0.55 * length):
            for side in (-1, 1):
                if chance(canvas, 0.7):
                    berth, heading = x + side * (width / 2 + 0.55 * length), 0 if side > 0 else math.pi
                    ship(canvas, berth, y, heading, length * rng.uniform(0.8, 1.1))
    if chance(canvas, 0.2):
        x, angle = rng.uniform(-0.3, 0.3) * extent, rng.uniform(-0.3, 0.3)
        ship(canvas, x, 0.42 * extent, angle, 1.3 * length, wake=True)


@scene("railway", extent=(60, 140))
def railway_line(canvas: Canvas) -> None:
    rng, extent = canvas.rng, canvas.extent
    if chance(canvas, 0.3):
        parcels(canvas, 0.3, 0.6)
    else:
        open_ground(canvas, soil=0.4)
    tracks = int(rng.choice([1, 2, 2, 3, 5]))
    course = winding(canvas, rng.uniform(-0.15, 0.15) * extent, 0.04)
    railway(canvas, course, tracks)
    if chance(canvas, 0.4):
        train(canvas, course, 4.8 * (int(rng.integers(tracks)) - (tracks - 1) / 2), int(rng.integers(3, 9)))
    if chance(canvas, 0.4):
        house_rows(canvas, [-0.36 * extent], rng.uniform(18, 26), 0)
    if chance(canvas, 0.35):
        street(canvas, 0.36 * extent)
    if chance(canvas, 0.25):
        forest(canvas, wild_beyond(canvas, -0.3 * extent))
    scatter_trees(canvas, int(rng.integers(0, 40)), (2.5, 5))
