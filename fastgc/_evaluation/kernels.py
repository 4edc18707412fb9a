"""Compiled loops over displaced entries, along directions, and over points."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import impl_ret_new_ref
from numba.core.serialize import dumps
from numba.extending import (
    NativeValue,
    intrinsic,
    models,
    overload,
    register_model,
    typeof_impl,
    unbox,
)
from numpy.typing import DTypeLike

from fastgc._evaluation.jitted import runs_in_parallel
from fastgc._evaluation.kernel_files import KernelFiles, allowed
from fastgc._evaluation.numba_record import Context, Intrinsic, Overload, RecordType
from fastgc._parameters.arrays import Array, DType, Positions
from fastgc._parameters.layout import Node

if TYPE_CHECKING:
    from numba.core.datamodel.manager import DataModelManager
    from numba.core.pythonapi import _UnboxContext as UnboxContext
    from numba.core.typing.context import Context as TypingContext
    from numba.core.typing.templates import Signature

Args: TypeAlias = tuple[object, ...]
Dispatcher: TypeAlias = Any  # a jitted function; Numba's stub does not name its caches
CompileResult: TypeAlias = Any  # a compilation; its stub names no attribute
Result = TypeVar("Result")
Kinds: TypeAlias = tuple[types.Type, ...]  # of the arguments of a compiled function

_KEPT = 32  # functions that return what others fill: compiling one takes 0.1 s, and each keeps the other alive

# --- calling a loss ---


def _as_number(value: object) -> complex:
    """The loss's value as a number, in nopython code, where it returns a number, an array of one or a tuple."""
    raise NotImplementedError


@overload(_as_number, strict=False)
def _as_number_in_jitted_code(value: types.Type) -> Overload:
    if isinstance(value, types.Array):
        return lambda value: value.flat[0]
    if isinstance(value, types.BaseTuple):  # (value, gradients)
        return lambda value: _as_number(value[0])
    return lambda value: value


