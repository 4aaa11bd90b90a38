"""Scene types of the demo and the grounds that several of them share.

A recipe puts objects where they plausibly occur. Which labels a picture gets is not written in it: that
follows from what stays visible (`materials.visible_labels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from datasets.demo.painting.canvas import Canvas, Picture, Point
from datasets.demo.painting.grounds import road, swimming_pool
from datasets.demo.painting.objects import field, house, traffic
from datasets.demo.painting.shapes import blob, meander, shaded, shifted

Recipe = Callable[[Canvas], None]
SCENES: dict[str, tuple[tuple[float, float], Recipe]] = {}  # category -> (range of extents in metres, recipe)


def scene(category: str, *, extent: tuple[float, float]) -> Callable[[Recipe], Recipe]:
    """Register a recipe under MLRSNet's spelling of its category; a picture covers `extent` metres."""

    def add(recipe: Recipe) -> Recipe:
        SCENES[category] = (extent, recipe)
        return recipe

    return add


def paint(category: str, *, side: int, seed: int) -> Picture:
    """A picture of the category, `side` pixels square; equal seeds give equal pictures."""
    extent, recipe = SCENES[category]
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, side=side, extent=rng.uniform(*extent))
    recipe(canvas)
    return canvas.render()


def chance(canvas: Canvas, probability: float) -> bool:
    return bool(canvas.rng.random() < probability)


def somewhere(canvas: Canvas, share: float) -> Point:
    """A point within +-`share` of the extent about the centre."""
    x, y = canvas.rng.uniform(-share, share, 2) * canvas.extent
    return float(x), float(y)


def open_ground(canvas: Canvas, soil: float = 0.0) -> None:
    """Grass with worn patches, or (with probability `soil`) bare soil with tufts."""
    rng = canvas.rng
    grounds = [("grass", canvas.tone("grass")), ("bare soil", canvas.tone("soil"))]
    if chance(canvas, soil):
        grounds.reverse()
    (material, colour), (other, other_colour) = grounds
    canvas.ground(material, colour)
    for _ in range(int(rng.integers(0, 3))):
        outline = blob(rng, *somewhere(canvas, 0.6), canvas.extent * rng.uniform(0.04, 0.13), 0.4)
        canvas.patch(outline, other_colour, other, ragged=0.04 * canvas.extent)


def everywhere(canvas: Canvas) -> list[Point]:
    far = canvas.reach * 1.1
    return [(-far, -far), (far, -far), (far, far), (-far, far)]


def beyond(canvas: Canvas, y: float) -> list[Point]:
    """Everything farther from the centre than the line at `y` along x."""
    far = math.copysign(canvas.reach * 1.1, y)
    return [(-far, y), (far, y), (far, far), (-far, far)]


def wild_beyond(canvas: Canvas, y: float) -> list[Point]:
    """As `beyond`, up to a line that wanders."""
    far = math.copysign(canvas.reach * 1.5, y)
    return [
        *shifted(meander(canvas.rng, canvas.reach * 1.2, 0.06 * canvas.extent), 0, y),
        (abs(far), far),
        (-abs(far), far),
    ]


def across(canvas: Canvas, y: float) -> list[Point]:
    """A straight line along x from border to border."""
    return [(-canvas.reach * 1.1, y), (canvas.reach * 1.1, y)]


def winding(canvas: Canvas, y: float, swing: float) -> list[Point]:
    """A curve from border to border that swings by about `swing` of the extent around `y`."""
    return shifted(meander(canvas.rng, canvas.reach * 1.1, swing * canvas.extent), 0, y)


def street(canvas: Canvas, y: float, width: float = 7, spacing: float = 30) -> None:
    """A straight road along x with two lanes of cars about `spacing` metres apart."""
    road(canvas, across(canvas, y), width)
    traffic(canvas, across(canvas, y), (-width / 4, width / 4), spacing)


def parcels(canvas: Canvas, least: float, most: float) -> None:
    """Fields side by side, in bands of different widths (shares of the extent)."""
    rng, far = canvas.rng, canvas.reach * 1.1
    field(canvas, everywhere(canvas), 0)
    y = -far
    while y < far:
        depth, x = rng.uniform(least, most) * canvas.extent, -far
        while x < far:
            length, skew = (
                rng.uniform(1.4 * least, 1.4 * most) * canvas.extent,
                rng.normal(0, 0.04) * canvas.extent,
            )
            corners = [(x, y), (x + length, y), (x + length + skew, y + depth), (x + skew, y + depth)]
            field(canvas, corners, rng.choice([0, math.pi / 2]) + rng.normal(0, 0.03))
            x += length
        y += depth


def coast(canvas: Canvas, y: float, foam: bool = True) -> list[Point]:
    """Sea beyond a wavy shore near `y`, darker where it is deeper; returns the shore line."""
    rng, far = canvas.rng, canvas.reach * 1.5
    shore = winding(canvas, y, 0.07)
    for step, light in enumerate((1.32, 1.16, 1.06, 1.0)):
        edge = shifted(shore, 0, step * 0.045 * canvas.extent)
        canvas.polygon([*edge, (far, far), (-far, far)], shaded(canvas.tone("sea"), light), "sea", 0)
    if foam:
        for _ in range(int(rng.integers(1, 4))):
            breaker = shifted(shore, 0, rng.uniform(0, 0.12) * canvas.extent)
            start = int(rng.integers(0, len(breaker) - 8))
            stop = start + int(rng.integers(5, 18))
            canvas.line(breaker[start:stop], rng.uniform(0.8, 2.5), canvas.tone("foam"))
        canvas.line(shore, rng.uniform(1, 3), canvas.tone("foam"))
    return shore


def house_rows(canvas: Canvas, rows: list[float], spacing: float, pools: float) -> None:
    """Houses in rows along x, with probability `pools` each with a swimming pool behind."""
    rng = canvas.rng
    for y in rows:
        for x in np.arange(-canvas.reach, canvas.reach, spacing):
            centre = (x + rng.normal(0, 1), y + rng.normal(0, 1))
            length, width = spacing * rng.uniform(0.55, 0.78), rng.uniform(8, 11)
            house(canvas, *centre, length, width, rng.choice([0, math.pi / 2]))
            if chance(canvas, pools):
                behind = centre[1] + rng.choice([-1, 1]) * 11
                swimming_pool(canvas, centre[0], behind, rng.uniform(6, 9), rng.uniform(0, 3))
