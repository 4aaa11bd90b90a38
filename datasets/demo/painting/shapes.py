"""Outlines in metres: boxes, blobs, curves; and walking along a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from datasets.demo.painting.canvas import Colour, Point


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour, brighter (> 1) or darker (< 1)."""
    red, green, blue = (min(255, int(v * factor)) for v in colour)
    return red, green, blue


def turned(x: float, y: float, angle: float, shape: Sequence[Point]) -> list[Point]:
    """A shape given along its own axes, turned by `angle` and moved to (x, y)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in shape]


def box(x: float, y: float, length: float, width: float, angle: float = 0.0) -> list[Point]:
    """Corners of a rectangle around (x, y), `length` along the angle."""
    a, b = length / 2, width / 2
    return turned(x, y, angle, [(-a, -b), (a, -b), (a, b), (-a, b)])


def blob(rng: np.random.Generator, x: float, y: float, radius: float, roughness: float = 0.25) -> list[Point]:
    """A closed smooth outline of about `radius`, stretched and dented at random."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    profile = np.ones_like(angles)
    for wave in range(1, 6):
        profile += roughness / wave * rng.normal() * np.cos(wave * angles + rng.uniform(0, 6))
    profile = radius * profile.clip(0.35, 1.8)
    return list(zip(x + profile * np.cos(angles), y + profile * np.sin(angles), strict=True))


def meander(rng: np.random.Generator, reach: float, amplitude: float) -> list[Point]:
    """A smooth curve from x = -reach to x = +reach that swings about y = 0."""
    xs = np.linspace(-reach, reach, 36)
    ys = np.zeros_like(xs)
    for wave in (0.5, 1, 2):
        ys += amplitude / (0.5 + wave) * rng.normal() * np.sin(math.pi * wave * xs / reach + rng.uniform(0, 6))
    return list(zip(xs, ys - ys.mean(), strict=True))


def shifted(points: Sequence[Point], dx: float, dy: float) -> list[Point]:
    return [(x + dx, y + dy) for x, y in points]


def along(points: Sequence[Point], spacing: float) -> list[tuple[float, float, float]]:
    """(x, y, direction) every `spacing` metres of a curve."""
    track = np.asarray(points)
    lengths = np.hypot(*np.diff(track, axis=0).T)
    travelled = np.concatenate([[0], np.cumsum(lengths)])
    stops = np.arange(spacing / 2, travelled[-1], spacing)
    segment = np.searchsorted(travelled, stops, side="right").clip(1, len(lengths)) - 1
    xs, ys = (np.interp(stops, travelled, track[:, axis]) for axis in (0, 1))
    steps = np.diff(track, axis=0)[segment]
    return list(zip(xs, ys, np.arctan2(steps[:, 1], steps[:, 0]), strict=True))
