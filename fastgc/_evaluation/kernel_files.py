"""Machine code of our kernels on disk, for other processes of the same user.

Numba's own cache reads pickles from a folder that others may write to. Here a folder counts only if it belongs to the
user and nobody else may enter it, and a file only if its checksum is right: a damaged file may crash the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 26  # 64 MiB: the kernels of some 1,700 structures of parameters, 37 KB each
_DIGEST = hashlib.sha256().digest_size
_SWITCH = "FASTGC_CACHE"  # an environment variable: with "0", nothing is kept on disk


def allowed() -> bool:
    """Whether kernels may be kept on disk: unless the user has set ``FASTGC_CACHE=0``."""
    return os.environ.get(_SWITCH) != "0"


class KernelFiles:
    """One file for each compilation, in a folder of the user's alone. It stands in for Numba's ``IndexDataCacheFile``.

    Parameters
    ----------
    parent : the folder that Numba has chosen; this one lies inside it
    stamp : what changes when a file can no longer be used, such as the version of Numba
    dumps : pickles a compilation
    """

    def __init__(self, parent: str, stamp: object, dumps: Callable[[Any], bytes]) -> None:
        self._folder = Path(parent) / f"fastgc-{os.getuid() if hasattr(os, 'getuid') else 0}"
        self._stamp, self._dumps = (stamp, sys.implementation.cache_tag), dumps

    def load(self, key: object) -> Any:
        """What was saved under a key; None where nothing is, or nothing that can be trusted."""
        with contextlib.suppress(OSError):
            path = self._path(key)
            content = path.read_bytes() if is_private(self._folder) else b""
            digest, pickled = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(pickled).digest() == digest:
                kept, data = pickle.loads(pickled)
                os.utime(path)  # the files that were not used for longest go first
                return data if kept == key else None
        return None

    def save(self, key: object, data: object) -> None:
        """Keep a compilation; nothing where the folder is not the user's alone, or the disk is full."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(self._folder):
                self._write(self._path(key), self._dumps((key, data)))
                self._evict()

    def flush(self) -> None:
        """Remove all files."""
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)

    def _path(self, key: object) -> Path:
        return self._folder / hashlib.sha256(repr((self._stamp, key)).encode("utf-8", "backslashreplace")).hexdigest()

    def _write(self, path: Path, pickled: bytes) -> None:
        """Write a file at once: another process sees all of it, or nothing."""
        number, name = tempfile.mkstemp(dir=self._folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(pickled).digest() + pickled)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise

    def _evict(self) -> None:
        """Remove the files that were not used for longest, until all together are half as large as they may be."""
        files = sorted(((path.stat(), path) for path in self._folder.iterdir()), key=lambda each: each[0].st_mtime)
        size = sum(each.st_size for each, _ in files)
        limit = MOST_BYTES // 2 if size > MOST_BYTES else size
        for each, path in files:
            if size <= limit:
                return
            path.unlink(missing_ok=True)
            size -= each.st_size


def is_private(folder: Path) -> bool:
    """Whether a folder belongs to the user, and nobody else may read it or write to it; always so without POSIX."""
    if not hasattr(os, "getuid"):
        return folder.is_dir()
    found = os.lstat(folder)  # a link to another folder is none
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
