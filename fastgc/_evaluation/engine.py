"""The choice of the engine that runs the loss, which depends on the first calls of the loss."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastgc._arguments import listed, takes_arguments
from fastgc._evaluation import memory_left, workers_option
from fastgc._evaluation.evaluator import Evaluator, as_number, value_of_pair
from fastgc._evaluation.floating_point import displaced
from fastgc._evaluation.frozen_globals import Read, named, nearby_records, refuse_frozen_data, value_at
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.refused import NotCompiledError, cause, explained, from_compiler, plain_value
from fastgc._evaluation.stages import StagedLoss
from fastgc._evaluation.workers_option import elsewhere
from fastgc._evaluation.working_time import now, timed
from fastgc._evaluation.writes import refuse_shared, unknown_in, writable_arrays
from fastgc._parameters.point import Point, arrays_in, fingerprint, refuse_changed
from fastgc._words import Workers

# Compiling the loop for arguments of new types takes about 0.4 s, whatever the loss (bench/cold.py). Calling a jitted
# loss from Python takes about 4 microseconds longer than calling it from the loop (bench/floor.py).
_LOOP_SECONDS, _CALL_SECONDS = 0.4, 4e-6
_COPIES_SHARE = 0.8  # of the available memory for copies of the parameters: the loss and the system need some too
_NEGLIGIBLE_BYTES = 1 << 20  # 1 MiB is there on any machine that runs Numba (some 100 MiB): the system is not asked
_NOT_COMPILED = "NUMBA_DISABLE_JIT is set: the loss was called from Python"
_SCRATCH = "{} writes into an array of args (a scratch buffer): evaluated in one thread"


class NotFiniteError(ValueError):
    """The loss is NaN or infinite at the point of the check."""


@dataclass(frozen=True)
class Execution:
    """How the loss is to be run, by the names that `check_gradients` gives to these arguments.

    Attributes
    ----------
    deadline : float
        See `PythonEvaluator`.
    """

    engine: str
    threads: int | None = None
    workers: Workers = 1
    vectorized: bool = False
    deadline: float = math.inf


@dataclass(frozen=True)
class FirstCall:
    """The result of the first calls of the loss: two, or one that used up the time.

    Attributes
    ----------
    seconds : of the last call, without compilation
    scratch : whether the loss writes into arrays of args
    noisy : whether the two calls gave different values
    """

    value: float
    seconds: float
    scratch: bool
    noisy: bool
    notes: tuple[str, ...]

    def noted(self, note: str | None) -> FirstCall:
        """The same with one note more, or with none."""
        return replace(self, notes=(*self.notes, note)) if note else self


def is_jitted(function: object) -> bool:
    """Whether a function was compiled by Numba. This does not import Numba."""
    if "numba" not in sys.modules:
        return False
    from fastgc._evaluation.jitted import is_dispatcher

    return is_dispatcher(function)


def in_parallel(function: object, args: tuple[object, ...] = ()) -> bool:
    """Whether a function was compiled with ``parallel=True``, or calls such a function."""
    if not is_jitted(function):
        return False
    from fastgc._evaluation.jitted import runs_in_parallel

    return runs_in_parallel(function, args)


def in_turn(function: Callable[..., Any], args: tuple[object, ...] = ()) -> Callable[..., Any]:
    """A function that threads may call at the same time: one compiled with ``parallel=True`` waits for its turn."""
    if not in_parallel(function, args):
        return function
    from fastgc._evaluation.kernels import one_at_a_time

    return one_at_a_time(function)


def jitted(loss: Callable[..., object]) -> Any:
    """A plain loss compiled by ``numba.njit``; a jitted loss itself, and any loss where Numba compiles nothing."""
    from fastgc._evaluation import jitted as _jitted

    if is_jitted(loss) or not _jitted.compiles():
        return loss
    from fastgc._evaluation import kernels as _kernels

    return _kernels.compile_loss(loss)


def open_evaluator(
    loss: Any, point: Point, execution: Execution, *, expected: int, with_gradients: bool
) -> tuple[Evaluator, FirstCall]:
    """The evaluator for a loss, and the result of its first calls.

    Parameters
    ----------
    expected : int
        Approximate number of later evaluations: ``engine="auto"`` compiles the loop if that saves time.
    with_gradients : bool
        Whether the loss returns ``(value, gradients)``.

    Raises
    ------
    TypeError, ValueError
        For a loss that does not return one finite real number, that changes its parameters, or that Numba cannot
        compile.
    """
    staged = isinstance(loss, StagedLoss)
    if staged and execution.engine == "numba":
        raise ValueError('engine="numba", but a loss of fastgc.stages is called from Python: use engine="auto"')
    if execution.engine == "numba":
        loss = jitted(loss)
    compiled = is_jitted(loss)
    if compiled:
        _refuse_uncompilable(point, execution)
    function = in_turn(loss, point.args) if compiled else displaced(loss)
    call = (lambda params, *args: value_of_pair(function(params, *args))) if with_gradients else function
    direct = PythonEvaluator(
        call, point.received_by(compiled), point.args, point.layout, point.leaves, point.sources, execution.deadline
    )
    if staged and not (with_gradients or execution.vectorized or elsewhere(execution.workers)):
        return _open_staged(direct, loss, point, execution.deadline)
    if not compiled or point.stored is None:
        with takes_arguments(loss, (point.params, *point.args), "loss"):
            return _open_in_python(direct, call, point, execution, compiled)
    try:
        with explained("loss", loss, (point.received_by(jitted=True), *point.args)):
            parallel = function is not loss  # it waits for its turn
            read = _reader(point.args, with_gradients, parallel)
            return _open_compiled(direct, loss, point, execution, expected, read, parallel)
    except NotCompiledError as error:
        if with_gradients or execution.engine != "auto" or not error.cause:
            raise
        return _open_plain(loss, point, execution, error)


def _open_in_python(
    direct: PythonEvaluator, call: Callable[..., object], point: Point, execution: Execution, compiled: bool
) -> tuple[Evaluator, FirstCall]:
    if execution.vectorized:
        return _open_vectorized(direct, call, point)
    if elsewhere(execution.workers):
        return _open_workers(direct, call, point, execution.workers)
    first = _first_call(direct, point, execution.deadline)
    return direct, first.noted(_NOT_COMPILED if execution.engine == "numba" and not compiled else None)


def _open_plain(loss: Any, point: Point, execution: Execution, error: NotCompiledError) -> tuple[Evaluator, FirstCall]:
    """The Python function of a jitted loss, where the form in which this receives its parameters is in the way."""
    if not plain_value(loss.py_func, point.params, point.args):
        raise error
    evaluator, first = open_evaluator(loss.py_func, point, execution, expected=0, with_gradients=False)
    return evaluator, first.noted(
        f"called from Python as its py_func, since Numba does not compile it here: {' '.join(error.cause.split())}"
    )


def _reader(args: tuple[object, ...], with_gradients: bool, parallel: bool) -> Read:
    """How to have the value of a jitted loss at a record."""
    from fastgc._evaluation.kernels import one_at_a_time

    def value(loss: Callable[..., object], record: object) -> Any:
        found = (one_at_a_time(loss) if parallel else loss)(record, *args)
        return as_number(value_of_pair(found) if with_gradients else found, complex_allowed=True)

    return value


def _refuse_uncompilable(point: Point, execution: Execution) -> None:
    """Raise for options and parameters that do not go with a jitted loss."""
    if execution.vectorized or elsewhere(execution.workers):
        asked = "vectorized=True" if execution.vectorized else workers_option.named(execution.workers)
        raise ValueError(
            f"{asked} is for a plain Python loss; this one is compiled by Numba: use threads, or its py_func"
        )
    half = [name for name, leaf in zip(point.layout.names, point.leaves, strict=True) if leaf.dtype == np.float16]
    if half:
        raise TypeError(f'Numba does not compute with float16: {listed(half)}; use precision="double"')


def _open_compiled(
    direct: PythonEvaluator, loss: object, point: Point, execution: Execution, expected: int, read: Read, parallel: bool
) -> tuple[Evaluator, FirstCall]:
    """Compiled loops, or single calls of the jitted loss where these take less time.

    BLAS runs in one thread, whatever the number of our threads, since its number of threads may change the last bits of
    a value. The limit holds from the first call on: after work, BLAS threads spin for some milliseconds. The evaluator
    of the loops lifts it.
    """
    from fastgc._evaluation.compiled import NumbaEvaluator
    from fastgc._evaluation.kernels import CompiledLoss, loops_are_compiled

    with contextlib.ExitStack() as limits:
        limits.enter_context(limited_blas(execution.engine, parallel))
        first = _first_call(direct, point, execution.deadline)
        if not first.noisy:
            refuse_frozen_data(loss, point, read, "loss")
        if execution.engine == "python":
            return direct, first
        wanted = 1 if first.scratch else execution.threads  # a scratch buffer is noted already
        count, note = affordable_threads(loss, point, wanted, read, parallel=parallel, noisy=first.noisy)
        compiled = CompiledLoss.of(loss, (point.received_by(jitted=True), *point.args))
        pays = execution.engine == "numba" or loop_pays(expected, first.seconds, count)
        if not (pays or loops_are_compiled(compiled, {leaf.dtype for leaf in point.leaves})):
            return direct, first
        return NumbaEvaluator(direct, compiled, point, count, first.seconds, limits), first.noted(note)


def _open_workers(
    direct: PythonEvaluator, loss: Callable[..., object], point: Point, workers: Workers
) -> tuple[Evaluator, FirstCall]:
    """Workers for a plain loss; this process alone if only one is available, or if the loss writes into args."""
    from fastgc._evaluation import executors as _executors
    from fastgc._evaluation import processes as _workers
    from fastgc._evaluation.threads import single_threaded_blas

    assert point.stored is not None
    with single_threaded_blas(openmp=True):
        first = _first_call(direct, point, direct.deadline)
    if workers_option.is_number(workers):
        count, _ = _executors.choose(workers)
        first = first.noted(_executors.refusal(workers, count))
        workers, note = _affordable_copies(count, 0, point.stored.buffer.nbytes, "processes")
        first = first.noted(note)
    if first.scratch or not elsewhere(workers):
        return direct, first
    sent = _workers.SentLoss(loss, point.args, point.layout, list(point.leaves))
    evaluator = _workers.WorkersEvaluator(
        direct, sent, workers=workers, seconds=first.seconds, reproducible=not first.noisy
    )
    return evaluator, first


def _open_staged(
    direct: PythonEvaluator, loss: StagedLoss, point: Point, deadline: float
) -> tuple[Evaluator, FirstCall]:
    """Calls from a displaced stage on; of the whole loss where stages may read what others write or displace."""
    from fastgc._evaluation.staged import StagedEvaluator

    first = _first_call(direct, point, deadline)
    if first.scratch or first.noisy or point.stored is None:
        return direct, first
    return StagedEvaluator(loss, point, first.value, deadline, direct.evaluations), first


def _open_vectorized(direct: PythonEvaluator, loss: Callable[..., Any], point: Point) -> tuple[Evaluator, FirstCall]:
    from fastgc._evaluation.vectorized import VectorizedEvaluator

    evaluator = VectorizedEvaluator(direct, loss, point.args, point.layout, point.leaves, memory_left.available())
    first = _first_call(evaluator, point)
    if not first.noisy:
        evaluator.refuse_mixed_rows()
    return evaluator, first


@contextlib.contextmanager
def readable_compilation(what: str) -> Iterator[None]:
    """Replace an exception of Numba's compiler by a short TypeError that says what to do."""
    try:
        yield
    except Exception as error:
        if not from_compiler(error):
            raise
        raise TypeError(
            f'Numba cannot compile {what}: {cause(error)}\nUse engine="python" with a plain Python '
            "function, or make it nopython code (params is indexed by literal names: params['W1'])"
        ) from error