def _write(value: object, shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    """Write outputs, nested as NumPy would make an array of them, to ``out[k, begin:]``: where they end.

    -1 if their lengths along the axes from ``axis`` on are not those of ``shape``.
    """
    raise NotImplementedError


@overload(_write, strict=False)
def _write_in_jitted_code(
    value: types.Type, shape: types.Type, axis: types.Type, out: types.Type, k: types.Type, begin: types.Type
) -> Overload:
    if isinstance(value, types.Array):
        return _write_scalar_array if value.ndim == 0 else _write_vector if value.ndim == 1 else _write_array
    if isinstance(value, (types.UniTuple, types.List, types.ListType)):
        return _write_items
    if isinstance(value, types.BaseTuple):
        return _write_last if len(value) == 0 else _write_first
    return _write_number


def _write_number(value: complex, shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    out[k, begin] = value
    return begin + 1


def _write_scalar_array(value: Array, shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    out[k, begin] = value[()]
    return begin + 1


def _write_vector(value: Array, shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    if value.size != shape[axis]:
        return -1
    for i in range(value.size):
        out[k, begin + i] = value[i]
    return begin + int(value.size)


def _write_array(value: Array, shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    for i in range(value.ndim):
        if value.shape[i] != shape[axis + i]:
            return -1
    for each in value.flat:
        out[k, begin] = each
        begin += 1
    return begin


def _write_items(value: Sequence[object], shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    if len(value) > shape[axis]:  # fewer are seen at the end; the rest of a tuple is shorter
        return -1
    for each in value:
        begin = _write(each, shape, axis + 1, out, k, begin)
        if begin < 0:
            return -1
    return begin


def _write_first(value: tuple[object, ...], shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    """Of a tuple of several types, whose number of items is fixed."""
    end = _write(value[0], shape, axis + 1, out, k, begin)
    return end if end < 0 else _write(value[1:], shape, axis, out, k, end)


def _write_last(value: tuple[object, ...], shape: Positions, axis: int, out: Array, k: int, begin: int) -> int:
    return begin


@functools.lru_cache(maxsize=_KEPT)
def filled(function: Dispatcher, count: int, place: int) -> Dispatcher:
    """A jitted function that returns a copy of its argument number ``place``, filled by another one of ``count``."""
    names = [f"a{i}" for i in range(count)]
    space: dict[str, object] = {"function": function}
    given = ", ".join("out" if i == place else name for i, name in enumerate(names))
    exec(f"def filled({', '.join(names)}):\n  out = a{place}.copy()\n  function({given})\n  return out", space)
    return numba.njit(space["filled"])


def compile_loss(function: Callable[..., object]) -> Dispatcher:
    """A plain Python function compiled with ``numba.njit``."""
    return numba.njit(function)


class CompiledLoss:
    """The address of the machine code of a jitted loss, compiled for arguments of given types.

    Parameters
    ----------
    loss : jitted function
    arguments : tuple
        Arguments of the types that later calls will have.
    """

    __slots__ = ("_compiled", "address", "in_parallel", "kinds", "loops", "missed", "numba_type")

    @global_compiler_lock  # Numba takes this lock to compile, but not to look up machine code
    def __init__(self, loss: Dispatcher, arguments: tuple[object, ...]) -> None:
        kinds = tuple(numba.typeof(argument) for argument in arguments)
        found = loss.overloads.get(kinds) or _compiled_for(loss, kinds)
        self._compiled = found or _compiled_for(_forwarded(loss, len(kinds)), kinds)  # keeps the code alive
        assert self._compiled is not None
        name = self._compiled.fndesc.llvm_func_name
        self.address = self._compiled.library.get_pointer_to_function(name)
        self.numba_type = CompiledLossType(self._compiled.signature)
        self.kinds = (self.numba_type, kinds[0], types.Tuple(kinds[1:]))
        self.in_parallel = runs_in_parallel(loss, arguments)
        self.loops: dict[tuple[Dispatcher, DType], Callable[..., object]] = {}
        # Loops that were looked for in vain, when the kernel had so many compilations in this process.
        self.missed: dict[tuple[Dispatcher, DType], int] = {}

    @classmethod
    def of(cls, loss: Dispatcher, arguments: tuple[object, ...]) -> CompiledLoss:
        """The same, kept with the loss for later checks with arguments of these types."""
        kept: dict[Kinds, CompiledLoss] = loss.__dict__.setdefault("_fastgc_compiled", {})
        kinds = tuple(numba.typeof(argument) for argument in arguments)
        found = kept.get(kinds)
        if found is None or found._compiled is not loss.overloads.get(kinds):  # `recompile` has made another one
            found = kept[kinds] = cls(loss, arguments)
        return found


def _compiled_for(loss: Dispatcher, kinds: Kinds) -> CompileResult | None:
    """The compilation for exactly these types; None where Numba would convert them or fill in defaults."""
    loss.get_call_template(kinds, {})
    return loss.overloads.get(kinds)


def _forwarded(loss: Dispatcher, count: int) -> Dispatcher:
    """A function that calls the loss with its own arguments, so that Numba converts them and fills in defaults."""
    names = ", ".join(f"a{i}" for i in range(count))  # Numba would pack *arguments into one tuple
    return numba.njit(eval(f"lambda {names}: loss({names})", {"loss": loss}))


class CompiledLossType(types.Type):
    """Numba's type of a `CompiledLoss`: the types of its arguments and of its result."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        super().__init__(f"fastgc.CompiledLoss({signature})")

    @property
    def key(self) -> Signature:
        return self.signature


@register_model(CompiledLossType)
class _CompiledLossModel(models.PrimitiveModel):
    def __init__(self, manager: DataModelManager, kind: CompiledLossType) -> None:
        super().__init__(manager, kind, ir.IntType(64))


@typeof_impl.register(CompiledLoss)
def _typeof_loss(loss: CompiledLoss, context: TypingContext) -> CompiledLossType:
    return loss.numba_type


@unbox(CompiledLossType)
def _unbox_loss(kind: CompiledLossType, obj: ir.Value, c: UnboxContext) -> NativeValue:
    attribute = c.pyapi.object_getattr_string(obj, "address")
    address: NativeValue = c.unbox(types.int64, attribute)
    c.pyapi.decref(attribute)
    return address


@intrinsic
def _call(typing_context: TypingContext, loss: CompiledLossType, params: types.Type, args: types.Type) -> Intrinsic:
    """Call the loss at its address by Numba's own calling convention. Its exceptions pass through."""
    callee = loss.signature

    def codegen(context: Context, builder: ir.IRBuilder, signature: Signature, values: Sequence[ir.Value]) -> ir.Value:
        address, first, rest = values
        kind = context.call_conv.get_function_type(callee.return_type, callee.args)
        function = builder.inttoptr(address, kind.as_pointer())
        arguments = [first, *cgutils.unpack_tuple(builder, rest, len(callee.args) - 1)]
        status, result = context.call_conv.call_function(builder, function, callee.return_type, callee.args, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return impl_ret_new_ref(context, builder, callee.return_type, result)

    return callee.return_type(loss, params, args), codegen


# --- the loops ---


@numba.njit(nogil=True)
def displaced_values(
    loss: CompiledLoss,
    params: object,
    args: Args,
    flat: Array,
    cells: Positions,
    originals: Array,
    displaced: Array,
    out: Array,
) -> None:
    """Set ``flat[cells[i]]`` to ``displaced[i, j]``, write the loss to ``out[i, j]``, and restore to ``originals[i]``.

    Each i displaces the same number of entries together, and no entry twice. ``flat`` shares memory with ``params``.
    The loss is a `CompiledLoss`, so that one compilation of the loop serves all losses of the same argument types, and
    the loss itself is not compiled again. The loop releases the global interpreter lock, so that threads can run it
    simultaneously: this compiles four times faster than ``parallel=True``.
    """
    for i in range(displaced.shape[0]):
        for j in range(displaced.shape[1]):
            for k in range(cells.shape[1]):
                flat[cells[i, k]] = displaced[i, j, k]
            out[i, j] = _as_number(_call(loss, params, args))  # type: ignore[call-arg, arg-type]
        for k in range(cells.shape[1]):
            flat[cells[i, k]] = originals[i, k]


def _displace_entries(flat: Array, original: Array, weights: Array, step: float) -> None:
    """Write ``original + step * weights`` to ``flat``, three arrays of one length."""
    for i in range(flat.size):
        flat[i] = original[i] + step * weights[i]


@numba.njit(nogil=True)
def values_along_rays(
    loss: CompiledLoss, params: object, args: Args, flat: Array, rays: tuple[Array, ...], first: int, out: Array
) -> None:
    """Write the loss at distances along directions to ``out``: the values from number ``first`` on.

    ``rays`` holds origin, begins, bounds, scales, weights and distances.

    Of n distances, value m is the one at ``distances[m % n]`` along direction ``m // n``. For each ray r, with ``part =
    bounds[r]:bounds[r + 1]``, the entries of ``flat`` from ``begins[r]`` on are set to ``origin[part] + distance *
    scales[r] * weights[direction, part]``, and at the end to ``origin[part]``. Indices are unsigned, so that Numba need
    not treat negative ones. With slices instead of the inner loop, compilation would take eight times as long.
    """
    origin, begins, bounds, scales, weights, distances = rays
    for m in range(out.size):
        row, column = (first + m) // distances.size, (first + m) % distances.size
        for r in range(begins.size):
            step, begin = distances[column] * scales[r], begins[r] - bounds[r]
            for k in range(bounds[r], bounds[r + 1]):
                flat[begin + k] = origin[k] + step * weights[row, k]
        out[m] = _as_number(_call(loss, params, args))  # type: ignore[call-arg, arg-type]
    for r in range(begins.size):
        begin = begins[r] - bounds[r]
        for k in range(bounds[r], bounds[r + 1]):
            flat[begin + k] = origin[k]


@numba.njit(nogil=True)
def outputs_at_points(
    function: CompiledLoss, params: object, args: Args, flat: Array, points: Array, shape: Positions, out: Array
) -> int:
    """Write each row of ``points`` to ``flat``, and the outputs there to a row of ``out``; the number of rows done.

    It ends before the first row where the outputs do not have this shape. The function is a `CompiledLoss`; ``flat``
    shares memory with ``params``.
    """
    for k in range(points.shape[0]):
        for i in range(flat.size):
            flat[i] = points[k, i]
        if _write(_call(function, params, args), shape, 0, out, k, 0) != out.shape[1]:  # type: ignore[call-arg, arg-type]
            return k  # type: ignore[unreachable]  # mypy takes an intrinsic for a function that never returns
    return int(points.shape[0])


# --- their compilation ---


def _cached(function: Callable[..., object]) -> Dispatcher:
    """A kernel whose machine code is kept on disk for other processes. It contains no code of the user's."""
    found: Dispatcher = numba.njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # there is no folder to write to
        if allowed():
            found.enable_caching()
            cache = found._cache
            stamp = numba.__version__, cache._impl.locator.get_source_stamp(), function.__name__
            cache._cache_file = KernelFiles(cache.cache_path, stamp, dumps)
    return found


_CACHED = {kernel: _cached(kernel.py_func) for kernel in (displaced_values, values_along_rays, outputs_at_points)}
displace = _cached(_displace_entries)


def open_loop(loss: CompiledLoss, dtype: DType) -> Callable[..., None]:
    """`displaced_values` for a loss and parameters of a dtype, as a function of its arguments from ``params`` on.

    All arrays must be contiguous; cells have dtype int64, displaced entries and values float64, or complex128 if
    ``dtype`` is complex.
    """
    return _entry_point(displaced_values, loss, dtype)


def open_ray_loop(loss: CompiledLoss, dtype: DType) -> Callable[..., None]:
    """The same for `values_along_rays`: begins and bounds have dtype uint64, scales and distances float64."""
    return _entry_point(values_along_rays, loss, dtype)


def open_output_loop(function: CompiledLoss, dtype: DType) -> Callable[..., int]:
    """The same for `outputs_at_points`: points and outputs have the dtype of the parameters, the shape int64."""
    return _entry_point(outputs_at_points, function, dtype)


def _entry_point(kernel: Dispatcher, loss: CompiledLoss, dtype: DType) -> Callable[..., Any]:
    """The compiled kernel, called without Numba's look at the type of each argument (30 microseconds a call)."""
    found = loss.loops.get((kernel, dtype))
    if found is None:
        loop = functools.partial(_compilation(kernel, _kinds(kernel, loss, dtype)).entry_point, loss)
        found = loss.loops[kernel, dtype] = one_at_a_time(loop) if loss.in_parallel else loop
    return found


@functools.cache
def _types_of_values(dtype: np.dtype[Any]) -> list[Any]:
    """Numba's types of the arguments of `displaced_values` from ``flat`` on."""
    value, flat, originals = _value_type(dtype), _contiguous(dtype, 1), _contiguous(dtype, 2)
    return [flat, _contiguous(np.int64, 2), originals, _contiguous(value, 3), _contiguous(value, 2)]


@functools.cache
def _types_of_rays(dtype: np.dtype[Any]) -> list[Any]:
    """The same for `values_along_rays`."""
    flat, places, numbers = _contiguous(dtype, 1), _contiguous(np.uint64, 1), _contiguous(np.float64, 1)
    rays = types.Tuple([flat, places, places, numbers, _contiguous(np.int8, 2), numbers])
    return [flat, rays, types.uint64, _contiguous(_value_type(dtype), 1)]


@functools.cache
def _types_of_outputs(dtype: np.dtype[Any]) -> list[Any]:
    """The same for `outputs_at_points`."""
    return [_contiguous(dtype, 1), _contiguous(dtype, 2), _contiguous(np.int64, 1), _contiguous(dtype, 2)]


def _contiguous(dtype: DTypeLike, ndim: int) -> types.Array:
    return types.Array(numba.from_dtype(np.dtype(dtype)), ndim, "C")


def _value_type(dtype: DType) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


_TYPES = {
    displaced_values: _types_of_values,
    values_along_rays: _types_of_rays,
    outputs_at_points: _types_of_outputs,
}


def _kinds(kernel: Dispatcher, loss: CompiledLoss, dtype: DType) -> Kinds:
    """Numba's types of all arguments of a kernel."""
    return (*loss.kinds, *_TYPES[kernel](dtype))


def _compilation(kernel: Dispatcher, kinds: Kinds) -> CompileResult:
    """The kernel compiled for arguments of these types: earlier, by another process, or now."""
    found = _in_memory(kernel, kinds)
    if not found and _may_be_cached(kinds):
        with contextlib.suppress(Exception):  # the cache cannot be read, say; an error of the loss comes again below
            _CACHED[kernel].compile(kinds)
            found = _in_memory(kernel, kinds)
    if not found:
        kernel.compile(kinds)
        found = _in_memory(kernel, kinds)
    return found


def _in_memory(kernel: Dispatcher, kinds: Kinds) -> CompileResult | None:
    """The kernel compiled for these types in this process, or None."""
    return _CACHED[kernel].overloads.get(kinds) or kernel.overloads.get(kinds)


def _may_be_cached(kinds: Kinds) -> bool:
    return all(_is_known_everywhere(kind) for kind in kinds)


def _is_known_everywhere(kind: types.Type) -> bool:
    """Whether every process that reads the cache has the type: it refers to no class of the user's."""
    if isinstance(kind, CompiledLossType):
        return all(_is_known_everywhere(each) for each in (*kind.signature.args, kind.signature.return_type))
    if isinstance(kind, types.BaseAnonymousTuple):
        members: Any = kind
        return all(_is_known_everywhere(each) for each in members)
    if isinstance(kind, RecordType):
        return all(each.__module__ in ("builtins", "collections") for each in _containers(kind.branch))
    return isinstance(kind.dtype if isinstance(kind, types.Array) else kind, (types.Number, types.Boolean))


def _containers(node: Node) -> Iterator[type]:
    if not isinstance(node, int):
        yield node.container
        for child in node.children:
            yield from _containers(child)


def loops_are_compiled(loss: CompiledLoss, dtypes: Iterable[DType]) -> bool:
    """Whether the loops over displaced entries exist already, in this process or on disk.

    They are for a loss and parameters of these dtypes. A check of every entry compiles no loop along directions. A loop
    that was not there is looked for again when this process has compiled another one.
    """
    return all(_is_compiled(displaced_values, loss, dtype) for dtype in dtypes)


def output_loop_is_compiled(function: CompiledLoss, dtype: DType) -> bool:
    """The same for the loop over outputs."""
    return _is_compiled(outputs_at_points, function, dtype)


def _is_compiled(kernel: Dispatcher, loss: CompiledLoss, dtype: DType) -> bool:
    if (kernel, dtype) in loss.loops:
        return True
    compilations = len(kernel.overloads) + len(_CACHED[kernel].overloads)
    if loss.missed.get((kernel, dtype)) == compilations:
        return False
    kinds = _kinds(kernel, loss, dtype)
    if _in_memory(kernel, kinds) or (_may_be_cached(kinds) and _is_on_disk(_CACHED[kernel], kinds)):
        return True
    loss.missed[kernel, dtype] = compilations
    return False


def _is_on_disk(cached: Dispatcher, kinds: Kinds) -> bool:
    with contextlib.suppress(Exception):  # the cache cannot be read
        key = cached._cache._index_key(kinds, cached.targetctx.codegen())
        return cached._cache._cache_file.load(key) is not None
    return False


def default_threads() -> int:
    """The number of threads that Numba is set to use."""
    return int(numba.get_num_threads())


# --- functions that run in parallel ---

_turn = threading.RLock()

if hasattr(os, "register_at_fork"):  # the child of a fork would wait for ever for a thread that it does not have
    for _lock in (global_compiler_lock, _turn):
        os.register_at_fork(before=_lock.acquire, after_in_child=_lock.release, after_in_parent=_lock.release)


def one_at_a_time(function: Callable[..., Result]) -> Callable[..., Result]:
    """A function that waits until no other thread calls one of these.

    It is for jitted functions that run in parallel: with the threading layer "workqueue", Numba ends the process when
    two threads call such functions at the same time.
    """

    def called(*args: object) -> Result:
        with _turn:
            return function(*args)

    return called
