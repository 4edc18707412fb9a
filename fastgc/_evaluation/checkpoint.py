"""Loss values kept in a file while they are measured, so that the same check goes on from there.

A line of JSON says which check the file is of: a digest of everything that the values depend on. Records follow, each
of which holds the values of some evaluations: its kind, its length and a checksum; for each row of values the position
of its entry and a hash of the point and of the displaced entries; then the values. A record that a crash has cut short,
or whose checksum is wrong, ends the file: what follows is overwritten. Values that are not finite are not kept: the
loss is asked again, and says again why.

An entry with two values takes 32 bytes: 8 for its position, 8 for the hash, and 16 for the values.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastgc._arguments import listed
from fastgc._evaluation.evaluator import Evaluator, Raised, Ray, Stopped, Tick
from fastgc._evaluation.interruption import pieces
from fastgc._evaluation.wrapped import WrappedEvaluator
from fastgc._parameters.arrays import Array, Positions

Keys = NDArray[np.uint64]

_MAGIC = "fastgc checkpoint 1"
_RECORD = struct.Struct("<4sIII")  # a mark, the rows, the columns, the checksum of what follows
_MARK = b"fgck"  # at the beginning of a record: a length is not read from somewhere else
_SYNC_SECONDS = 10.0  # between two times that the disk itself is told to write: a power cut loses no more
_MOST_ROWS = 1 << 16  # of a record: 2 MB at most, written in a millisecond
_NOWHERE = -1  # the position of a value with several displaced entries
_LONG = 2.0  # seconds that directions take together, above which each is kept as soon as it is measured
# Of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): its increment, and the
# multipliers and shifts of its mixing function.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIXING = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)  # the same


def digest(*parts: bytes) -> str:
    """A short digest of some bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(struct.pack("<q", len(part)))
        found.update(part)
    return found.hexdigest()


def digest_of(value: Any) -> str:
    """A short digest of a value: of arrays, numbers, text and what is made of them; of others their types count."""
    return digest(*_parts(value))


def _parts(value: Any) -> list[bytes]:
    if isinstance(value, Mapping):
        return [b"{", *(part for pair in value.items() for each in pair for part in _parts(each)), b"}"]
    if isinstance(value, list | tuple):
        return [b"[", *(part for each in value for part in _parts(each)), b"]"]
    if value is None or isinstance(value, str | bytes | bool | int | float | complex):
        return [repr(value).encode()]
    with contextlib.suppress(Exception):  # what an array cannot be made of counts by its type
        array = np.asarray(value)
        if array.dtype.kind in "biufcSU":
            return [f"{array.dtype.str}{array.shape}".encode(), np.ascontiguousarray(array).tobytes()]
    inside = {name: getattr(value, name, None) for name in ("lb", "ub")}  # of scipy.optimize.Bounds
    return [f"{type(value).__module__}.{type(value).__qualname__}".encode(), *_parts(inside)]


