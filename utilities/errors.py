"""One exception for what a user can mend, and the place where it becomes an exit code."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from utilities import signals
from utilities.signals import Stopped

STANDARD_OUTPUT = 1  # file descriptor
# A file that was fine may be read when these are over: no reason to leave it out as broken
PASSING = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EREMOTEIO,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class UserError(Exception):
    """Something given is wrong: the message says what was given, what is allowed and what to do.

    `main_guard` turns it into exit code 2 without a traceback.
    """


class DatasetError(UserError):
    """A data set, an image or a label file on disk is not what it should be; names the file.

    names: all files meant, where the message names the first few only.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class WrongFolderError(DatasetError):
    """A folder holds nothing of the data set that is looked for in it."""


class RunFailure(Exception):  # noqa: N818 - named for what the user reads
    """The run cannot go on although its settings are valid (full disk, non-finite loss): exit code 1.

    resumable  the folder of a run that goes on from there once what the message says is done; None where nothing does.
               `begun` is False where that folder held no step and is gone.
    """

    def __init__(self, message: str, *, resumable: Path | None = None) -> None:
        super().__init__(message)
        self.resumable, self.begun = resumable, True

    def __str__(self) -> str:
        if self.resumable is None:
            return super().__str__()
        how = f"go on with --load_from_checkpoint {self.resumable}" if self.begun else "start the run again"
        return f"{super().__str__()}, and {how}"


def unreadable(what: str, error: Exception) -> DatasetError | RunFailure:
    """To be raised for a file that could not be read. what: "cannot read the image PATH"."""
    if isinstance(error, OSError) and error.errno in PASSING:
        return RunFailure(f"{what}: {error.strerror}; the disk, the network or this machine fails, not the file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DatasetError(f"{what}: {reason}")


def main_guard(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a script's `main`: `UserError` ends with exit code 2, `RunFailure` and a file that the disk does not take
    with 1, Ctrl-C with 130, SIGTERM with 143, SIGHUP with 129, and a closed standard output (`| head`) with 141, as the
    shell counts them.

    Warnings are notes meanwhile: users of a script need no line of its code.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> None:
        usual, warnings.formatwarning = warnings.formatwarning, _as_note
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows "?" in its place
                stream.reconfigure(errors="replace")
        try:
            with signals.orderly():
                main(*args, **kwargs)
                sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except RunFailure as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt as interruption:
            by = f"stopped by {interruption.name}" if isinstance(interruption, Stopped) else "interrupted"
            print(f"{by}{f'; {interruption}' if interruption.args else ''}", file=sys.stderr)
            sys.exit(128 + (interruption.number if isinstance(interruption, Stopped) else signal.SIGINT))
        except BrokenPipeError:
            if not _output_closed():
                raise  # some other pipe: of a worker, of W&B
            sys.exit(141)
        except OSError as error:
            if error.errno not in OF_THE_DISK:
                raise
            print(f"error: {error.filename or 'a file could not be written'}: {error.strerror}", file=sys.stderr)
            sys.exit(1)
        finally:
            warnings.formatwarning = usual

    return guarded


def _output_closed() -> bool:
    """Whether nobody reads standard output any more; if so, what is still to be printed goes nowhere."""
    poll = select.poll()
    poll.register(STANDARD_OUTPUT, 0)  # no event is asked for: errors are always told
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STANDARD_OUTPUT)
    return True


def _as_note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"note: {message}\n"
