"""Ways and places of the demo's scenes: roads, rails, runways, bridges, car parks, courts, pools."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from datasets.demo.painting.canvas import Canvas, Point
from datasets.demo.painting.objects import car
from datasets.demo.painting.shapes import along, blob, box, shaded, shifted, turned


def road(canvas: Canvas, points: Sequence[Point], width: float, markings: bool = True) -> None:
    """An asphalt road with a pale verge, edge lines and a dashed centre line."""
    canvas.line(points, width + 1.6, shaded(canvas.tone("concrete"), 0.92), "unlabelled", 0)
    canvas.line(points, width, canvas.tone("asphalt"), "road", 0)
    if markings and width > 5:
        for x, y, direction in along(points, 9):
            canvas.line(turned(x, y, direction, [(-2, 0), (2, 0)]), 0.35, canvas.tone("paint"))


def railway(canvas: Canvas, points: Sequence[Point], tracks: int) -> None:
    """Ballast, sleepers and rails; the curve is the middle of the tracks."""
    ballast = canvas.tone("ballast")
    canvas.line(points, 4.8 * tracks + 1.5, ballast, "railway", 0.5)
    pixel = canvas.extent / canvas.side
    for track in range(tracks):
        offset = 4.8 * (track - (tracks - 1) / 2)
        for x, y, direction in along(points, max(1.6, 1.1 * pixel)):
            canvas.line(turned(x, y, direction, [(0, offset - 1.4), (0, offset + 1.4)]), 0.5, shaded(ballast, 0.72))
        for rail in (-0.75, 0.75):
            canvas.line(shifted(points, 0, offset + rail), 0.3, shaded(ballast, 0.42 if rail < 0 else 1.45))


def train(canvas: Canvas, points: Sequence[Point], offset: float, wagons: int) -> None:
    """Wagons on a track; part of the railway, not a label of their own."""
    stops = along(points, 17)
    start = int(canvas.rng.integers(0, max(1, len(stops) - wagons)))
    colour = canvas.fresh("roof pitched")
    for x, y, direction in stops[start : start + wagons]:
        where = turned(x, y, direction, [(0, offset)])[0]
        canvas.polygon(box(*where, 15.5, 3.0, direction), shaded(colour, canvas.rng.uniform(0.85, 1.15)), "railway", 4)


def runway(canvas: Canvas, y: float, width: float) -> None:
    """A runway along x: worn surface, threshold bars, centre line, touchdown marks and rubber."""
    rng, reach, colour = canvas.rng, canvas.reach, canvas.tone("runway")
    canvas.line([(-reach, y), (reach, y)], width * 1.25, shaded(colour, 1.2), "runway", 0)
    canvas.line([(-reach, y), (reach, y)], width, colour, "runway", 0)
    canvas.line([(-reach, y), (reach, y)], width * 0.3, shaded(colour, 0.85))
    for edge in (-0.47, 0.47):
        canvas.line([(-reach, y + edge * width), (reach, y + edge * width)], 1.2, canvas.tone("paint"))
    for x in np.arange(-reach, reach, 50):
        canvas.line([(x, y), (x + 28, y)], 1.6, canvas.tone("paint"))
    if rng.random() < 0.6:
        x = rng.uniform(-0.4, 0.2) * canvas.extent
        for offset in np.linspace(-0.4, 0.4, 8):
            canvas.line([(x, y + offset * width), (x + 32, y + offset * width)], 0.05 * width, canvas.tone("paint"))
        for offset in (-0.2, 0.2):
            canvas.line(
                [(x + 90, y + offset * width), (x + 135, y + offset * width)],
                0.1 * width,
                canvas.tone("paint"),
            )


def bridge(canvas: Canvas, x: float, y: float, half_length: float, width: float, height: float) -> None:
    """A bridge along y about (x, y) with parapets and lane marks; its shadow falls on what it spans."""
    ends = [(x, y - half_length), (x, y + half_length)]
    deck = shaded(canvas.tone("concrete"), 0.92)
    canvas.line(ends, width, shaded(deck, 1.15), "bridge", height + 1)
    canvas.line(ends, width - 1.8, deck, "bridge", height)
    for _, mark, _ in along(ends, 9):
        canvas.line([(x, mark - 2), (x, mark + 2)], 0.35, canvas.tone("paint"))


def parking_lot(canvas: Canvas, x: float, y: float, length: float, width: float, occupancy: float) -> None:
    """Rows of bays along x, back to back, with driving lanes between."""
    rng = canvas.rng
    canvas.polygon(box(x, y, length, width), canvas.tone("asphalt"), "parking lot", 0)
    depth, bay, lane = 5.2, 2.7, 6.5
    rows = max(1, int((width + lane) / (2 * depth + lane)))
    for row in range(rows):
        middle = y + (row - (rows - 1) / 2) * (2 * depth + lane)
        canvas.line([(x - length / 2 + 1, middle), (x + length / 2 - 1, middle)], 0.3, canvas.tone("paint"))
        for place in np.arange(x - length / 2 + 2, x + length / 2 - 1.5, bay):
            canvas.line(
                [(place - bay / 2, middle - depth), (place - bay / 2, middle + depth)],
                0.2,
                canvas.tone("paint"),
            )
            for side in (-1, 1):
                if rng.random() < occupancy:
                    jitter = rng.normal(0, 0.3)
                    car(canvas, place, middle + side * depth / 2 + jitter, math.pi / 2 * rng.choice([-1, 1]))


def tennis_court(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """36 m x 18 m surround, 23.77 m x 10.97 m court with its lines and net."""
    canvas.polygon(box(x, y, 36, 18, angle), canvas.tone("court surround"), "tennis court", 0)
    canvas.polygon(box(x, y, 23.8, 11, angle), canvas.tone("court"), "tennis court", 0)
    lines = [[(-11.9, b), (11.9, b)] for b in (-5.5, -4.1, 4.1, 5.5)] + [[(a, -5.5), (a, 5.5)] for a in (-11.9, 11.9)]
    lines += [[(a, -4.1), (a, 4.1)] for a in (-6.4, 6.4)] + [[(-6.4, 0), (6.4, 0)]]
    for ends in lines:
        canvas.line(turned(x, y, angle, ends), 0.5, canvas.tone("paint"))
    canvas.line(turned(x, y, angle, [(0, -6.4), (0, 6.4)]), 0.4, shaded(canvas.tone("court"), 0.5), None, 1)


def basketball_court(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """28 m x 15 m with keys, centre circle and three-point arcs."""
    floor, paint = canvas.tone("hardwood"), canvas.tone("paint")
    canvas.polygon(box(x, y, 32, 19, angle), shaded(floor, 0.86), "basketball court", 0)
    canvas.polygon(box(x, y, 28.6, 15.6, angle), paint, "basketball court", 0)
    canvas.polygon(box(x, y, 27.6, 14.6, angle), floor)
    for side in (-1, 1):
        arc = [(side * (13.8 - 7.5 * math.cos(t)), 7 * math.sin(t)) for t in np.linspace(-1.5, 1.5, 12)]
        canvas.line(turned(x, y, angle, arc), 0.5, paint)
        canvas.polygon(box(*turned(x, y, angle, [(side * 11, 0)])[0], 5.6, 4.9, angle), shaded(floor, 0.7))
    canvas.disc(x, y, 2.2, paint)
    canvas.disc(x, y, 1.7, floor)
    canvas.line(turned(x, y, angle, [(0, -7.3), (0, 7.3)]), 0.5, paint)


def swimming_pool(canvas: Canvas, x: float, y: float, length: float, angle: float) -> None:
    """A pool with a pale coping: a rectangle, or a kidney."""
    rng, water = canvas.rng, canvas.tone("pool")
    width = length * rng.uniform(0.45, 0.7)
    coping = canvas.fresh("concrete")
    if rng.random() < 0.6:
        canvas.polygon(box(x, y, length + 3, width + 3, angle), coping, "unlabelled", 0)
        canvas.polygon(box(x, y, length, width, angle), water, "swimming pool", 0)
    else:
        outline = blob(rng, 0, 0, length / 2.4, 0.3)
        canvas.polygon(turned(x, y, angle, [(1.35 * a, 1.35 * b) for a, b in outline]), coping, "unlabelled", 0)
        canvas.polygon(turned(x, y, angle, outline), water, "swimming pool", 0)
