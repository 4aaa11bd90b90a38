"""Things that grow, stand, drive, fly and swim in the demo's scenes, drawn in metres on a `Canvas`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from datasets.demo.painting.canvas import Canvas, Point
from datasets.demo.painting.shapes import along, box, shaded, turned

VEGETATED = ("grass", "bare soil", "field")


def tree(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """One crown of a few lobes."""
    rng, colour = canvas.rng, canvas.fresh("crown")
    height = radius * rng.uniform(1.6, 2.6)
    for lobe in range(3):
        dx, dy = rng.normal(0, 0.3 * radius, 2) if lobe else (0.0, 0.0)
        size = radius * (1 if lobe == 0 else 0.7)
        for part, rise in ((1.0, 0.5), (0.72, 0.8), (0.4, 1.0)):
            tint = shaded(colour, 0.82 + 0.22 * rise + 0.04 * lobe)
            canvas.disc(x + dx, y + dy, size * part, tint, "trees", height * rise)


def scatter_trees(canvas: Canvas, count: int, radius: tuple[float, float], on: Collection[str] = VEGETATED) -> None:
    """Single trees and clumps where the ground allows them."""
    rng = canvas.rng
    for _ in range(count):
        x, y = rng.uniform(-canvas.reach, canvas.reach, 2)
        for _ in range(int(rng.integers(1, 4))):
            size = rng.uniform(*radius)
            if canvas.is_clear(x, y, size, (*on, "trees")):
                tree(canvas, x, y, size)
            x, y = rng.normal((x, y), 2.2 * size)


def tree_row(canvas: Canvas, points: Sequence[Point], radius: float, on: Collection[str] = VEGETATED) -> None:
    """Trees in a line, with gaps."""
    for x, y, _ in along(points, 2.3 * radius):
        size = radius * canvas.rng.uniform(0.7, 1.2)
        if canvas.rng.random() < 0.8 and canvas.is_clear(x, y, size, (*on, "trees")):
            tree(canvas, x, y, size)


def forest(canvas: Canvas, points: Sequence[Point]) -> None:
    """A closed canopy inside the outline."""
    rng = canvas.rng
    canvas.canopy(points, canvas.fresh("canopy"), "forest", rng.uniform(6, 11), rng.uniform(8, 16))


def field(canvas: Canvas, points: Sequence[Point], angle: float) -> None:
    """A parcel under one crop, with the furrows or drill rows along `angle`."""
    rng = canvas.rng
    canvas.polygon(points, canvas.fresh("crop"), "field", 0)
    pixel = canvas.extent / canvas.side
    canvas.furrows(points, angle, max(rng.uniform(3, 9), 2.2 * pixel), rng.uniform(0.07, 0.2))


def house(canvas: Canvas, x: float, y: float, length: float, width: float, angle: float) -> None:
    """A pitched roof: the slope towards the sun is bright, the other dark."""
    rng = canvas.rng
    colour, height = canvas.fresh("roof pitched"), rng.uniform(4, 7)
    contrast = rng.uniform(0.08, 0.2)
    hip = rng.choice([0.0, 0.45]) * width
    a, b = length / 2, width / 2
    slopes = (
        ([(-a, -b), (a, -b), (a - hip, 0), (hip - a, 0)], 1 + contrast),
        ([(-a, b), (a, b), (a - hip, 0), (hip - a, 0)], 1 - contrast),
        ([(-a, -b), (hip - a, 0), (-a, b)], 1 + contrast / 2),
        ([(a, -b), (a - hip, 0), (a, b)], 1 - contrast / 2),
    )
    for shape, light in slopes if hip else slopes[:2]:
        canvas.polygon(turned(x, y, angle, shape), shaded(colour, light), "buildings", height)


def hall(canvas: Canvas, x: float, y: float, length: float, width: float, angle: float, height: float) -> None:
    """A flat roof with a parapet, sheds or machinery on it."""
    rng, colour = canvas.rng, canvas.fresh("roof flat")
    canvas.polygon(box(x, y, length, width, angle), shaded(colour, 1.08), "buildings", height)
    canvas.polygon(box(x, y, length - 1.4, width - 1.4, angle), colour, "buildings", height - 0.5)
    if rng.random() < 0.4:  # ribbed metal roof
        canvas.furrows(box(x, y, length, width, angle), angle + math.pi / 2, rng.uniform(3, 6), 0.05)
    for _ in range(int(rng.integers(0, 7))):
        a, b = rng.uniform(-0.4, 0.4, 2) * (length, width)
        unit = box(*turned(x, y, angle, [(a, b)])[0], rng.uniform(1.5, 4), rng.uniform(1.5, 4), angle)
        canvas.polygon(unit, shaded(colour, rng.uniform(0.6, 1.15)), "buildings", height + 1.8)


def tank(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A storage tank: bright rim, slightly domed or sunken floating roof, stairs."""
    rng, colour = canvas.rng, canvas.tone("tank")
    height = rng.uniform(8, 14)
    canvas.disc(x, y, radius, shaded(colour, 1.06), "tanks", height)
    if rng.random() < 0.5:  # floating roof, sunken
        canvas.disc(x, y, radius * 0.93, shaded(colour, rng.uniform(0.7, 0.95)), "tanks", height - rng.uniform(1, 4))
    else:
        for part in (0.75, 0.5, 0.25):
            canvas.disc(x, y, radius * part, shaded(colour, 1.03 - 0.06 * part), "tanks", height + 2 * (1 - part))
    angle = rng.uniform(0, 2 * math.pi)
    canvas.line(turned(x, y, angle, [(0, 0), (radius, 0)]), 0.9, shaded(colour, 0.6))


