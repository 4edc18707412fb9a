"""Which engine runs the loss, decided by what its first call shows."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastgc._arguments import listed
from fastgc._evaluation.evaluator import Evaluator, as_number
from fastgc._evaluation.python import PythonEvaluator
from fastgc._evaluation.writes import refuse_shared, unknown_in, writable_arrays
from fastgc._parameters.point import Point, arrays_in, fingerprint, refuse_changed
from fastgc._parameters.record import store
from fastgc._parameters.streams import stream

# Measured: compiling the loop for arguments of new types takes about 0.4 s, whatever the loss, and calling a jitted
# loss from Python about 6 microseconds more than calling it from the loop.
_LOOP_SECONDS, _CALL_SECONDS = 0.4, 6e-6
_MEMORY_SHARE = 0.8  # of the available memory that the copies of the parameters may take
_ALWAYS_THERE = 1 << 20  # bytes for which nobody needs to ask
_SAME_VALUE = 1e-8  # relative; NumPy and compiled code sum in another order
_BESIDE = 1e-3  # how far from the point they are compared too
_SCRATCH = "loss writes into an array of args (a scratch buffer): evaluated in one thread"


class NotFiniteError(ValueError):
    """The loss is NaN or infinite at the point of the check."""


@dataclass(frozen=True)
class FirstCall:
    """What the first two calls of the loss showed."""

    value: float
    seconds: float  # of a call
    compiling: float  # seconds that the first call took more than the second
    scratch: bool  # the loss writes into arrays of args
    noisy: bool  # the two calls gave different values
    notes: tuple[str, ...]


def is_jitted(function: Any) -> bool:
    """Whether a function was compiled by Numba; Numba is not imported to find out."""
    if "numba" not in sys.modules:
        return False
    from fastgc._evaluation import jitted as _jitted

    return _jitted.is_jitted(function)


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may be called while other threads call theirs: one compiled with ``parallel=True`` waits."""
    if not is_jitted(function):
        return function
    from fastgc._evaluation import kernels as _kernels

    return _kernels.in_turn(function)


def jitted(loss: Callable[..., Any]) -> Any:
    """A plain loss compiled by ``numba.njit``; a jitted one as it is."""
    from fastgc._evaluation import jitted as _jitted
    from fastgc._evaluation import kernels as _kernels

    return loss if _jitted.is_jitted(loss) else _kernels.compile_loss(loss)


def open_evaluator(
    loss: Any,
    point: Point,
    *,
    engine: str,
    threads: int | None,
    expected: int,
    with_gradients: bool,
    deadline: float = math.inf,
    workers: int = 1,
    vectorized: bool = False,
) -> tuple[Evaluator, FirstCall]:
    """The evaluator that suits the loss, and what its first call showed.

    Parameters
    ----------
    expected : int
        About how many evaluations will follow: ``engine="auto"`` compiles the loop when that pays.
    with_gradients : bool
        The loss returns ``(value, gradients)``.
    deadline : float
        See `PythonEvaluator`.

    Raises
    ------
    TypeError, ValueError
        For a loss that does not return one finite real number, that changes its parameters, or that Numba cannot
        compile.
    """
    if engine == "numba":
        loss = jitted(loss)
    compiled = is_jitted(loss)
    if compiled and (vectorized or workers != 1):
        asked = "vectorized=True" if vectorized else f"workers={workers}"
        raise ValueError(
            f"{asked} is for a plain Python loss; this one is compiled by Numba: use threads, or its py_func"
        )
    half = [name for name, leaf in zip(point.layout.names, point.leaves, strict=True) if leaf.dtype == np.float16]
    if compiled and half:
        raise TypeError(f'Numba does not compute with float16: {listed(half)}; use precision="double"')
    function = in_turn(loss)
    call = (lambda params, *args: function(params, *args)[0]) if with_gradients else function
    direct = PythonEvaluator(
        call, point.received_by(compiled), point.args, point.layout, point.leaves, point.sources, deadline
    )
    if vectorized:
        return _open_vectorized(direct, call, point)
    if workers != 1:
        return _open_workers(direct, call, point, workers)
    if not compiled or point.stored is None:
        return direct, _first_call(direct, point)
    return _open_compiled(direct, loss, point, engine, threads, expected, with_gradients)


