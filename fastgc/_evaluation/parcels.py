"""What is sent to each worker once: how it is pickled, where a worker finds it, and how long the worker keeps it.

A parcel is a name that no other parcel has, and a file on the machine of the caller. Every task carries the parcel
alone. A worker that has not opened it yet maps the file into its memory where it can see it, as all processes of one
machine can. A worker on another machine answers that it lacks the parcel; its task is then sent again together with the
contents. So nobody has to be told how many workers there are or where, whatever engine runs them: the contents go to a
worker when its first task does, and later tasks are a few hundred bytes.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._evaluation.evaluator import described
from fastgc._forks import Turns
from fastgc._missing import missing

try:
    import cloudpickle
except ImportError as error:
    raise missing("workers", "workers") from error

_LOOKED_SECONDS = 1.0  # between two looks at whether the parent is there: they take microseconds
_ALIGNMENT = 64  # bytes: arrays in a file begin at a cache line, as NumPy's own do


@dataclass(frozen=True)
class Parcel:
    """The name of what was sent, its file, and what it is ("check", say): a worker keeps one of each."""

    token: str
    path: Path
    what: str


class LackingError(Exception):
    """A worker has not received the parcel with this token."""


class Folder:
    """The files of one check; they are removed when it is closed."""

    def __init__(self) -> None:
        with _written_to("a temporary folder"):
            self._folder = tempfile.TemporaryDirectory(prefix="fastgc-", ignore_cleanup_errors=True)
        self._tokens: set[str] = set()

    def parcel(self, what: str, payload: object, function: object = None) -> Parcel:
        """Pickle an object. ``function``: the caller's, whose module goes along where others cannot import it.

        Raises
        ------
        OSError
            If the temporary folder does not take it.
        """
        token = uuid.uuid4().hex
        self._tokens.add(token)
        parcel = Parcel(token, Path(self._folder.name) / token, what)
        with by_value(home(function)), _written_to(self._folder.name):
            save(parcel.path, payload)
        return parcel

    def close(self) -> None:
        """Remove the files, and what was opened of them in threads of this process."""
        for thread, kept in list(_present.items()):
            for what in [what for what, (token, _) in list(kept.items()) if token in self._tokens]:
                kept.pop(what, None)
            if not kept:
                _present.pop(thread, None)
        self._folder.cleanup()


@contextlib.contextmanager
def _written_to(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"workers: {folder} does not take what the workers receive ({error.strerror or error}); free space there, "
            "name another folder in TMPDIR, or use workers=1",
        ) from error


def remove(parcel: Parcel) -> None:
    """Remove the files of a parcel."""
    for each in (parcel.path, _array_file(parcel.path)):
        with contextlib.suppress(OSError):  # some systems keep a mapped file; it is removed with its folder
            each.unlink()


def contents(parcel: Parcel) -> bytes:
    """Both files of a parcel, for a worker that cannot see them."""
    return pickle.dumps((parcel.path.read_bytes(), _array_file(parcel.path).read_bytes()))


# --- in a worker ---

_folders: set[Path] = set()  # of parcels that were opened here
_present: dict[int, dict[str, tuple[str, Any]]] = {}  # for each thread, since it displaces a copy that is its own


def opened(parcel: Parcel, sent: Mapping[str, bytes], opening: Callable[[Any], Any] = lambda payload: payload) -> Any:
    """What ``opening`` makes of the payload: once for each thread, until the next parcel for the same purpose.

    Raises
    ------
    LackingError
        Where the file is not there, and the contents were not sent along.
    """
    kept = _present.setdefault(threading.get_ident(), {})
    if kept.get(parcel.what, ("",))[0] != parcel.token:
        kept.pop(parcel.what, None)  # frees the copy of the previous check
        kept[parcel.what] = parcel.token, opening(_payload(parcel, sent))
    return kept[parcel.what][1]


def end_with_parent(parent: int) -> None:
    """Let this process end, and remove what it was sent, when its parent has ended without time for that (a SIGKILL).

    Windows tells the number of the parent after its end, too: there a process ends when it was idle for minutes.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOKED_SECONDS)
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _payload(parcel: Parcel, sent: Mapping[str, bytes]) -> Any:
    if parcel.token in sent:
        head, arrays = pickle.loads(sent[parcel.token])
        return _unpickled(head, np.frombuffer(bytearray(arrays), np.uint8))  # a bytearray can be written to
    _folders.difference_update([each for each in _folders if not each.exists()])
    _folders.add(parcel.path.parent)
    try:
        return load(parcel.path)
    except FileNotFoundError as error:
        raise LackingError(parcel.token) from error


# --- files ---


def save(path: Path, payload: object) -> None:
    """Pickle an object; its arrays go into a second file that all processes can map into memory."""
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    spans = []
    with _array_file(path).open("wb") as file:
        file.write(bytes(_ALIGNMENT))  # a file without a byte cannot be mapped
        for buffer in buffers:
            raw = buffer.raw()
            spans.append((file.tell(), file.tell() + raw.nbytes))
            file.write(raw)
            file.write(bytes(-file.tell() % _ALIGNMENT))
    path.write_bytes(pickle.dumps((sys.path, spans, data)))


def load(path: Path) -> Any:
    """A saved object with its arrays in the mapped file: processes share a page of it until one writes to it."""
    head = path.read_bytes()
    return _unpickled(head, np.asarray(np.memmap(_array_file(path), np.uint8, "c")))


def _unpickled(head: bytes, arrays: NDArray[np.uint8]) -> Any:
    folders, spans, data = pickle.loads(head)
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    return pickle.loads(data, buffers=[arrays[start:stop] for start, stop in spans])


def _array_file(path: Path) -> Path:
    return path.with_suffix(".arrays")


# --- what pickle cannot do alone ---


def portable(error: Exception) -> bytes:
    """An exception pickled, with its traceback as a note; a RuntimeError with its text where it cannot be pickled."""
    note = "in a worker process:\n" + "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        error.add_note(note)
        pickled: bytes = cloudpickle.dumps(error)
        again = pickle.loads(pickled)
        if type(again) is type(error) and str(again) == str(error):
            return pickled
    substitute = RuntimeError(f"loss raised {described(error)}; this exception cannot be pickled")
    substitute.add_note(note)
    return bytes(cloudpickle.dumps(substitute))


def home(function: object) -> ModuleType | None:
    """The module of a function if other processes cannot import it (a file run by its path), else None."""
    name = getattr(function, "__module__", None) or type(function).__module__
    top = name.partition(".")[0]
    known = name == "__main__" or top in sys.builtin_module_names or importlib.machinery.PathFinder.find_spec(top)
    return None if known else sys.modules.get(name)


_registering = Turns()  # cloudpickle's registry belongs to the whole process


@contextlib.contextmanager
def by_value(module: ModuleType | None) -> Iterator[None]:
    """Pickle the functions of a module with their code instead of by name."""
    if module is None:
        yield
        return
    with _registering():
        if module.__name__ in cloudpickle.list_registry_pickle_by_value():
            yield
            return
        cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            cloudpickle.unregister_pickle_by_value(module)
