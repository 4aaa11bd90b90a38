"""MLRSNet's labels, which of them each category may carry, and the repair of the published label files.

Since May 2021 the data set's repository serves label files with 10,300 corrupted rows of 109,161: labels of
other images, the category's own label lost. The list of labels per category in its workbook
(`Categories_names.xlsx`) is enough to undo it for all of them but airplane_01550.jpg, whose wrong `airport` an
airplane may carry: that one is known by name (`SPURIOUS`). The result equals the label files of 2020: its fingerprint
is `CLEAN`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from datasets.files.label_csv import LabelTable
from utilities.errors import DatasetError, UserError

CLEAN = "a67c77638797cf27f4d9e7b6ad9abfb8fee501ac7fdcfb6b92b858fca376a9a6"

LABELS = (
    "airplane", "airport", "bare soil", "baseball diamond", "basketball court", "beach", "bridge",
    "buildings", "cars", "chaparral", "cloud", "containers", "crosswalk", "dense residential area",
    "desert", "dock", "factory", "field", "football field", "forest", "freeway", "golf course", "grass",
    "greenhouse", "gully", "habor", "intersection", "island", "lake", "mobile home", "mountain", "overpass",
    "park", "parking lot", "parkway", "pavement", "railway", "railway station", "river", "road",
    "roundabout", "runway", "sand", "sea", "ships", "snow", "snowberg", "sparse residential area",
    "stadium", "swimming pool", "tanks", "tennis court", "terrace", "track", "trail", "transmission tower",
    "trees", "water", "wetland", "wind turbine",
)  # fmt: skip

# Sheet `tags` of the workbook, spelled as the label files spell.
_LISTED = """
airplane: airplane, airport, bare soil, buildings, cars, grass, parking lot, pavement, trees
airport: airplane, airport, bare soil, buildings, field, grass, pavement, runway, trees, water
bareland: bare soil, buildings, cars, grass, pavement, road, trees
baseball_diamond: bare soil, baseball diamond, buildings, cars, grass, pavement, road, trees
basketball_court: bare soil, basketball court, buildings, cars, grass, pavement, road, trees
beach: beach, buildings, sand, sea, ships, trees, water
bridge: bare soil, bridge, buildings, cars, grass, pavement, road, ships, trees, water
chaparral: chaparral, sand
cloud: bare soil, buildings, cloud, field, trees, water
commercial_area: buildings, cars, grass, parking lot, pavement, road, trees, water
dense_residential_area: buildings, cars, dense residential area, grass, pavement, road, swimming pool,
    trees, water
desert: chaparral, desert, sand, water
eroded_farmland: field, gully, trail, trees
farmland: buildings, field, trail, trees
forest: bare soil, buildings, forest, trail, trees
freeway: bare soil, buildings, cars, field, forest, freeway, grass, pavement, road, trees
golf_course: bare soil, buildings, golf course, grass, pavement, road, swimming pool, trail, trees, water
ground_track_field: bare soil, basketball court, buildings, football field, grass, pavement, road, swimming
    pool, track, trees, water
harbor&port: bare soil, buildings, cars, dock, grass, habor, parking lot, pavement, road, ships, swimming
    pool, water
industrial_area: bare soil, buildings, cars, factory, grass, pavement, trees
intersection: bare soil, buildings, cars, crosswalk, factory, grass, intersection, pavement, road, trees
island: bare soil, grass, island, sea, ships, trees, water
lake: bare soil, field, grass, lake, mountain, sand, trees, water, wetland
meadow: bare soil, buildings, cars, grass, pavement, road, swimming pool, trail, trees, water
mobile_home_park: bare soil, buildings, cars, mobile home, pavement, swimming pool, trees, water
mountain: grass, mountain, snow, trees
overpass: bare soil, buildings, cars, factory, field, grass, overpass, parking lot, pavement, road, trees
park: bare soil, buildings, cars, grass, park, pavement, road, swimming pool, track, trail, trees, water
parking_lot: bare soil, buildings, cars, grass, parking lot, pavement, road, trees
parkway: bare soil, buildings, cars, parkway, pavement, road, trees
railway: bare soil, buildings, cars, field, grass, pavement, railway, road, trees, water
railway_station: bare soil, buildings, cars, grass, parking lot, pavement, railway, railway station, road,
    trees
river: bare soil, bridge, buildings, field, grass, river, sand, trees, water
roundabout: bare soil, buildings, cars, crosswalk, grass, overpass, pavement, road, roundabout, trees
shipping_yard: cars, containers, pavement, road, trees, water
snowberg: grass, mountain, snow, snowberg, trees, water
sparse_residential_area: bare soil, buildings, chaparral, field, grass, pavement, road, sand, sparse
    residential area, swimming pool, trees, water
stadium: bare soil, buildings, cars, football field, grass, parking lot, pavement, road, stadium, swimming
    pool, track, trees, water
storage_tank: bare soil, buildings, cars, grass, pavement, road, ships, tanks, trees, water
swimmimg_pool: bare soil, buildings, grass, pavement, swimming pool, trees, water
tennis_court: bare soil, buildings, cars, grass, parking lot, pavement, road, swimming pool, tennis court,
    trees, water
terrace: buildings, field, pavement, road, terrace, trail, trees, water
transmission_tower: bare soil, buildings, cars, field, forest, grass, pavement, road, transmission tower,
    trees