def _open_compiled(
    direct: PythonEvaluator,
    loss: Any,
    point: Point,
    engine: str,
    threads: int | None,
    expected: int,
    with_gradients: bool,
) -> tuple[Evaluator, FirstCall]:
    """Compiled loops, or single calls of the jitted loss where these cost less.

    There is one BLAS thread in each of ours; also when there is one, since another number may change the last bits. So
    it is from the first call on: threads of BLAS that have worked wait busily for more, for some milliseconds.
    """
    from fastgc._evaluation import compiled as _compiled
    from fastgc._evaluation import jitted as _jitted
    from fastgc._evaluation import threads as _threads

    handed_on = contextlib.ExitStack()
    with contextlib.ExitStack() as limits:
        if engine != "python" and not _jitted.runs_in_parallel(loss):
            limits.enter_context(_threads.single_threaded_blas())
        first = _first_call(direct, point)
        if not first.noisy:
            _refuse_frozen_data(loss, point, with_gradients)
        if engine == "python":
            return direct, first
        count, note = _affordable_threads(loss, point, first, threads, with_gradients)
        if engine == "auto" and not _loop_pays(loss, point, first, count, expected):
            return direct, first
        dtypes = [leaf.dtype for leaf in point.leaves]
        assert point.stored is not None
        copies = [point.stored, *(store(point.layout, point.leaves, dtypes) for _ in range(count - 1))]
        if note:
            first = replace(first, notes=(*first.notes, note))
        evaluator = _compiled.NumbaEvaluator(direct, loss, point.args, point.layout, copies, first.seconds, handed_on)
        handed_on.enter_context(limits.pop_all())
        return evaluator, first


def _open_workers(
    direct: PythonEvaluator, loss: Callable[..., Any], point: Point, workers: int
) -> tuple[Evaluator, FirstCall]:
    """Processes for a plain loss; none where only one can be had, or where the loss writes into args."""
    from fastgc._evaluation import processes as _workers

    assert point.stored is not None
    with _workers.single_threaded():
        first = _first_call(direct, point)
    count, note = _affordable(_workers.process_count(workers), 0, point.stored.buffer.nbytes, "processes")
    if note:
        first = replace(first, notes=(*first.notes, note))
    if count == 1 or first.scratch:
        return direct, first
    evaluator = _workers.WorkersEvaluator(
        direct, loss, point.args, point.layout, point.leaves,
        count=count, seconds=first.seconds, reproducible=not first.noisy,
    )  # fmt: skip
    return evaluator, first


def _open_vectorized(direct: PythonEvaluator, loss: Callable[..., Any], point: Point) -> tuple[Evaluator, FirstCall]:
    from fastgc._evaluation.vectorized import VectorizedEvaluator

    evaluator = VectorizedEvaluator(direct, loss, point.args, point.layout, point.leaves, _available_memory())
    first = _first_call(evaluator, point)
    if not first.noisy:
        evaluator.refuse_mixed_rows()
    return evaluator, first


def _first_call(direct: Evaluator, point: Point) -> FirstCall:
    extra = list(arrays_in(point.args))
    before, extra_before = point.checksums, fingerprint(extra)
    value, slow = _timed(direct)
    refuse_changed(point, before, "loss")
    if not np.isfinite(value):
        raise NotFiniteError(f"loss is {value} at params; a gradient can be checked only where the loss is finite")
    scratch = fingerprint(extra) != extra_before
    if scratch:
        refuse_shared(point)
    again, seconds = _timed(direct)
    notes = tuple(_first_notes(value, again, scratch))
    return FirstCall(value, seconds, max(0.0, slow - seconds), scratch, again != value, notes)


def _first_notes(value: complex, again: complex, scratch: bool) -> Iterator[str]:
    if scratch:
        yield _SCRATCH
    if again != value and scratch:
        yield f"a repeated call gave {again!r} instead of {value!r}: what the loss keeps in args changes its value"
    elif again != value:
        yield f"loss is noisy: a repeated call gave {again!r}, not {value!r} (dropout? no seed set?)"


def _timed(direct: Evaluator) -> tuple[Any, float]:
    begin = time.perf_counter()
    with readable_compilation("the loss"):
        value = direct.value()
    return value, time.perf_counter() - begin


