"""One process trains a run at a time: the lock of a run folder.

`flock` on `.lock` in the folder, which the system lets go of however the process ends. The file says who holds it:
where a disk of a network keeps locks to each machine, that is all there is to go by. Reading needs no lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
import warnings
from pathlib import Path

from utilities.errors import UserError

LOCK = ".lock"
HELD = (errno.EAGAIN, errno.EACCES)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[int] = set()  # file descriptors


class RunLock:
    """Held from its making to `release`. Raises UserError where another process trains the run of this folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); a run is trained where it lies") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(self.file)
            if error.errno not in WITHOUT_LOCKS:
                os.close(self.file)
                if error.errno not in HELD:
                    raise UserError(f"{path} cannot be locked ({error.strerror})") from error
                raise UserError(
                    f"{folder} is being trained by {holder or 'another process'}: wait until it ends, or stop it. "
                    "evaluate_model.py may read it meanwhile"
                ) from error
            warnings.warn(
                f"the disk of {folder} takes no locks: nothing keeps a second process from training this run",
                stacklevel=2,
            )
        _held.add(self.file)
        left = _holder(self.file)
        if left and not left.endswith(f" on {platform.node()}"):
            warnings.warn(
                f"{folder} was last trained by {left}, which did not end orderly. If that may still run, stop it: not "
                "every network disk keeps its lock from this machine",
                stacklevel=2,
            )
        _write(self.file, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M')} on {platform.node()}\n")

    def release(self) -> None:
        """The file stays, empty: one that is removed could be locked by two that opened it before and after."""
        if self.file in _held:
            _write(self.file, "")
            _held.remove(self.file)
            os.close(self.file)


def _holder(file: int) -> str:
    """What the holder wrote; empty where the last one ended orderly."""
    return os.pread(file, 200, 0).decode(errors="replace").strip()


def _write(file: int, text: str) -> None:
    """A full disk does not matter here: the text is for people."""
    os.ftruncate(file, 0)
    try:
        os.pwrite(file, text.encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _let_go() -> None:
    """In a process that reads images: it may outlive a training that is killed, which shall go on at once."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
