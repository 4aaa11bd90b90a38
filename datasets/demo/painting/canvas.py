"""A canvas in metres: whatever is drawn has a colour, a material and a height, and the sun does the rest.

Three layers are drawn in parallel, at `SUPERSAMPLING` times the final resolution. The material layer says
which surface is on top of every pixel, so the labels of a picture are counted from what is visible in it,
never noted by hand. Shadows and the relief of tree crowns follow from the height layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.demo.painting.materials import CODES, MATERIALS, TONES, shares_by_label

SUPERSAMPLING = 2
METRES_PER_LEVEL = 0.25  # heights are stored as bytes: up to 63.75 m
SHADOW_TINT = np.array([0.42, 0.46, 0.54], np.float32)  # what the blue sky alone still lights
CANOPY_TILE = 512
CANOPY_CROWN = 16  # pixels from crown to crown in the tile

_NAMES = tuple(MATERIALS)

Point = tuple[float, float]
Colour = tuple[int, int, int]
Ink = int | Colour
Brush = ImageDraw.ImageDraw


class Picture(NamedTuple):
    """pixels (side, side, 3) uint8; shares: label -> visible share of the picture, for every label drawn.

    materials (side * SUPERSAMPLING, same) uint8: what is on top at every drawn pixel, as `materials.CODES`.
    """

    pixels: np.ndarray
    shares: dict[str, float]
    materials: np.ndarray


class Canvas:
    """A square of `extent` metres seen from above, turned by a random angle.

    Coordinates are metres from the centre, in the turned frame: x and y within +-`reach` cover every corner,
    and what is closer than `extent` / 2 to the centre is always in view. Angles are radians in that frame.
    """

    def __init__(self, rng: np.random.Generator, *, side: int, extent: float) -> None:
        self.rng = rng
        self.side = side
        self.extent = extent
        self.reach = extent * math.sqrt(0.5)
        self.size = side * SUPERSAMPLING
        self.scale = self.size / extent
        turn = rng.uniform(0, 2 * math.pi)
        self._cos, self._sin = math.cos(turn) * self.scale, math.sin(turn) * self.scale
        self._colour = Image.new("RGB", (self.size, self.size))
        self._material = Image.new("L", (self.size, self.size))
        self._height = Image.new("L", (self.size, self.size))
        self._brushes = [ImageDraw.Draw(layer) for layer in (self._colour, self._material, self._height)]
        self._tones: dict[str, Colour] = {}
        azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(38, 62))
        self.sun = (math.cos(azimuth), math.sin(azimuth))  # in pixels, from an object towards its shadow
        self.shadow_drop = math.tan(elevation)

    # --- tones ------------------------------------------------------------------------------------
    def fresh(self, name: str) -> Colour:
        """A new colour of the family `name`."""
        family = TONES[name]
        base = np.array(family[self.rng.integers(len(family))], float)
        base = base * self.rng.normal(1, 0.07) + self.rng.normal(0, 4, 3)
        red, green, blue = base.clip(8, 250).astype(int).tolist()
        return red, green, blue

    def tone(self, name: str) -> Colour:
        """The picture's one colour of the family `name`."""
        if name not in self._tones:
            self._tones[name] = self.fresh(name)
        return self._tones[name]

    # --- drawing ----------------------------------------------------------------------------------
    def pixel(self, x: float, y: float) -> Point:
        centre = self.size / 2
        return (centre + self._cos * x - self._sin * y, centre + self._sin * x + self._cos * y)

    def _inks(self, colour: Colour, material: str | None, height: float | None) -> list[tuple[Brush, Ink]]:
        """The layers that a stroke touches, each with what it writes there."""
        inks: list[tuple[Brush, Ink]] = [(self._brushes[0], colour)]
        if material is not None:
            inks.append((self._brushes[1], CODES[material]))
        if height is not None:
            inks.append((self._brushes[2], min(255, round(height / METRES_PER_LEVEL))))
        return inks

    def polygon(
        self,
        points: Sequence[Point],
        colour: Colour,
        material: str | None = None,
        height: float | None = None,
    ) -> None:
        """Fill a polygon; without `material` or `height` as a marking on what lies below, as high as that."""
        corners = [self.pixel(x, y) for x, y in points]
        for brush, ink in self._inks(colour, material, height):
            brush.polygon(corners, fill=ink)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        colour: Colour,
        material: str | None = None,
        height: float | None = None,
    ) -> None:
        """Fill a circle."""
        column, row = self.pixel(x, y)
        radius *= self.scale
        box = (column - radius, row - radius, column + radius, row + radius)
        for brush, ink in self._inks(colour, material, height):
            brush.ellipse(box, fill=ink)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        colour: Colour,
        material: str | None = None,
        height: float | None = None,
    ) -> None:
        """Draw a line of `width` metres (never thinner than one drawn pixel) with round joints."""
        corners = [self.pixel(x, y) for x, y in points]
        thickness = max(1, round(width * self.scale))
        for brush, ink in self._inks(colour, material, height):
            brush.line(corners, fill=ink, width=thickness, joint="curve" if len(corners) > 2 else None)

    def ground(self, material: str, colour: Colour) -> None:
        """Cover everything, at height 0."""
        far = self.reach * 1.1
        self.polygon([(-far, -far), (far, -far), (far, far), (-far, far)], colour, material, 0)

    def at(self, x: float, y: float) -> str | None:
        """Material at a point, None outside the picture."""
        column, row = self.pixel(x, y)
        if not (0 <= column < self.size and 0 <= row < self.size):
            return None
        return _NAMES[self._material.getpixel((int(column), int(row)))]  # type: ignore[call-overload]

    def is_clear(self, x: float, y: float, radius: float, on: Collection[str]) -> bool:
        """Whether the point and a ring around it lie on the materials `on` (or outside the picture)."""
        ring = [(x, y)] + [
            (x + radius * math.cos(a), y + radius * math.sin(a)) for a in (0.3, 1.35, 2.4, 3.45, 4.5, 5.5)
        ]
        return all((found := self.at(*point)) is None or found in on for point in ring)

    # --- textures ---------------------------------------------------------------------------------
    def _mask(self, points: Sequence[Point], ragged: float = 0.0) -> Image.Image:
        """The polygon's pixels; `ragged` metres of noise make its edge as irregular as nature's."""
        mask = Image.new("L", (self.size, self.size))
        ImageDraw.Draw(mask).polygon([self.pixel(x, y) for x, y in points], fill=255)
        radius = ragged * self.scale
        if radius < 1:
            return mask
        edge = np.asarray(mask.filter(ImageFilter.BoxBlur(radius)), np.float32)
        grain = self.noise(max(8, round(self.size / radius / 1.5)))
        return Image.fromarray(edge + 48 * grain > 127).convert("L")

    def patch(self, points: Sequence[Point], colour: Colour, material: str | None, ragged: float) -> None:
        """Fill a polygon with natural ground whose edge is `ragged` metres wide."""
        mask = self._mask(points, ragged)
        for brush, ink in self._inks(colour, material, None if material is None else 0):
            brush.bitmap((0, 0), mask, fill=ink)

    def furrows(self, points: Sequence[Point], angle: float, period: float, strength: float) -> None:
        """Modulate the colour inside a polygon by parallel, slightly wavy lines `period` metres apart."""
        mask = self._mask(points)
        box = mask.getbbox()
        if box is None:
            return
        rows, columns = np.ogrid[box[1] : box[3], box[0] : box[2]]
        across = (-math.sin(angle), math.cos(angle))
        east = (self._cos * across[0] - self._sin * across[1]) / self.scale**2
        south = (self._sin * across[0] + self._cos * across[1]) / self.scale**2
        distance = (columns * east + rows * south).astype(np.float32)
        wave = np.sin(distance * (2 * math.pi / period) + self.rng.uniform(0, 6))
        part = np.asarray(self._colour.crop(box), np.float32) * (1 + strength * wave[..., None])
        self._colour.paste(Image.fromarray(part.clip(0, 255).astype(np.uint8)), box[:2], mask.crop(box))

    def canopy(self, points: Sequence[Point], colour: Colour, material: str, crown: float, height: float) -> None:
        """Fill a polygon with closed tree crowns `crown` metres wide and up to `height` metres high."""
        mask = self._mask(points, ragged=0.6 * crown)
        zoom = crown * self.scale / CANOPY_CROWN
        width = min(CANOPY_TILE, math.ceil(self.size / zoom))
        left, top = self.rng.integers(0, CANOPY_TILE - width + 1, 2)
        domes, tints = (
            np.asarray(Image.fromarray(tile[top : top + width, left : left + width]).resize((self.size, self.size)))
            for tile in _canopy_tiles()
        )
        shade = (0.62 + 0.45 * domes + 0.16 * tints)[..., None]
        leaf = np.array(colour, np.float32) + tints[..., None] * np.array([9, 3, -3], np.float32)
        self._colour.paste(Image.fromarray((leaf * shade).clip(0, 255).astype(np.uint8)), (0, 0), mask)
        self._material.paste(CODES[material], (0, 0, self.size, self.size), mask)
        levels = (0.4 + 0.6 * domes) * (height / METRES_PER_LEVEL)
        self._height.paste(Image.fromarray(levels.clip(0, 255).astype(np.uint8)), (0, 0), mask)

    def noise(self, cells: int, stretch: int = 1) -> np.ndarray:
        """(size, size) float32 noise, variance near 1, with `cells` grains across, cells // stretch down."""
        grid = self.rng.standard_normal((max(2, cells // stretch), cells), np.float32)
        return np.asarray(Image.fromarray(grid).resize((self.size, self.size), Image.Resampling.BICUBIC))

    # --- light ------------------------------------------------------------------------------------
    def _shadows(self, height: np.ndarray) -> np.ndarray:
        """(size, size) bool: what a higher thing towards the sun hides.

        The edge of the shadow volume falls by a constant a pixel, so reaches of 1, 2, 4, ... pixels are built
        by doubling: volume(2k) = max(volume(k), volume(k) moved by k pixels - k * fall).
        """
        fall = self.shadow_drop / self.scale
        volume, step = height.copy(), 1.0
        while step < self.size and step * fall < height.max():
            moved = _moved(volume, round(self.sun[1] * step), round(self.sun[0] * step))
            moved -= np.float32(step * fall)
            volume = np.maximum(volume, moved)
            step *= 2
        return volume > height + 0.4

    def _relief(self, height: np.ndarray) -> np.ndarray:
        """Brightness of slopes that face the sun (> 0) or turn away (< 0)."""
        slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
        slope_x[:, 1:-1] = height[:, 2:] - height[:, :-2]
        slope_y[1:-1] = height[2:] - height[:-2]
        towards = (slope_x * self.sun[0] + slope_y * self.sun[1]) * (self.scale / 2)
        return (0.14 * towards).clip(-0.3, 0.3)

    def render(self) -> Picture:
        """Light, texture, resample and photograph the scene."""
        colour = np.asarray(self._colour, np.float32) / 255
        material = np.asarray(self._material)
        height = np.asarray(self._height, np.float32) * METRES_PER_LEVEL
        present = np.bincount(material.ravel(), minlength=len(MATERIALS))
        fine, coarse, waves, relief = (
            np.array([getattr(m, kind) for m in MATERIALS.values()], np.float32)
            for kind in ("fine", "coarse", "waves", "relief")
        )
        gain = 1 + fine[material] * self.noise(self.side) + coarse[material] * (self.noise(12) + 0.7 * self.noise(40))
        if (waves * present).any():
            gain += waves[material] * self.noise(self.side, stretch=3)
        if (relief * present).any():
            gain += relief[material] * self._relief(height)
        light = np.where(self._shadows(height)[..., None], SHADOW_TINT, np.float32(1))
        lit = colour * gain[..., None] * light
        steps = range(SUPERSAMPLING)
        scene = np.mean([lit[i::SUPERSAMPLING, j::SUPERSAMPLING] for i in steps for j in steps], axis=0)
        return Picture(self._photograph(scene), shares_by_label(present / present.sum()), material)

    def _photograph(self, scene: np.ndarray) -> np.ndarray:
        """Exposure, colour cast, gradient of illumination, haze and sensor noise; (side, side, 3) uint8."""
        rng = self.rng
        scene = scene * (rng.normal(1.05, 0.1) * rng.normal(1, 0.022, 3)).astype(np.float32)
        ramp = np.linspace(-0.5, 0.5, self.side, dtype=np.float32)
        tilt = rng.normal(0, 0.06, 2)
        scene = scene * (1 + tilt[0] * ramp[:, None] + tilt[1] * ramp[None])[..., None]
        grey = scene.mean(-1, keepdims=True)
        scene = grey + (scene - grey) * rng.uniform(0.75, 1.1)
        haze = max(0.0, rng.normal(0.06, 0.07))
        scene = scene * (1 - haze) + haze * np.array([0.72, 0.75, 0.8], np.float32)
        scene = scene.clip(0, 1) ** rng.uniform(0.85, 1.1) + rng.normal(0, 0.012, scene.shape)
        return (scene.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _moved(field: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The field moved by whole pixels; zero comes in at the border."""
    moved = np.zeros_like(field)
    height, width = field.shape
    target = (slice(max(rows, 0), height + min(rows, 0)), slice(max(columns, 0), width + min(columns, 0)))
    source = (slice(max(-rows, 0), height + min(-rows, 0)), slice(max(-columns, 0), width + min(-columns, 0)))
    moved[target] = field[source]
    return moved


@functools.cache
def _canopy_tiles() -> tuple[np.ndarray, np.ndarray]:
    """Domes (0..1) and tints (about -1..1) of closed tree crowns, (CANOPY_TILE, CANOPY_TILE) float32 each.

    Cellular noise: every cell of a grid holds one crown at a jittered place, the highest dome wins.
    """
    cells = CANOPY_TILE // CANOPY_CROWN
    rng = np.random.default_rng(20170613)
    offsets = rng.uniform(0.1, 0.9, (2, cells, cells)).astype(np.float32)
    radii = rng.uniform(0.55, 0.95, (cells, cells)).astype(np.float32)
    tint_of = rng.normal(0, 0.5, (cells, cells)).astype(np.float32)
    rows, columns = np.mgrid[:CANOPY_TILE, :CANOPY_TILE].astype(np.float32) / CANOPY_CROWN
    domes, tints = np.zeros_like(rows), np.zeros_like(rows)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = rows.astype(int) + down, columns.astype(int) + right
            cell = (i % cells, j % cells)
            squared = (rows - i - offsets[0][cell]) ** 2 + (columns - j - offsets[1][cell]) ** 2
            dome = 1 - squared / radii[cell] ** 2
            tints = np.where(dome > domes, tint_of[cell], tints)
            domes = np.maximum(domes, dome)
    return np.sqrt(domes), tints