def car(canvas: Canvas, x: float, y: float, angle: float) -> None:
    """A car of 4.6 m or, now and then, a van or lorry."""
    rng, colour = canvas.rng, canvas.fresh("car")
    length, width, height = (4.6, 2.0, 1.5) if rng.random() < 0.9 else (8.5, 2.6, 3.0)
    canvas.polygon(box(x, y, length, width, angle), colour, "cars", height)
    windscreen = turned(x, y, angle, [(0.4, -0.8), (1.2, -0.8), (1.2, 0.8), (0.4, 0.8)])
    canvas.polygon(windscreen, canvas.tone("glass"))


def traffic(canvas: Canvas, points: Sequence[Point], lanes: Sequence[float], spacing: float) -> None:
    """Cars on the lanes (offsets in metres, left lanes < 0 drive the other way) of a curve."""
    rng = canvas.rng
    for x, y, direction in along(points, spacing):
        for lane in lanes:
            if rng.random() < 0.5:
                ahead = rng.uniform(-0.4, 0.4) * spacing
                where = turned(x, y, direction, [(ahead, lane)])[0]
                car(canvas, *where, direction + (math.pi if lane < 0 else 0))


def airplane(canvas: Canvas, x: float, y: float, angle: float, length: float) -> None:
    """A swept-wing airliner, nose along the angle."""
    colour, l = canvas.fresh("airplane"), length
    wing = [(0.10, 0.05), (-0.16, 0.47), (-0.22, 0.47), (-0.10, 0.05)]
    tail = [(-0.38, 0.02), (-0.47, 0.18), (-0.51, 0.18), (-0.48, 0.02)]
    for half in (wing, tail):
        for side in (1, -1):
            shape = [(a * l, b * l * side) for a, b in half]
            canvas.polygon(turned(x, y, angle, shape), shaded(colour, 0.96), "airplane", 0.1 * l)
    body = [(0.5, 0), (0.45, 0.04), (0.36, 0.055), (-0.3, 0.055), (-0.5, 0.01)]
    outline = body + [(a, -b) for a, b in reversed(body)]
    canvas.polygon(turned(x, y, angle, [(a * l, b * l) for a, b in outline]), colour, "airplane", 0.13 * l)
    fin = canvas.fresh("airline")
    canvas.polygon(
        turned(x, y, angle, [(-0.5 * l, -0.012 * l), (-0.34 * l, 0), (-0.5 * l, 0.012 * l)]),
        fin,
        None,
        0.3 * l,
    )
    for side in (1, -1):
        canvas.polygon(box(*turned(x, y, angle, [(0.03 * l, 0.17 * l * side)])[0], 0.11 * l, 0.05 * l, angle), fin)


def ship(canvas: Canvas, x: float, y: float, angle: float, length: float, wake: bool = False) -> None:
    """A boat or ship, bow along the angle; under way it draws a wake."""
    rng = canvas.rng
    l, w = length, length * rng.uniform(0.22, 0.34)
    if wake:
        for part in (1, 0.6):
            trail = [
                (-0.4 * l, 0.3 * w),
                (-l * (1 + 2.5 * part), 0.9 * w * part),
                (-l * (1 + 2.5 * part), -0.9 * w * part),
            ]
            canvas.polygon(
                turned(x, y, angle, [*trail, (-0.4 * l, -0.3 * w)]),
                shaded(canvas.tone("sea"), 1.6 - 0.3 * part),
            )
    hull = [(0.5 * l, 0), (0.2 * l, w / 2), (-0.5 * l, w / 2.2), (-0.5 * l, -w / 2.2), (0.2 * l, -w / 2)]
    colour = canvas.fresh("hull")
    canvas.polygon(turned(x, y, angle, hull), colour, "ships", 0.06 * l + 0.6)
    inner = [(0.72 * a - 0.02 * l, 0.66 * b) for a, b in hull]
    canvas.polygon(turned(x, y, angle, inner), canvas.fresh("deck"))
    cabin = box(*turned(x, y, angle, [(-0.2 * l, 0)])[0], 0.26 * l, 0.55 * w, angle)
    canvas.polygon(cabin, shaded(colour, 1.1), None, 0.12 * l + 1)
