"""Loss values from several processes, each of which displaces a copy of the parameters of its own."""

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
from fastgc._evaluation.evaluator import OutOfTime, Raised, Ray, Tick, silent
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.threads import single_threaded_blas
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

_CHUNK_SECONDS = 0.1  # long beside sending a chunk to a process (a millisecond), short beside a progress bar or Ctrl-C
_CHUNKS_PER_WORKER = 16  # so that the last chunks leave no process idle for long
_WORTHWHILE = 0.03  # seconds of work below which sharing it out (about 0.015 s) saves little
_ALIGNMENT = 64  # bytes, of arrays in a file
_TRIAL_ENTRIES, _TRIAL_STEP = 64, 1e-3  # displaced together, and how far, to compare a worker's loss with ours
_SAME_VALUE = 1e-8  # relative; another process may, for instance, sum a set in another order


def process_count(workers: int) -> int:
    """The number of processes that ``workers`` asks for; 1 where no processes can be started."""
    with joblib.parallel_config("loky"):
        return int(joblib.effective_n_jobs(workers))


def single_threaded() -> contextlib.AbstractContextManager[None]:
    """BLAS and OpenMP in one thread, as in the workers: another number may change the last bits of a sum."""
    return single_threaded_blas(openmp=True)


class WorkersEvaluator:
    """Evaluates chunks of displaced entries in processes, and what is too little for that in this one.

    Parameters
    ----------
    direct : PythonEvaluator
        The same loss, called in this process; its deadline holds for the workers too.
    loss, args, layout, leaves
        As those of ``direct``.
    count : int
        The number of processes.
    seconds : float
        Of one evaluation, about.
    reproducible : bool
        The loss gives the same value again, so that every worker's can be compared with ours.

    Raises
    ------
    TypeError
        For a loss or args that cannot be pickled.
    """

    def __init__(
        self,
        direct: PythonEvaluator,
        loss: Callable[..., Any],
        args: tuple[Any, ...],
        layout: ParameterLayout,
        leaves: Sequence[Array],
        *,
        count: int,
        seconds: float,
        reproducible: bool,
    ) -> None:
        self.name = direct.name  # until there was enough to share out
        self._direct, self._count, self._seconds, self._evaluations = direct, count, seconds, 0
        self._raised = Raised()
        self._processes: _executors.Processes | None = None  # until there is enough to share out
        self._numbers = itertools.count()
        trial = self._trial(layout) if reproducible else None
        self._folder = tempfile.TemporaryDirectory(prefix="fastgc-", ignore_cleanup_errors=True)
        try:
            self._check = self._saved((loss, args, layout, list(leaves), trial), module=_home(loss))
        except OSError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise TypeError(
                f"workers={count}, but loss or args cannot be pickled for other processes ({_text(error)}); leave out "
                "open files, locks and handles (create them inside the loss), or use workers=1"
            ) from error

    @property
    def evaluations(self) -> int:
        return self._direct.evaluations + self._evaluations

    @property
    def raised(self) -> Raised:
        return self._direct.raised.joined(self._raised)

    def value(self) -> Any:
        return self._here("value")

    def values(self, positions: Positions, displaced: Array, tick: Tick) -> Array:
        columns = displaced.shape[1]
        cells, entries = np.repeat(positions, columns), displaced.reshape(-1, 1)
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
        path = self._saved(list(rays))  # the signs may be many: written once, not sent with every distance
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
        """Entries of all tensors, as they are and displaced, and our values there."""
        filled = np.array(layout.sizes) > 0
        positions = np.union1d(layout.starts[:-1][filled], spread(layout.size, _TRIAL_ENTRIES))
        start = self._direct.entries(positions)
        rows = self._direct.rounded(positions, np.stack([start, start + _TRIAL_STEP * (1 + np.abs(start))], axis=1)).T
        deadline, self._direct.deadline = self._direct.deadline, math.inf  # two values, before anything is checked
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
        """What ``method`` of the workers' evaluators gives for all parts of ``count`` evaluations, in their order."""
        length = max(1, int(min(_CHUNK_SECONDS / self._seconds, count / (self._count * _CHUNKS_PER_WORKER))))
        parts = [slice(start, min(start + length, count)) for start in range(0, count, length)]
        found: list[Any] = [None] * len(parts)
        raised = [Raised()] * len(parts)
        done, spent = 0, 0.0
        try:
            with self._results(method, [arguments(part) for part in parts]) as results:
                for result in results:
                    if isinstance(result, bytes):
                        raise pickle.loads(result)
                    number, found[number], seconds, there = result
                    raised[number], before = _received(there), done
                    done, spent = done + len(found[number]), spent + seconds
                    self._evaluations += len(found[number])
                    tick(before, done)
                    if time.perf_counter() > self._direct.deadline:
                        raise OutOfTime
        finally:
            self._raised = functools.reduce(Raised.joined, raised, self._raised)
        self._seconds = max(spent / count, 1e-9)
        return np.concatenate(found)

    @contextlib.contextmanager
    def _results(self, method: str, tasks: Sequence[tuple[Any, ...]]) -> Iterator[Iterator[Any]]:
        """What `_run` returns of every task, as it is done; after an exception no worker is left at work."""
        self.name = f"python ({self._count} processes)"
        processes = self._processes = self._processes or _executors.taken(self._count)
        done = False
        try:
            yield processes.results(_run, [(self._check, i, method, *task) for i, task in enumerate(tasks)])
            done = True
        except BrokenExecutor as error:
            raise RuntimeError(
                f"a worker process died while it evaluated the loss (out of memory? a crash of compiled code?): "
                f"{_text(error)}; try fewer workers, or workers=1 to see it happen"
            ) from error
        finally:
            if not done:
                self._processes = None
                processes.end()