vegetable_greenhouse: bare soil, buildings, field, greenhouse, pavement, road, trail, trees, water
wetland: bare soil, grass, trail, trees, water, wetland
wind_turbine: bare soil, buildings, chaparral, field, grass, road, trail, trees, water, wind turbine
"""

# Labels that images of these categories carry in the clean files although the workbook forgets them.
FORGOTTEN = {
    "airplane": frozenset({"runway"}),
    "baseball_diamond": frozenset({"parking lot"}),
    "transmission_tower": frozenset({"trail"}),
}

# Labels that every image of these categories carries, and that the corruption removed.
LOST = {"storage_tank": "tanks", "stadium": "stadium"}

# Labels that the category may carry, and that these images carry in the corrupted files only.
SPURIOUS = {"airplane_01550.jpg": "airport"}


def _parse_listed(text: str) -> dict[str, frozenset[str]]:
    lines = text.replace("\n    ", " ").strip().splitlines()
    pairs = (line.split(": ") for line in lines)
    return {category: frozenset(labels.split(", ")) for category, labels in pairs}


CATEGORY_LABELS: Mapping[str, frozenset[str]] = _parse_listed(_LISTED)


def letters(name: str) -> str:
    """What is left of a category when others write it with another separator (`harbor_port` for `harbor&port`)."""
    return "".join(character for character in name.lower() if character.isalnum())


_PUBLISHED = {letters(category): category for category in CATEGORY_LABELS}


def listed_labels(folder: Path) -> Mapping[str, frozenset[str]]:
    """Category -> labels from the workbook in `folder`; the built-in list, which equals the published workbook, where
    there is none or nothing that reads it: a note says so then.
    """
    for path in (folder / "Categories_names.xlsx", folder / "Categories_names.xls"):
        if not path.exists():
            continue
        try:
            workbook_library(path)
        except UserError as error:
            warnings.warn(f"{error}; the labels of each category are taken from the built-in list", stacklevel=3)
            return CATEGORY_LABELS
        return read_workbook(path)
    return CATEGORY_LABELS


def read_workbook(path: Path) -> dict[str, frozenset[str]]:
    """Category -> labels from sheet `tags` of `Categories_names.xlsx` (or a legacy .xls).

    The sheet's own spellings are mended: a blank for an underscore or a shortened name of a category, and
    `chapparral`. A category or label that stays unknown is a `DatasetError`.
    """
    listed = {}
    for row in _workbook_rows(path)[2:]:  # two header rows
        cells = [str(cell).strip() for cell in row[1:] if cell not in (None, "")]
        if not cells:
            continue
        written = cells[0].replace(" ", "_")
        matching = [written] if written in CATEGORY_LABELS else [c for c in CATEGORY_LABELS if c.startswith(written)]
        labels = {"chaparral" if cell == "chapparral" else cell for cell in cells[1:]}
        if len(matching) != 1 or not labels <= set(LABELS):
            wrong = ", ".join(sorted(labels - set(LABELS))) or cells[0]
            raise DatasetError(f"workbook {path}, sheet `tags`, row of {cells[0]!r}: {wrong!r} is not in MLRSNet")
        listed[matching[0]] = frozenset(labels)
    return listed


def workbook_library(path: Path) -> ModuleType:
    """What reads and writes such a workbook: openpyxl or xlrd; `UserError` saying what to install where absent."""
    library = "xlrd" if path.suffix.lower() == ".xls" else "openpyxl"
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"the workbook {path} needs {library} ({error}): pip install {library}") from None


def _workbook_rows(path: Path) -> list[tuple[object, ...]]:
    reader = workbook_library(path)
    try:
        if path.suffix.lower() == ".xls":
            sheet = reader.open_workbook(str(path)).sheet_by_name("tags")
            return [tuple(sheet.row_values(row)) for row in range(sheet.nrows)]
        return list(reader.load_workbook(path, read_only=True)["tags"].iter_rows(values_only=True))
    except Exception as error:  # each library has its own for a damaged file
        raise DatasetError(f"cannot read the sheet `tags` of the workbook {path}: {error}") from error


def repair(table: LabelTable, listed: Mapping[str, frozenset[str]] = CATEGORY_LABELS) -> LabelTable:
    """The table with the labels that a category or an image does not carry removed, and those it lost put back.

    Leaves clean labels as they are. `listed` gives the labels of each category; categories that it does not
    name are kept whole. Needs all 60 labels.
    """
    repaired = repair_categories(table, listed)
    for name, label in SPURIOUS.items():
        repaired.labels[table.names == name, table.label_names.index(label)] = False
    return repaired


def repair_categories(table: LabelTable, listed: Mapping[str, frozenset[str]] = CATEGORY_LABELS) -> LabelTable:
    """`repair` as far as the lists of the categories go; the labels are a new array."""
    column = {label: i for i, label in enumerate(table.label_names)}
    allowed = np.ones((len(table.category_names), len(table.label_names)), bool)
    certain = np.zeros_like(allowed)
    for row, written in enumerate(table.category_names):
        category = _PUBLISHED.get(letters(written), written)
        if category in listed:
            labels = listed[category] | FORGOTTEN.get(category, frozenset())
            allowed[row] = [label in labels for label in table.label_names]
        if category in LOST:
            certain[row, column[LOST[category]]] = True
    return table._replace(labels=table.labels & allowed[table.categories] | certain[table.categories])


def corrupted_rows(table: LabelTable, repaired: LabelTable) -> dict[str, int]:
    """Category -> number of rows that the repair changed; empty for clean files."""
    changed = (table.labels != repaired.labels).any(1)
    counts = np.bincount(table.categories[changed], minlength=len(table.category_names))
    return {category: int(count) for category, count in zip(table.category_names, counts, strict=True) if count}
