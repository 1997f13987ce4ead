"""Work that only one of several processes may do at a time, also on machines that share a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields whether it could be had.

    The system gives it back when its holder ends, however it ends, so that nothing has to be guessed about the age of
    what a killed process leaves behind. The file itself is removed by the holder.

    Args:
        path: the lock file, in a folder that exists.
        wait: whether to wait for another holder to end, instead of yielding False.

    Raises:
        OSError: if the file cannot be made, or its file system has no locks.
    """
    file = _open_claimed(path, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)


def check_claims(folder: Path) -> None:
    """Make sure that files in a folder can be locked.

    Raises:
        ValueError: if not.
    """
    try:
        with claim(folder / f'.{os.uname().nodename}-{os.getpid()}.lock'):
            pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ValueError(
            f'{folder}: its file system has no file locks ({error}), which keep processes from converting the same '
            'scene; have it mounted with locks'
        ) from error


def _open_claimed(path: Path, wait: bool) -> int | None:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_still(path, file):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the holder before has removed this file; another one may be there by now


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