# --- in a worker process ---


@dataclass(frozen=True)
class _Opened:
    """A check in a worker: its evaluator, over the only copy of the parameters here, and what that is a copy of."""

    evaluator: PythonEvaluator
    names: tuple[str, ...]
    leaves: Sequence[Array]
    shared: Sequence[Array]


_open: dict[Path, _Opened] = {}  # at most one: the check at work


def _run(check: Path, number: int, method: str, first: Any, *rest: Any) -> Any:
    """One task: its number, what the evaluator's method returns, how long that took, and what the loss raised.

    Or the exception that ends the check, pickled.
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
        return _portable(error)


def _opened(check: Path) -> _Opened:
    if check not in _open:
        _open.clear()  # frees the copy of the check before
        loss, args, layout, shared, trial = load(check)
        own = store(layout, shared, [leaf.dtype for leaf in shared])
        evaluator = PythonEvaluator(loss, layout.rebuild(own.leaves), args, layout, own.leaves, shared)
        if trial is not None:
            _refuse_other_values(evaluator, *trial)
            evaluator.raised = Raised()  # the other process knows
        _open[check] = _Opened(evaluator, layout.names, own.leaves, shared)
    return _open[check]


def _refuse_changed(opened: _Opened) -> None:
    """Raise a ValueError that names the parameters that the loss changed in this process, where nobody else sees it."""
    rows = zip(opened.names, opened.leaves, opened.shared, strict=True)
    changed = [name for name, leaf, shared in rows if not np.array_equal(leaf, shared)]
    if changed:
        raise ValueError(
            f"loss changed params {listed(changed)} in a worker process; it must not change its parameters: "
            "copy them first"
        )


def _refuse_other_values(evaluator: PythonEvaluator, positions: Positions, rows: Array, expected: Array) -> None:
    """Raise a ValueError where the loss gives other values than in the process that asks: a check would accuse it."""
    for here, there in zip(evaluator.along(positions, rows).tolist(), expected.tolist(), strict=True):
        if not (here == there or abs(here - there) <= _SAME_VALUE * abs(there) or (here != here and there != there)):
            raise ValueError(
                f"loss gives {here!r} in a worker process where it gives {there!r} in this one: it "
                "reads what is not sent along (a global changed after its module was imported, a module edited since); "
                "pass that through args, or use workers=1"
            )


def _sent(raised: Raised) -> tuple[Raised, bytes | None]:
    """What the loss raised in a worker, as it can be sent."""
    return replace(raised, first=None), None if raised.first is None else _portable(raised.first)


def _received(sent: tuple[Raised, bytes | None]) -> Raised:
    raised, first = sent
    return raised if first is None else replace(raised, first=pickle.loads(first))


def _portable(error: Exception) -> bytes:
    """The exception, pickled, where it survives that, else one of the same text; with its traceback."""
    note = "in a worker process:\n" + "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        error.add_note(note)
        pickled: bytes = cloudpickle.dumps(error)
        again = pickle.loads(pickled)
        if type(again) is type(error) and str(again) == str(error):
            return pickled
    substitute = RuntimeError(f"loss raised {_text(error)}; an exception that cannot be pickled")
    substitute.add_note(note)
    return bytes(cloudpickle.dumps(substitute))


# --- files ---


def save(path: Path, payload: Any) -> None:
    """Pickle something, with all its arrays in a file beside it, where many processes can map them."""
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    spans = []
    with _beside(path).open("wb") as file:
        file.write(bytes(_ALIGNMENT))  # a file without a byte cannot be mapped
        for buffer in buffers:
            raw = buffer.raw()
            spans.append((file.tell(), file.tell() + raw.nbytes))
            file.write(raw)
            file.write(bytes(-file.tell() % _ALIGNMENT))
    path.write_bytes(pickle.dumps((sys.path, spans, data)))


def load(path: Path) -> Any:
    """What was saved, its arrays over the mapped file: shared until written to, and then a copy of the writer's own."""
    folders, spans, data = pickle.loads(path.read_bytes())
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    whole = np.asarray(np.memmap(_beside(path), np.uint8, "c"))
    return pickle.loads(data, buffers=[whole[start:stop] for start, stop in spans])


def _beside(path: Path) -> Path:
    return path.with_suffix(".arrays")


def _remove(path: Path) -> None:
    for each in (path, _beside(path)):
        with contextlib.suppress(OSError):  # some systems keep a file that is mapped: it goes with its folder
            each.unlink()


def _home(loss: Any) -> Any:
    """The module of a loss that other processes could not import (a file run by its path), else None."""
    name = getattr(loss, "__module__", None) or type(loss).__module__
    top = name.partition(".")[0]
    known = name == "__main__" or top in sys.builtin_module_names or importlib.machinery.PathFinder.find_spec(top)
    return None if known else sys.modules.get(name)


_registering = threading.RLock()  # what is pickled by value is settled for all threads


@contextlib.contextmanager
def _by_value(module: Any) -> Iterator[None]:
    """Have the functions of a module pickled with their code, not by name."""
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


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