@readable_compilation("the loss")
def _first_call(direct: Evaluator, point: Point, deadline: float = math.inf) -> FirstCall:
    """The result of two calls, or of one if it ends after the deadline."""
    extra = list(arrays_in(point.args))
    before, extra_before = point.stamp, fingerprint(extra)
    value, seconds = timed(direct.value)
    refuse_changed(point, before, "loss")
    if not np.isfinite(value):
        raise NotFiniteError(f"loss is {value} at params; a gradient can be checked only where the loss is finite")
    scratch = fingerprint(extra) != extra_before
    if scratch:
        refuse_shared(point)
    again, seconds = (value, seconds) if now() > deadline else timed(direct.value)
    return FirstCall(value, seconds, scratch, again != value, tuple(_first_notes(value, again, scratch)))


def _first_notes(value: complex, again: complex, scratch: bool) -> Iterator[str]:
    if scratch:
        yield _SCRATCH.format("loss")
    if again != value and scratch:
        yield f"a repeated call gave {again!r}, not {value!r}: the loss keeps data in args that change its value"
    elif again != value:
        yield f"loss is noisy: a repeated call gave {again!r}, not {value!r} (dropout? no seed set?)"


def limited_blas(engine: str, parallel: bool) -> contextlib.AbstractContextManager[object]:
    """One thread for BLAS while a jitted function may run in compiled loops; not for one that runs in parallel."""
    if engine == "python" or parallel:
        return contextlib.nullcontext()
    from fastgc._evaluation.threads import single_threaded_blas

    return single_threaded_blas()