@contextlib.contextmanager
def readable_compilation(what: str) -> Iterator[None]:
    """Turn what Numba's compiler raises into a TypeError of a few lines that says what to do."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("numba."):
            raise
        raise TypeError(
            f'Numba cannot compile {what}: {_first_lines(error)}\nUse engine="python" with a plain Python '
            "function, or make it nopython code (params is indexed by literal names: params['W1'])"
        ) from error


def _first_lines(error: Exception, count: int = 6) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n  ".join(lines[:count])


def _loop_pays(loss: Any, point: Point, first: FirstCall, threads: int, expected: int) -> bool:
    """Whether the loop saves more time than Numba needs to compile it."""
    from fastgc._evaluation import kernels as _kernels

    assert point.stored is not None
    saved = expected * (_CALL_SECONDS + first.seconds * (1 - 1 / threads))
    if saved > _LOOP_SECONDS:
        return True
    entry = _kernels.CompiledLoss(loss, (point.stored.record(), *point.args))
    return all(_kernels.loops_are_compiled(entry, dtype) for dtype in {leaf.dtype for leaf in point.leaves})


def _refuse_frozen_data(loss: Any, point: Point, with_gradients: bool) -> None:
    """Compare a jitted loss with its Python function: Numba compiles globals and closures in as constants.

    They are compared at the point and a little away from it (at an optimum a constant may not show). Where they differ,
    which ill-conditioned arithmetic can do too, the loss is compiled anew: then only constants make a difference.
    """
    from fastgc._evaluation import jitted as _jitted

    if not _jitted.freezes_data(loss):
        return
    for record in _records_beside(point):
        compiled, plain = (_value_at(each, record, point.args, with_gradients) for each in (loss, loss.py_func))
        if compiled is None or plain is None or _same(compiled, plain):
            continue
        fresh = _value_at(_jitted.compiled_anew(loss), record, point.args, with_gradients)
        if fresh is None or not _same(compiled, fresh):
            raise ValueError(
                f"the compiled loss gives {compiled!r} where its Python function gives {plain!r}: Numba froze a global "
                "or closure variable that was changed since; pass it through args, or compile the loss again"
            )


def _records_beside(point: Point) -> Iterator[Any]:
    """Records of the parameters: all entries displaced, each displaced by a share of itself, and as they are."""
    generator = stream(0, "compiled")
    dtypes = [leaf.dtype for leaf in point.leaves]
    for shift, share in ((_BESIDE, _BESIDE), (0.0, _BESIDE), (0.0, 0.0)):
        noise = [generator.standard_normal(leaf.shape) for leaf in point.leaves]
        leaves = [leaf + each * (shift + share * leaf) for leaf, each in zip(point.leaves, noise, strict=True)]
        yield store(point.layout, leaves, dtypes).record()


def _value_at(loss: Any, record: Any, args: tuple[Any, ...], with_gradients: bool) -> Any:
    """The loss, or None where it is not defined."""
    try:
        with np.errstate(all="ignore"):
            value = in_turn(loss)(record, *args)
    except Exception:
        return None
    number = as_number(value[0] if with_gradients else value, complex_allowed=True)
    return number if np.isfinite(number) else None


def _same(value: complex, other: complex) -> bool:
    return abs(value - other) <= _SAME_VALUE * max(abs(value), abs(other))


def _affordable_threads(
    loss: Any, point: Point, first: FirstCall, threads: int | None, with_gradients: bool
) -> tuple[int, str | None]:
    """How many threads, each with a copy of the parameters, and a note where something limits them."""
    from fastgc._evaluation import jitted as _jitted
    from fastgc._evaluation import kernels as _kernels

    assert point.stored is not None
    wanted = threads or _kernels.default_threads()
    if wanted == 1 or first.scratch:
        return 1, None  # noted already
    if _jitted.runs_in_parallel(loss):
        return 1, "loss was compiled with parallel=True: called from one thread"
    if first.noisy:
        return 1, "runs in one thread, since a repeated call gave another value"
    unknown = unknown_in(point.args)
    if unknown:
        return (
            1,
            f"runs in one thread: {unknown}, which the loss may write to; for more, pass arrays, numbers and tuples",
        )
    if _writes_beside(loss, point, with_gradients):
        return 1, _SCRATCH
    return _affordable(wanted, 1, point.stored.buffer.nbytes, "threads")


def _writes_beside(loss: Any, point: Point, with_gradients: bool) -> bool:
    """Whether args change in a call beside the point: what a call there writes may be there already, from before."""
    arrays = writable_arrays(point.args)
    if not arrays:
        return False
    before = fingerprint(arrays)
    with contextlib.suppress(Exception):  # a loss may do what it likes away from the point
        _value_at(loss, next(_records_beside(point)), point.args, with_gradients)
    return fingerprint(arrays) != before


def _affordable(wanted: int, made: int, size: int, what: str) -> tuple[int, str | None]:
    """For how many threads or processes memory holds a copy of the parameters (``made`` exist), and a note if few."""
    if (wanted - made) * size <= _ALWAYS_THERE:
        return wanted, None
    room, copy = _available_memory() * _MEMORY_SHARE, max(1, size)
    affordable = max(1, min(wanted, made + int(min(room / copy, wanted))))
    if affordable == wanted:
        return wanted, None
    return affordable, f"{affordable} of {wanted} {what}: each needs a copy of the parameters of {copy / 2**20:.0f} MiB"


def _available_memory() -> float:
    """Bytes that can be taken without swapping; infinite where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024.0 if found else float("inf")
