"""`metrics.jsonl` as a kill, an editor or a disk may leave it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from utilities.errors import UserError
from utilities.report import compared
from utilities.runs.logger import SPOILT, drop_later, read_metrics


def record(step: int, split: str = "train", **more: object) -> dict[str, object]:
    return {"epoch": 1, "step": step, "split": split, "seconds": 1.5, "images_per_second": 10.0, **more}


def write(folder: Path, *lines: bytes | dict[str, object]) -> bytes:
    folder.mkdir(exist_ok=True)
    content = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    (folder / "metrics.jsonl").write_bytes(content)
    return content


FOREIGN = [
    b"\xff\xfe\x00garbage\n",
    b"\n",
    b"[1, 2]\n",
    b"3\n",
    b"null\n",
    b'{"epoch": 1}\n',
    b"[" * 100_000 + b"\n",
    json.dumps(record(1) | {"step": "2"}).encode() + b"\n",
    json.dumps(record(1, losses=[1.0])).encode() + b"\n",
    json.dumps(record(1, losses={"margin": "low"})).encode() + b"\n",
    json.dumps(record(1) | {"seconds": None}).encode() + b"\n",
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
def test_a_line_that_is_no_record_is_named_left_out_and_kept_aside(tmp_path, line):
    """By a comparison, which reads it, and by a resumption, which writes it anew."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text('{"method": "dac", "dataset": "Demo"}')
    content = write(tmp_path / "run", record(1, losses={"margin": 0.5}), line, record(2), record(3))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: line 2 is no record of a run, and left out"):
        (run,) = compared.describe([tmp_path / "run"], [{"protocol": {"network": "best"}}], ())
    assert run.minutes == 3 * 1.5 / 60
    with pytest.warns(UserWarning, match="line 2"):
        drop_later(tmp_path / "run", 2, validated=True)
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [1, 2]
    assert (tmp_path / "run" / SPOILT).read_bytes() == content


def test_a_last_line_that_a_kill_cut_off_is_nothing_to_speak_of(tmp_path):
    write(tmp_path, record(1), record(2, scores={"recall@1": None}), b'{"epoch": 1, "st')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
        drop_later(tmp_path, 2, validated=False)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == json.dumps(record(1)) + "\n"


def test_a_folder_of_this_name_is_named(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        read_metrics(tmp_path)