class LateCheckpoint:
    """The checkpoint of a check, if it has a path: it is opened when it is known which check that is.

    Parameters
    ----------
    path : see `Checkpoint`; None for none
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path
        self._open: Checkpoint | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.close()

    def opened(self, about: Callable[[], Mapping[str, Any]]) -> Checkpoint | None:
        """The checkpoint, opened the first time: ``about()`` gives everything that its values depend on, by name.

        Raises
        ------
        ValueError, OSError
            See `Checkpoint`.
        """
        if self._open is None and self._path is not None:
            self._open = Checkpoint(self._path, {name: digest_of(value) for name, value in about().items()})
        return self._open


class Checkpoint:
    """An open file of values.

    Parameters
    ----------
    path : where it is, or is to be
    about : for each thing that the values depend on, its digest

    Raises
    ------
    ValueError
        For a file of another check, or of something else.
    OSError
        Where it cannot be read or written, or another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, str]) -> None:
        self.path = Path(path)
        self._file = io.FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        self._synced = time.perf_counter()
        self._known: dict[int, tuple[Keys, Positions, Array]] = {}
        try:
            _lock(self._file, self.path)
            data = self._file.readall()
            begin = self._begin(data, about)
            self._end = self._read(data, begin)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self, data: bytes, about: Mapping[str, str]) -> int:
        """Where the records begin, after a header that is written unless it is there."""
        line = data[: data.find(b"\n") + 1]
        header = json.dumps({"file": _MAGIC, **about}).encode() + b"\n"
        if not line and header.startswith(data):  # new, or cut short
            self._end = 0
            self._write(header)
            return len(header)
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.pop("file", None) != _MAGIC:
            raise ValueError(f"checkpoint={str(self.path)!r} holds something else; name a file that does not exist")
        differing = [name for name in {**about, **found} if about.get(name) != found.get(name)]
        if differing:
            raise ValueError(
                f"checkpoint={str(self.path)!r} is of another check: {listed(differing, quote=False)} "
                f"{'differs' if len(differing) == 1 else 'differ'}; name another file, or remove this one"
            )
        return len(line)

    def _read(self, data: bytes, begin: int) -> int:
        """Where the last whole record ends; its values, and those before, are known."""
        rows: dict[int, list[tuple[Keys, Positions, Array]]] = {}
        while (record := _record(data, begin)) is not None:
            begin, columns, *found = record
            rows.setdefault(columns, []).append((found[0], found[1], found[2]))
        for columns, parts in rows.items():
            keys, positions, values = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(keys, kind="stable")
            self._known[columns] = keys[order], positions[order], values[order]
        return begin

    def known(
        self, keys: Keys, positions: Positions, columns: int, dtype: Any = np.float64
    ) -> tuple[NDArray[np.bool_], Array]:
        """Which rows the file had when it was opened, and their values, float64 or complex128, nan for the others."""
        columns *= np.dtype(dtype).itemsize // np.dtype(np.float64).itemsize
        values = np.full((keys.size, columns), np.nan)
        if columns not in self._known:
            return np.zeros(keys.size, bool), values.view(dtype)
        stored, owners, numbers = self._known[columns]
        where = np.minimum(np.searchsorted(stored, keys), stored.size - 1)
        found = np.asarray((stored[where] == keys) & (owners[where] == positions))
        values[found] = numbers[where[found]]
        return found, values.view(dtype)

    def append(self, keys: Keys, positions: Positions, values: Array) -> None:
        """Write the rows of values that are finite; complex ones as pairs of columns."""
        values = np.ascontiguousarray(values).view(np.float64)
        keep = np.isfinite(values).all(axis=1)
        if not keep.any():
            return
        columns = keys[keep], positions[keep].astype("<i8"), values[keep].astype("<f8")
        body = b"".join(column.tobytes() for column in columns)
        count = int(np.count_nonzero(keep))
        self._write(_RECORD.pack(_MARK, count, values.shape[1], _checksum(count, values.shape[1], body)) + body)

    def _write(self, data: bytes) -> None:
        """Write at the end; where that fails, the file ends where it did."""
        try:
            self._file.seek(self._end)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self._file.truncate()
            if time.perf_counter() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.perf_counter()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise OSError(
                error.errno,
                f"checkpoint={str(self.path)!r} could not be written ({error.strerror}); what it holds can still be "
                "read: make room, and make the same call again",
            ) from error
        self._end += len(data)


def _record(data: bytes, begin: int) -> tuple[int, int, Keys, Positions, Array] | None:
    """The end, the columns and the rows of the record at ``begin``; None where none is whole."""
    head = data[begin : begin + _RECORD.size]
    if len(head) < _RECORD.size:
        return None
    mark, count, columns, checksum = _RECORD.unpack(head)
    begin += _RECORD.size
    end = begin + 8 * count * (2 + columns)
    if mark != _MARK or end > len(data) or _checksum(count, columns, data[begin:end]) != checksum:
        return None
    keys = np.frombuffer(data, "<u8", count, begin)
    positions = np.frombuffer(data, "<i8", count, begin + 8 * count)
    values = np.frombuffer(data, "<f8", count * columns, begin + 16 * count).reshape(count, columns)
    return end, columns, keys, positions, values


def _checksum(count: int, columns: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<II", count, columns)))


def _lock(file: io.FileIO, path: Path) -> None:
    """Lock the file until it is closed, or its process ends."""
    try:
        try:
            import fcntl
        except ImportError:  # on Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OSError(
            error.errno, f"checkpoint={str(path)!r} is in use by another check; wait for it, or name another file"
        ) from error