def loop_pays(expected: int, seconds: float, threads: int, *, call: float = _CALL_SECONDS) -> bool:
    """Whether ``expected`` evaluations of so many seconds save in a loop the time of its compilation.

    ``call`` is what a call from Python takes beyond that.
    """
    return expected * (call + seconds * (1 - 1 / threads)) > _LOOP_SECONDS


def affordable_threads(
    function: Any,
    point: Point,
    threads: int | None,
    read: Read,
    *,
    parallel: bool,
    what: str = "loss",
    noisy: bool = False,
) -> tuple[int, str | None]:
    """The number of threads, each with a copy of the parameters, and a note if something limits it."""
    from fastgc._evaluation.kernels import default_threads

    assert point.stored is not None
    wanted = threads or default_threads()
    if wanted == 1:
        return 1, None
    if parallel:
        return 1, f"{what} was compiled with parallel=True: called from one thread"
    if noisy:
        return 1, "runs in one thread, since a repeated call gave another value"
    unknown = unknown_in(point.args)
    if unknown:
        remedy = "for more, pass arrays, numbers and tuples"
        return 1, f"runs in one thread: {unknown}, which {named(what)} may write to; {remedy}"
    if _writes_nearby(function, point, read):
        return 1, _SCRATCH.format(what)
    return _affordable_copies(wanted, 1, point.stored.buffer.nbytes, "threads")


def _writes_nearby(function: Callable[..., object], point: Point, read: Read) -> bool:
    """Whether a call near the point changes args. At the point it may write what an earlier call has written."""
    arrays = writable_arrays(point.args)
    if not arrays:
        return False
    before = fingerprint(arrays)
    value_at(read, function, next(nearby_records(point)))
    return fingerprint(arrays) != before


def _affordable_copies(wanted: int, made: int, size: int, what: str) -> tuple[int, str | None]:
    """The number of threads or processes whose copies of the parameters fit into memory, and a note if it is limited.

    ``made`` copies exist already.
    """
    if (wanted - made) * size <= _NEGLIGIBLE_BYTES:
        return wanted, None
    room, copy = memory_left.available() * _COPIES_SHARE, max(1, size)
    affordable = max(1, min(wanted, made + int(min(room / copy, wanted))))
    if affordable == wanted:
        return wanted, None
    return affordable, f"{affordable} of {wanted} {what}: each needs a copy of the parameters of {copy / 2**20:.0f} MiB"
