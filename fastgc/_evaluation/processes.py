"""Loss values from several processes; each process displaces its own copy of the parameters."""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import itertools
import math
import pickle
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._evaluation.evaluator import LEAST_SECONDS, OutOfTime, Raised, Ray, Tick, described, silent
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.threads import single_threaded_blas
from fastgc._evaluation.working_time import now
from fastgc._missing import missing
from fastgc._parameters.arrays import Array, Floats, Positions, spread
from fastgc._parameters.layout import ParameterLayout
from fastgc._parameters.record import store

try:
    import cloudpickle
    import joblib

    from fastgc._evaluation import executors as _executors
except ImportError as error:
    raise missing("workers", "workers") from error

_CHUNK_SECONDS = 0.1  # sending a chunk takes 1 % of it (a millisecond), and a progress bar moves ten times a second
_CHUNKS_PER_WORKER = 16  # processes idle at the end for at most one chunk, 1/16 of their time
_WORTHWHILE = 0.03  # seconds of work: twice the 0.015 s that it takes to share it out
_ALIGNMENT = 64  # bytes: arrays in a file begin at a cache line, as NumPy's own do
# A worker's loss is compared with ours at the point and with so many entries displaced, evenly spaced in the flat
# vector. The relative displacement is enough to change the loss by more than its round-off.
_TRIAL_ENTRIES, _TRIAL_STEP = 64, 1e-3
_SAME_VALUE_THERE = 1e-8  # relative: another process may sum a set in another order; a changed global shows far above


@dataclass(frozen=True)
class SentLoss:
    """What every worker receives once.

    Attributes
    ----------
    loss, args, layout, leaves
        As those of `PythonEvaluator`.
    trial : positions, rows of displaced entries, and our values there
        For a comparison with the worker's values; None for a loss that gives another value at each call.
    """

    loss: Callable[..., Any]
    args: tuple[Any, ...]
    layout: ParameterLayout
    leaves: list[Array]
    trial: tuple[Positions, Array, Array] | None = None


def process_count(workers: int) -> int:
    """The number of processes that ``workers`` asks for; 1 where processes cannot be started."""
    with joblib.parallel_config("loky"):
        return int(joblib.effective_n_jobs(workers))


def single_threaded() -> contextlib.AbstractContextManager[None]:
    """One thread for BLAS and OpenMP, as in the workers, since another number may change the last bits of a sum."""
    return single_threaded_blas(openmp=True)