class CheckpointedEvaluator(WrappedEvaluator):
    """Another evaluator, whose values are kept in a checkpoint and not computed again where that has them.

    Parameters
    ----------
    point : a digest of the point
    dtype : of the values: float64, or complex128 at complex parameters
    at_once : how many rows are measured together at least: as many as there are processes to share them
    """

    def __init__(
        self, inner: Evaluator, checkpoint: Checkpoint, point: str, at_once: int, dtype: type[Any] = np.float64
    ) -> None:
        super().__init__(inner)
        self._dtype = dtype
        self._at_once, self._seconds = at_once, 0.0  # of an evaluation along a direction
        self._checkpoint, self._point = checkpoint, np.uint64(int(point, 16))
        self._read = 0  # values

    @property
    def evaluations(self) -> int:
        """The number of calls of the loss, with those whose values the file had."""
        return self.inner.evaluations + self._read

    @property
    def raised(self) -> Raised:
        """As `Evaluator.raised`."""
        return self.inner.raised.joined(Raised(answered=self._read > 0))

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        """As `Evaluator.values`."""
        keys = self._keys(positions, displaced)
        found, values = self._checkpoint.known(keys, positions, displaced.shape[1], self._dtype)
        self._read += int(np.count_nonzero(found)) * displaced.shape[1]
        tick(int(np.count_nonzero(found)))
        left = np.flatnonzero(~found)
        try:
            for some in pieces(left.size, self._at_once, _MOST_ROWS, self._at_once):
                rows = left[some]
                self._measure(keys[rows], positions[rows], displaced[rows], tick, values, rows)
        except Stopped as stopped:
            stopped.values = values
            raise
        return values

    def _measure(
        self, keys: Keys, positions: Positions, displaced: Array, tick: Tick, values: Array, rows: Positions
    ) -> None:
        """Measure some rows of values and keep them, or as many as are known when the check is interrupted."""
        try:
            values[rows] = self.inner.values(positions, displaced, tick)
        except Stopped as stopped:
            if stopped.values is not None:
                values[rows] = stopped.values
            raise
        finally:
            self._checkpoint.append(keys, positions, values[rows])

    def along(self, positions: Positions, rows: Array) -> Array:
        """As `Evaluator.along`."""
        where = positions.tobytes()
        keys = self._digested([(where, row.tobytes()) for row in np.ascontiguousarray(rows)])
        found, values = self._known(keys)
        left = np.flatnonzero(~found)
        for some in pieces(left.size, self._at_once, left.size, self._at_once):
            values[left[some]] = self.inner.along(positions, rows[left[some]])
            self._keep(keys[left[some]], values[left[some]])
        return values

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Array) -> Array:
        """As `Evaluator.along_rays`."""
        first = self._digested([tuple(part for ray in rays for part in _bytes(ray)) for rays in directions])
        keys = np.stack([_mixed_in(first, row[None, :]) for row in _words(distances[:, None])], axis=1)
        found, values = self._known(keys)
        left = np.flatnonzero(~found.all(axis=1))
        self._read -= int(np.count_nonzero(found[left]))  # which are measured again, with the others of their direction
        length = 1 if self._seconds * left.size * distances.size > _LONG else max(1, left.size)
        for begin in range(0, left.size, length):
            some, before = left[begin : begin + length], time.perf_counter()
            values[some] = self.inner.along_rays([directions[k] for k in some.tolist()], distances)
            self._seconds = (time.perf_counter() - before) / values[some].size
            self._keep(keys[some].reshape(-1), values[some].reshape(-1))
        return values

    def _digested(self, rows: Sequence[tuple[bytes, ...]]) -> Keys:
        """A hash of each row of bytes, and of the point."""
        return self._mixed(np.array([int(digest(*row), 16) for row in rows], np.uint64))

    def _known(self, keys: Keys) -> tuple[NDArray[np.bool_], Array]:
        """Which of these values of no single entry the file had, and the values."""
        flat = keys.reshape(-1)
        found, values = self._checkpoint.known(flat, np.full(flat.size, _NOWHERE), 1, self._dtype)
        self._read += int(np.count_nonzero(found))
        return found.reshape(keys.shape), values.reshape(keys.shape)

    def _keep(self, keys: Keys, values: Array) -> None:
        self._checkpoint.append(keys, np.full(keys.size, _NOWHERE), values.reshape(-1, 1))

    def _keys(self, positions: Positions, displaced: Array) -> Keys:
        """A hash of each row: of the point, of its position and of its displaced entries."""
        return _mixed_in(self._mixed(positions.astype(np.uint64)), _words(displaced))

    def _mixed(self, keys: Keys) -> Keys:
        return _mixed(keys ^ self._point)


def _mixed(keys: Keys) -> Keys:
    """The keys after one step of splitmix64."""
    with np.errstate(over="ignore"):
        keys = keys + _STEP
        for shift, factor in _MIXING:
            keys = (keys ^ (keys >> shift)) * factor
        return np.asarray(keys ^ (keys >> _LAST_SHIFT))


def _words(values: Array) -> Keys:
    """The bits of a table of numbers; of complex ones two words in two columns."""
    return np.ascontiguousarray(values, np.result_type(values, np.float64)).view(np.uint64)


def _mixed_in(keys: Keys, words: Keys) -> Keys:
    """The keys, with all words of their rows mixed in."""
    for column in words.T:
        keys = _mixed(keys ^ column)
    return keys


def _bytes(ray: Ray) -> Iterator[bytes]:
    yield struct.pack("<qqd", ray.tensor, ray.start, ray.scale)
    yield ray.weights.tobytes()
