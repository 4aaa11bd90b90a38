"""docs/flags.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utilities.flags.flag import Flag, shown, spelled

Group = tuple[str, Sequence[Flag], Mapping[str, Sequence[str]]]  # title, flags, flag -> who reads it
Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]  # method -> preset -> flag -> value


def page(groups: Iterable[Group], presets: Presets) -> str:
    """Every flag, under the title of its group, and what presets make of them, in Markdown."""
    lines = [
        "# Flags",
        "",
        "Of the training scripts and of `evaluate_model.py`, as `python parameters.py` prints them; `--help all` of",
        "a script shows its own, with its defaults. Both `_` and `-` spellings are taken, abbreviations are not.",
        "",
        "| flag | default | what | read by |",
        "| --- | --- | --- | --- |",
    ]
    for title, flags, read_by in groups:
        lines.append(f"| **{title}** | | | |")
        for flag in flags:
            default = "off" if flag.type is bool else shown(flag.default)
            readers = ", ".join(f"`{reader}`" for reader in read_by[flag.name])
            choices = f" ({', '.join(map(str, flag.choices))})" if flag.choices else ""
            lines.append(f"| `--{flag.name}` | {default} | {flag.help}{choices} | {readers} |")
    lines += ["", "| preset | what it sets |", "| --- | --- |"]
    for method, named in presets.items():
        for name, values in named.items():
            changed = ", ".join(f"`--{flag} {spelled(value)}`" for flag, value in values.items())
            lines.append(f"| `--{method}_preset {name}` | {changed or 'the defaults'} |")
    return "\n".join(lines)
