"""Read the history back from an offline run's `.wandb` file (the LevelDB log format, records as protobuf)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def chunks(content: bytes):
    """Payloads of a LevelDB log that begins with wandb's seven identifying bytes."""
    assert content[:4] == b":W&B", "not a wandb run file"
    position, pending = HEADER, b""
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:  # no room for a header: padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        payload = content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind == FULL:
            yield payload
        elif kind == FIRST:
            pending = payload
        elif kind in (MIDDLE, LAST):
            pending += payload
            if kind == LAST:
                yield pending
        else:
            return


def read(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Run id and history rows."""
    from wandb.proto import wandb_internal_pb2

    run_id, rows = "", []
    for payload in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run_id = record.run.run_id
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): item for item in record.history.item}
            rows.append({key: json.loads(item.value_json) for key, item in items.items()})
    return run_id, rows