class WorkersEvaluator:
    """Evaluates chunks of displaced entries in several processes, and small amounts of work in this one.

    Parameters
    ----------
    direct : PythonEvaluator
        The same loss, called in this process; its deadline holds for the workers too.
    sent : SentLoss
        The loss for the other processes, without a trial.
    count : int
        The number of processes.
    seconds : float
        Approximate time of an evaluation.
    reproducible : bool
        Whether a repeated call gives the same value, so that a worker's value can be compared with ours.

    Raises
    ------
    TypeError
        For a loss or args that cannot be pickled.
    """

    def __init__(
        self, direct: PythonEvaluator, sent: SentLoss, *, count: int, seconds: float, reproducible: bool
    ) -> None:
        self.name = direct.name  # until there is enough work to share out
        self._direct, self._count, self._seconds, self._evaluations = direct, count, seconds, 0
        self._raised = Raised()
        self._unfinished: Array | None = None
        self._processes: _executors.Processes | None = None  # until there is enough work to share out
        self._numbers = itertools.count()
        trial = self._trial(sent.layout) if reproducible else None
        self._folder = tempfile.TemporaryDirectory(prefix="fastgc-", ignore_cleanup_errors=True)
        try:
            self._check = self._saved(replace(sent, trial=trial), module=_home(sent.loss))
        except OSError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise TypeError(
                f"workers={count}, but loss or args cannot be pickled for other processes ({described(error)}); leave "
                "out open files, locks and handles (create them inside the loss), or use workers=1"
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    @property
    def raised(self) -> Raised:
        return self._direct.raised.joined(self._raised)

    @property
    def unfinished(self) -> Array | None:
        """As that of a `PythonEvaluator`."""
        return self._direct.unfinished if self._unfinished is None else self._unfinished

    def value(self) -> Any:
        return self._here("value")

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        columns = displaced.shape[1]
        cells, entries = np.repeat(positions, columns), displaced.reshape(-1, 1)
        self._unfinished = None
        if self._too_little(entries.size):
            return np.asarray(self._here("values", positions, displaced, tick))
        values = self._shared_out("values", entries.size, lambda part: (cells[part], entries[part], silent),
                                  lambda before, after: tick(after // columns - before // columns))  # fmt: skip
        return values.reshape(displaced.shape)

    def along(self, positions: Positions, rows: Array) -> Array:
        if self._too_little(len(rows)):
            return np.asarray(self._here("along", positions, rows))
        return self._shared_out("along", len(rows), lambda part: (positions, rows[part]))

    def along_rays(self, directions: Sequence[Sequence[Ray]], distances: Floats) -> Array:
        if self._too_little(len(directions) * distances.size):
            return np.asarray(self._here("along_rays", directions, distances))
        return np.stack([self._along_one(rays, distances) for rays in directions])

    def _along_one(self, rays: Sequence[Ray], distances: Floats) -> Array:
        path = self._saved(list(rays))  # the weights may be many: written once, not sent with every distance
        try:
            return self._shared_out("along_one", distances.size, lambda part: (path, distances[part]))
        finally:
            _remove(path)

    def entries(self, positions: Positions) -> Array:
        return self._direct.entries(positions)

    def rounded(self, positions: Positions, displaced: Array) -> Array:
        return self._direct.rounded(positions, displaced)

    def close(self) -> None:
        self._direct.close()
        if self._processes is not None:
            _executors.given_back(self._processes)
            self._processes = None
        self._folder.cleanup()

    def _too_little(self, evaluations: int) -> bool:
        return evaluations < 2 or evaluations * self._seconds < _WORTHWHILE

    def _here(self, method: str, *arguments: Any) -> Any:
        with single_threaded():
            return getattr(self._direct, method)(*arguments)

    def _trial(self, layout: ParameterLayout) -> tuple[Positions, Array, Array]:
        """Positions in all tensors, rows of their entries (at the point and displaced), and our values there."""
        filled = np.array(layout.sizes) > 0
        positions = np.union1d(layout.starts[:-1][filled], spread(layout.size, _TRIAL_ENTRIES))
        start = self._direct.entries(positions)
        rows = self._direct.rounded(positions, np.stack([start, start + _TRIAL_STEP * (1 + np.abs(start))], axis=1)).T
        deadline, self._direct.deadline = self._direct.deadline, math.inf  # these two values precede the check
        values = np.asarray(self._here("along", positions, rows))
        self._direct.deadline = deadline
        return positions, rows, values

    def _saved(self, payload: Any, module: Any = None) -> Path:
        path = Path(self._folder.name) / str(next(self._numbers))
        with _by_value(module):
            save(path, payload)
        return path

    def _shared_out(
        self,
        method: str,
        count: int,
        arguments: Callable[[slice], tuple[Any, ...]],
        tick: Callable[[int, int], object] = lambda before, after: None,
    ) -> Array:
        """The values of ``method`` of the workers' evaluators for all parts of ``count`` evaluations, in their order.

        ``tick`` takes the numbers of evaluations that were done before and after each part.
        """
        length = max(1, int(min(_CHUNK_SECONDS / self._seconds, count / (self._count * _CHUNKS_PER_WORKER))))
        parts = [slice(start, min(start + length, count)) for start in range(0, count, length)]
        out = self._unfinished = np.full(count, np.nan, self._direct.result_dtype)
        raised = [Raised()] * len(parts)
        done, spent = 0, 0.0
        try:
            with self._results(method, [arguments(part) for part in parts]) as results:
                for number, values, seconds, exceptions in results:
                    out[parts[number]], raised[number] = np.reshape(values, -1), exceptions
                    self._evaluations += len(values)
                    tick(done, done + len(values))
                    done, spent = done + len(values), spent + seconds
                    if now() > self._direct.deadline:
                        raise OutOfTime
        finally:
            self._raised = functools.reduce(Raised.joined, raised, self._raised)
        self._seconds = max(spent / count, LEAST_SECONDS)
        return out

    @contextlib.contextmanager
    def _results(self, method: str, tasks: Sequence[tuple[Any, ...]]) -> Iterator[Iterator[Any]]:
        """The results of `_run` for all tasks, in the order in which they are finished.

        After an exception the processes are killed, so that none is left at work.
        """
        self.name = f"python ({self._count} processes)"
        processes = self._processes = self._processes or _executors.taken(self._count)
        done = False
        try:
            numbered = [(self._check, i, method, *task) for i, task in enumerate(tasks)]
            yield map(_received, processes.results(_run, numbered))
            done = True
        except BrokenExecutor as error:
            raise RuntimeError(
                f"a worker process died while it evaluated the loss (out of memory? a crash of compiled code?): "
                f"{described(error)}; try fewer workers, or workers=1 to see the crash itself"
            ) from error
        finally:
            if not done:
                self._processes = None
                processes.end()


# --- in a worker process ---


@dataclass(frozen=True)
class _Opened:
    """A check in a worker: its evaluator, the copy of the parameters that it displaces, and their shared original."""

    evaluator: PythonEvaluator
    names: tuple[str, ...]
    leaves: Sequence[Array]
    shared: Sequence[Array]


_present: dict[Path, _Opened] = {}  # at most one check at a time


def _run(check: Path, number: int, method: str, first: Any, *rest: Any) -> Any:
    """Do one task: its number, the result of the evaluator's method, the seconds it took, the loss's exceptions.

    An exception that ends the check is returned pickled.
    """
    try:
        opened = _opened(check)
        subject = load(first) if isinstance(first, Path) else first
        begin = time.perf_counter()
        values = getattr(opened.evaluator, method)(subject, *rest)
        spent = time.perf_counter() - begin
        _refuse_changed(opened)
        raised, opened.evaluator.raised = opened.evaluator.raised, Raised()
        return number, values, spent, _sent(raised)
    except Exception as error:
        return portable(error)


def _opened(check: Path) -> _Opened:
    if check not in _present:
        _present.clear()  # frees the copy of the previous check
        sent: SentLoss = load(check)
        layout, shared = sent.layout, sent.leaves
        own = store(layout, shared, [leaf.dtype for leaf in shared])
        evaluator = PythonEvaluator(sent.loss, layout.rebuild(own.leaves), sent.args, layout, own.leaves, shared)
        if sent.trial is not None:
            _refuse_different_loss(evaluator, *sent.trial)
            evaluator.raised = Raised()  # the main process has noted the same exceptions
        _present[check] = _Opened(evaluator, layout.names, own.leaves, shared)
    return _present[check]


def _refuse_changed(opened: _Opened) -> None:
    """Raise a ValueError that names the parameters that the loss changed; the main process could not see that."""
    rows = zip(opened.names, opened.leaves, opened.shared, strict=True)
    changed = [name for name, leaf, shared in rows if not np.array_equal(leaf, shared)]
    if changed:
        raise ValueError(
            f"loss changed params {listed(changed)} in a worker process; it must not change its parameters: "
            "copy them first"
        )


def _refuse_different_loss(evaluator: PythonEvaluator, positions: Positions, rows: Array, expected: Array) -> None:
    """Raise a ValueError if the loss gives other values here than in the main process: the check would be wrong."""
    for here, there in zip(evaluator.along(positions, rows).tolist(), expected.tolist(), strict=True):
        both_nan = here != here and there != there
        if not (here == there or abs(here - there) <= _SAME_VALUE_THERE * abs(there) or both_nan):
            raise ValueError(
                f"loss gives {here!r} in a worker process where it gives {there!r} in this one: it reads something "
                "that is not sent to workers (a global changed after its module was imported, a module edited since); "
                "pass that through args, or use workers=1"
            )


def _sent(raised: Raised) -> tuple[Raised, bytes | None]:
    """The exceptions of the loss in a worker, in a form that can be sent."""
    return replace(raised, first=None), None if raised.first is None else portable(raised.first)


def _received(result: Any) -> tuple[int, Array, float, Raised]:
    """A result of `_run` in the main process; an exception that ends the check is raised."""
    if isinstance(result, bytes):
        raise pickle.loads(result)
    number, values, seconds, (raised, first) = result
    return number, values, seconds, raised if first is None else replace(raised, first=pickle.loads(first))


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


# --- files ---


def save(path: Path, payload: Any) -> None:
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


def save_for(function: Any, path: Path, payload: Any) -> None:
    """`save`; where other processes cannot import the function's module, its functions go along with their code."""
    with _by_value(_home(function)):
        save(path, payload)


def load(path: Path) -> Any:
    """A saved object with its arrays in the mapped file: processes share a page of it until one writes to it."""
    folders, spans, data = pickle.loads(path.read_bytes())
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    mapped = np.asarray(np.memmap(_array_file(path), np.uint8, "c"))
    return pickle.loads(data, buffers=[mapped[start:stop] for start, stop in spans])


def _array_file(path: Path) -> Path:
    return path.with_suffix(".arrays")


def _remove(path: Path) -> None:
    for each in (path, _array_file(path)):
        with contextlib.suppress(OSError):  # some systems keep a mapped file; it is removed with its folder
            each.unlink()


def _home(loss: Any) -> Any:
    """The module of a loss if other processes cannot import it (a file run by its path), else None."""
    name = getattr(loss, "__module__", None) or type(loss).__module__
    top = name.partition(".")[0]
    known = name == "__main__" or top in sys.builtin_module_names or importlib.machinery.PathFinder.find_spec(top)
    return None if known else sys.modules.get(name)


_registering = threading.RLock()  # cloudpickle's registry belongs to the whole process


@contextlib.contextmanager
def _by_value(module: Any) -> Iterator[None]:
    """Pickle the functions of a module with their code instead of by name."""
    if module is None:
        yield
        return
    with _registering:
        if module.__name__ in cloudpickle.list_registry_pickle_by_value():
            yield
            return
        cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            cloudpickle.unregister_pickle_by_value(module)
