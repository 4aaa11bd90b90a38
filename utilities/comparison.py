"""Several evaluated runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utilities.logger import read_metrics


def comparison(folders: Sequence[Path], contents: Sequence[dict[str, Any]]) -> str:
    """Markdown table, one line a run: its scores, and how fast and how long it trained."""
    wanted = ("recall@1", "r_precision@8", "map@8", "label_jaccard@8")
    columns = [n for n in wanted if n in contents[0]["scores"]] or list(contents[0]["scores"])[:6]
    rows = [["run", *columns, "images/s", "minutes"]]
    for folder, content in zip(folders, contents, strict=True):
        trained = [record for record in read_metrics(folder) if record["split"] == "train"]
        seconds = sum(record["seconds"] for record in trained)
        images = sum(record["seconds"] * record["images_per_second"] for record in trained)
        scores = [f"{content['scores'][column]:.4f}" for column in columns]
        rows.append([folder.name, *scores, f"{images / seconds:.0f}" if seconds else "-", f"{seconds / 60:.1f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
