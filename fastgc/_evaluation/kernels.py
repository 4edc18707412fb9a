"""Everything that is compiled: the loops over displaced entries, and the record inside jitted code."""

from __future__ import annotations

import contextlib
import operator
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.imputils import impl_ret_borrowed, impl_ret_new_ref, lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer, signature
from numba.extending import (
    NativeValue,
    box,
    intrinsic,
    models,
    overload,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import make_array, populate_array

from fastgc._parameters.layout import Branch, Node, flatten_parameters
from fastgc._parameters.record import Record, RecordTree, store

_BUFFER = types.Array(types.uint8, 1, "C")
_TABLE = types.Array(types.int64, 1, "C")

# --- the record as a Numba type: the buffer and its table, whatever the number of arrays ---


class RecordType(types.Type):
    """Numba's type of a `Record`; sizes are no part of it, so that one compilation serves all sizes."""

    _hash: int | None = None  # kept, since Numba asks for it at every call; another process's differs

    def __init__(self, tree: RecordTree) -> None:
        self.tree = tree
        super().__init__(f"fastgc.Record{self.branch.names}#{zlib.crc32(repr(tree).encode()):x}")

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.tree)
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hash": None}

    @property
    def branch(self) -> Branch:
        """The names and their children."""
        assert isinstance(self.tree.node, Branch)
        return self.tree.node

    @property
    def key(self) -> RecordTree:
        return self.tree


@register_model(RecordType)
class _RecordModel(models.StructModel):
    def __init__(self, manager: Any, record: RecordType) -> None:
        super().__init__(manager, record, [("buffer", _BUFFER), ("table", _TABLE)])


@typeof_impl.register(Record)
def _typeof_record(record: Record, context: Any) -> RecordType:
    if record.numba_type is None:
        record.numba_type = RecordType(record.tree)
    kind: RecordType = record.numba_type
    return kind


@unbox(RecordType)
def _unbox_record(record: RecordType, obj: Any, c: Any) -> NativeValue:
    native = cgutils.create_struct_proxy(record)(c.context, c.builder)
    errors = []
    for field, kind in (("buffer", _BUFFER), ("table", _TABLE)):
        attribute = c.pyapi.object_getattr_string(obj, field)
        unboxed = c.unbox(kind, attribute)
        setattr(native, field, unboxed.value)
        errors.append(unboxed.is_error)
        c.pyapi.decref(attribute)
    return NativeValue(native._getvalue(), is_error=c.builder.or_(*errors))


@box(RecordType)
def _box_record(record: RecordType, value: Any, c: Any) -> Any:
    native = cgutils.create_struct_proxy(record)(c.context, c.builder, value)
    make = c.pyapi.unserialize(c.pyapi.serialize_object(Record))
    tree = c.pyapi.unserialize(c.pyapi.serialize_object(record.tree))
    for field, kind in (("buffer", _BUFFER), ("table", _TABLE)):
        c.context.nrt.incref(c.builder, kind, getattr(native, field))
    parts = (c.box(_BUFFER, native.buffer), c.box(_TABLE, native.table), tree)
    c.context.nrt.decref(c.builder, record, value)
    boxed = c.pyapi.call_function_objargs(make, parts)
    for part in (make, *parts):
        c.pyapi.decref(part)
    return boxed


def _child_type(tree: RecordTree) -> Any:
    if isinstance(tree.node, int):
        ndim, dtype = tree.leaves[tree.node]
        return types.Array(numba.from_dtype(np.dtype(dtype)), ndim, "C")
    if tree.node.is_dict:
        return RecordType(tree)
    return types.Tuple([_child_type(RecordTree(child, tree.leaves)) for child in tree.node.children])


def _build_child(context: Any, builder: Any, native: Any, tree: RecordTree) -> Any:
    """The LLVM value of a child: an array over its part of the buffer, a record, or a tuple of children."""
    if isinstance(tree.node, int):
        return _build_array(context, builder, native, tree)
    kind = _child_type(tree)
    if tree.node.is_dict:
        child = cgutils.create_struct_proxy(kind)(context, builder)
        child.buffer, child.table = native.buffer, native.table
        return child._getvalue()
    parts = [_build_child(context, builder, native, RecordTree(part, tree.leaves)) for part in tree.node.children]
    return context.make_tuple(builder, kind, parts)


def _build_array(context: Any, builder: Any, native: Any, tree: RecordTree) -> Any:
    assert isinstance(tree.node, int)
    kind, row = _child_type(tree), tree.rows[tree.node]
    buffer = make_array(_BUFFER)(context, builder, native.buffer)
    table = make_array(_TABLE)(context, builder, native.table)
    cells = [
        builder.load(builder.gep(table.data, [ir.Constant(ir.IntType(64), row + i)])) for i in range(1 + kind.ndim)
    ]
    array = make_array(kind)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [ir.Constant(ir.IntType(64), itemsize)]
    for length in reversed(cells[2:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        array,
        data=builder.bitcast(builder.gep(buffer.data, [cells[0]]), array.data.type),
        shape=cells[1:],
        strides=strides[: kind.ndim],
        itemsize=itemsize,
        meminfo=buffer.meminfo,
    )
    return array._getvalue()


@infer
class _RecordItem(AbstractTemplate):
    """Typing of ``record["W1"]``; without a function to be compiled for every name."""

    key = "static_getitem"

    def generic(self, args: Any, kws: Any) -> Any:
        record, name = args
        if isinstance(record, RecordType) and name in record.branch.names:
            return signature(_child_type(_child_tree(record, name)), *args)
        return None  # the overload below says what is wrong


@lower_builtin("static_getitem", RecordType, types.StringLiteral)
def _record_item(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    native, name = args
    return _lowered_child(context, builder, signature.args[0], native, name)


def _child_tree(record: RecordType, name: str) -> RecordTree:
    branch = record.branch
    return RecordTree(branch.children[branch.names.index(name)], record.tree.leaves)


def _lowered_child(context: Any, builder: Any, record: RecordType, value: Any, name: str) -> Any:
    tree = _child_tree(record, name)
    native = cgutils.create_struct_proxy(record)(context, builder, value)
    return impl_ret_borrowed(context, builder, _child_type(tree), _build_child(context, builder, native, tree))


@intrinsic(prefer_literal=True)
def _child(typing_context: Any, record: RecordType, name: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _lowered_child(context, builder, record, args[0], name.literal_value)

    return _child_type(_child_tree(record, name.literal_value))(record, name), codegen


@overload(operator.getitem, prefer_literal=True, strict=False)
def _getitem(record: Any, name: Any) -> Any:
    if not isinstance(record, RecordType):
        return None
    if not isinstance(name, types.StringLiteral):
        raise numba.errors.TypingError("a record is indexed by a literal name, such as params['W1'], in jitted code")
    if name.literal_value not in record.branch.names:
        known = ", ".join(map(repr, record.branch.names))
        raise numba.errors.TypingError(f"params has no tensor {name.literal_value!r}; it has {known}")
    return lambda record, name: _child(record, name)  # type: ignore[call-arg]


@overload(len, strict=False)
def _len(record: Any) -> Any:
    if not isinstance(record, RecordType):
        return None
    count = len(record.branch.names)
    return lambda record: count


@intrinsic
def _buffer(typing_context: Any, record: RecordType) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        native = cgutils.create_struct_proxy(record)(context, builder, args[0])
        return impl_ret_borrowed(context, builder, _BUFFER, native.buffer)

    return _BUFFER(record), codegen


@intrinsic
def _with_buffer(typing_context: Any, record: RecordType, buffer: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        native = cgutils.create_struct_proxy(record)(context, builder, args[0])
        native.buffer = args[1]
        return impl_ret_borrowed(context, builder, record, native._getvalue())

    return record(record, buffer), codegen


def record(params: Any) -> Any:
    """Parameters as a jitted function receives them, copied: ``r["W1"]`` in Python and in nopython code.

    Parameters
    ----------
    params : dict of arrays (may be nested), list or tuple of arrays, or one array
        Arrays of float16, float32 or float64, of any shape.

    Returns
    -------
    Record, tuple or array
        C-contiguous float64 copies over one buffer. A dict becomes a record, indexed by its keys (literals, in jitted
        code); a list or tuple becomes a tuple; an array is an array. Inside a jitted function ``fastgc.record(params)``
        copies a record: room for a compiled gradient to fill and return.

    Raises
    ------
    TypeError, ValueError
        For parameters that `check_gradients` would refuse.
    """
    layout, leaves = flatten_parameters(params)
    return store(layout, leaves, [np.dtype(np.float64)] * len(leaves)).record()


@overload(record, strict=False)
def _record_in_jitted_code(params: Any) -> Any:
    if isinstance(params, RecordType):
        return lambda params: _with_buffer(params, _buffer(params).copy())  # type: ignore[call-arg]
    if isinstance(params, types.Array):
        return lambda params: params.copy()
    return None


# --- loops over displaced entries ---


def _number(value: Any) -> Any:
    """The loss's value as a number, in nopython code: numbers and arrays of one value."""
    raise NotImplementedError


@overload(_number, strict=False)
def _number_in_jitted_code(value: Any) -> Any:
    if isinstance(value, types.Array):
        return lambda value: value.flat[0]
    if isinstance(value, types.BaseTuple):  # (value, gradients)
        return lambda value: _number(value[0])
    return lambda value: value


def compile_loss(function: Callable[..., Any]) -> Any:
    """A plain Python function compiled with ``numba.njit``."""
    return numba.njit(function)


class Entry:
    """Where the machine code of a jitted loss begins that was compiled for certain arguments.

    Parameters
    ----------
    loss : jitted function
    arguments : tuple
        What it will be called with.
    """

    __slots__ = ("_compiled", "address", "in_parallel", "kinds", "numba_type")

    @global_compiler_lock  # which Numba holds while it compiles, and not where machine code is looked for
    def __init__(self, loss: Any, arguments: tuple[Any, ...]) -> None:
        kinds = tuple(numba.typeof(argument) for argument in arguments)
        found = loss.overloads.get(kinds) or _compiled_for(loss, kinds)
        self._compiled = found or _compiled_for(_forwarded(loss, len(kinds)), kinds)  # keeps the code alive
        assert self._compiled is not None
        name = self._compiled.fndesc.llvm_func_name
        self.address = self._compiled.library.get_pointer_to_function(name)
        self.numba_type = EntryType(self._compiled.signature)
        self.kinds = (self.numba_type, kinds[0], types.Tuple(kinds[1:]))
        self.in_parallel = runs_in_parallel(loss)


def _compiled_for(loss: Any, kinds: tuple[Any, ...]) -> Any:
    """The compilation for just these types; None where there can be none: defaults to fill in, other layouts."""
    loss.get_call_template(kinds, {})
    return loss.overloads.get(kinds)


def _forwarded(loss: Any, count: int) -> Any:
    """A function that hands its arguments on to the loss, for which conversions and defaults are Numba's."""
    names = ", ".join(f"a{i}" for i in range(count))  # Numba would pack *arguments into one tuple
    return numba.njit(eval(f"lambda {names}: loss({names})", {"loss": loss}))


class EntryType(types.Type):
    """Numba's type of an `Entry`: what the function takes and returns."""

    def __init__(self, signature: Any) -> None:
        self.signature = signature
        super().__init__(f"fastgc.Entry({signature})")

    @property
    def key(self) -> Any:
        return self.signature


@register_model(EntryType)
class _EntryModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: EntryType) -> None:
        super().__init__(manager, kind, ir.IntType(64))


@typeof_impl.register(Entry)
def _typeof_entry(entry: Entry, context: Any) -> EntryType:
    return entry.numba_type


@unbox(EntryType)
def _unbox_entry(kind: EntryType, obj: Any, c: Any) -> NativeValue:
    attribute = c.pyapi.object_getattr_string(obj, "address")
    address: NativeValue = c.unbox(types.int64, attribute)
    c.pyapi.decref(attribute)
    return address


@intrinsic
def _call(typing_context: Any, entry: EntryType, params: Any, args: Any) -> Any:
    """Call the loss at its address, by Numba's own calling convention; what it raises is passed on."""
    callee = entry.signature

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, first, rest = values
        kind = context.call_conv.get_function_type(callee.return_type, callee.args)
        function = builder.inttoptr(address, kind.as_pointer())
        arguments = [first, *cgutils.unpack_tuple(builder, rest, len(callee.args) - 1)]
        status, result = context.call_conv.call_function(builder, function, callee.return_type, callee.args, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return impl_ret_new_ref(context, builder, callee.return_type, result)

    return callee.return_type(entry, params, args), codegen


@numba.njit(nogil=True)
def displaced_values(entry: Any, params: Any, args: Any, flat: Any, positions: Any, displaced: Any, out: Any) -> None:
    """Set ``flat[positions[i]]`` to ``displaced[i, j]``, write the loss to ``out[i, j]`` and assign the entry back.

    ``flat`` shares memory with ``params``. The loss comes as an `Entry`, so that one compilation serves all losses of
    the same arguments, and costs nothing of the loss's own. The loop releases the global interpreter lock: threads run
    it side by side, which compiles four times faster than ``parallel=True``.
    """
    for i in range(positions.size):
        position = positions[i]
        original = flat[position]
        for j in range(displaced.shape[1]):
            flat[position] = displaced[i, j]
            out[i, j] = _number(_call(entry, params, args))  # type: ignore[call-arg]
        flat[position] = original


@numba.njit(nogil=True)
def displace(flat: Any, original: Any, signs: Any, step: float) -> None:
    """Write ``original + step * signs`` to ``flat``; all of one length."""
    for i in range(flat.size):
        flat[i] = original[i] + step * signs[i]


@numba.njit(nogil=True)
def values_along_rays(
    entry: Any, params: Any, args: Any, flat: Any, origin: Any, begins: Any, bounds: Any, scales: Any, signs: Any,
    distances: Any, first: int, out: Any,
) -> None:  # fmt: skip
    """Write the loss at distances along directions to ``out``: values number ``first`` and following of them all.

    Value m is at ``distances[m % n]`` along direction ``m // n``, of n distances. A direction displaces the entries of
    ``flat`` from ``begins[r]`` on by ``distance * scales[r] * signs[direction, bounds[r]:bounds[r + 1]]``, for each r,
    away from ``origin[bounds[r]:bounds[r + 1]]``, to which they are assigned back. Places are unsigned numbers, which
    Numba need not look at for negative ones; with slices it would compile eight times as long.
    """
    for m in range(out.size):
        row, column = (first + m) // distances.size, (first + m) % distances.size
        for r in range(begins.size):
            step, begin = distances[column] * scales[r], begins[r] - bounds[r]
            for k in range(bounds[r], bounds[r + 1]):
                flat[begin + k] = origin[k] + step * signs[row, k]
        out[m] = _number(_call(entry, params, args))  # type: ignore[call-arg]
    for r in range(begins.size):
        begin = begins[r] - bounds[r]
        for k in range(bounds[r], bounds[r + 1]):
            flat[begin + k] = origin[k]


def _cached(kernel: Any) -> Any:
    """The same kernel, whose machine code is kept on disk for other processes: nothing of the user's is in it."""
    found = numba.njit(nogil=True)(kernel.py_func)
    with contextlib.suppress(RuntimeError):  # no folder that can be written to
        found.enable_caching()
    return found


_CACHED = {kernel: _cached(kernel) for kernel in (displaced_values, values_along_rays)}
displace = _cached(displace)


def open_loop(entry: Entry, dtype: np.dtype[Any]) -> Callable[..., None]:
    """`displaced_values` for a loss and parameters of a dtype, as a function of its arguments from ``params`` on.

    All arrays must be contiguous, positions of int64, displaced entries and values of float64, or of complex128 where
    ``dtype`` is.
    """
    return _opened(displaced_values, entry, dtype)


def open_ray_loop(entry: Entry, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The same of `values_along_rays`: ``begins`` and ``bounds`` are of uint64, scales and distances of float64."""
    return _opened(values_along_rays, entry, dtype)


def _opened(kernel: Any, entry: Entry, dtype: np.dtype[Any]) -> Callable[..., None]:
    """A kernel that does without Numba's look at the type of every argument, at every call (30 microseconds)."""
    loop = partial(_compilation(kernel, _kinds(entry, _ARRAYS[kernel](dtype))).entry_point, entry)
    return _in_turn(loop) if entry.in_parallel else loop


def _arrays_of_values(dtype: np.dtype[Any]) -> list[tuple[Any, int]]:
    """Dtypes and numbers of axes (0: a number) of what `displaced_values` takes from ``flat`` on."""
    value = _value_type(dtype)
    return [(dtype, 1), (np.int64, 1), (value, 2), (value, 2)]


def _arrays_of_rays(dtype: np.dtype[Any]) -> list[tuple[Any, int]]:
    """The same of `values_along_rays`."""
    places, numbers = (np.uint64, 1), (np.float64, 1)
    rays = [places, places, numbers, (np.int8, 2), numbers, (np.uint64, 0)]
    return [(dtype, 1), (dtype, 1), *rays, (_value_type(dtype), 1)]


def _value_type(dtype: np.dtype[Any]) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


_ARRAYS = {displaced_values: _arrays_of_values, values_along_rays: _arrays_of_rays}


def _kinds(entry: Entry, arrays: Sequence[tuple[Any, int]]) -> tuple[Any, ...]:
    """Numba's types of a kernel's arguments, all arrays contiguous."""
    scalars = [(numba.from_dtype(np.dtype(dtype)), ndim) for dtype, ndim in arrays]
    return (*entry.kinds, *(types.Array(kind, ndim, "C") if ndim else kind for kind, ndim in scalars))


def _compilation(kernel: Any, kinds: tuple[Any, ...]) -> Any:
    """The kernel compiled for arguments of these types: before, by another process, or now."""
    if not _known(kernel, kinds) and _may_be_cached(kinds):
        with contextlib.suppress(Exception):  # of a cache that cannot be read, say; the loss's own come again below
            _CACHED[kernel].compile(kinds)
    if not _known(kernel, kinds):
        kernel.compile(kinds)
    return _known(kernel, kinds)


def _known(kernel: Any, kinds: tuple[Any, ...]) -> Any:
    """The kernel compiled for these types in this process, or None."""
    return _CACHED[kernel].overloads.get(kinds) or kernel.overloads.get(kinds)


def _may_be_cached(kinds: tuple[Any, ...]) -> bool:
    return all(_is_known_everywhere(kind) for kind in kinds)


def _is_known_everywhere(kind: Any) -> bool:
    """Whether a type refers to no class of the user's, which a process that reads the cache may not have."""
    if isinstance(kind, EntryType):
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


def loops_are_compiled(entry: Entry, dtype: np.dtype[Any]) -> bool:
    """Whether the loops for a loss and parameters of a dtype were compiled before, in this process or in another."""
    return all(_is_compiled(kernel, _kinds(entry, arrays(dtype))) for kernel, arrays in _ARRAYS.items())


def _is_compiled(kernel: Any, kinds: tuple[Any, ...]) -> bool:
    if _known(kernel, kinds) or not _may_be_cached(kinds):
        return _known(kernel, kinds) is not None
    cached = _CACHED[kernel]
    with global_compiler_lock, contextlib.suppress(Exception):  # of a cache that cannot be read
        return cached._cache.load_overload(kinds, cached.targetctx) is not None
    return False


def default_threads() -> int:
    """Numba's own setting for the number of threads."""
    return int(numba.get_num_threads())


_turn = threading.RLock()


def _in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any) -> Any:
        with _turn:
            return function(*args)

    return called


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted function; one that runs in parallel, on all cores, for one caller at a time of all such functions.

    Numba ends the process where two threads run one in parallel and the only threading layer is "workqueue".
    """
    return _in_turn(function) if runs_in_parallel(function) else function


def runs_in_parallel(loss: Any) -> bool:
    """Whether the loss, or a jitted function that it refers to, was compiled with ``parallel=True``."""
    return any(bool(function.targetoptions.get("parallel")) for function in _jitted_functions(loss))


def freezes_data(loss: Any) -> bool:
    """Whether Numba has frozen data (no function, no module of a library) into the loss or a function it calls."""
    return any(_is_data(value) for function in _jitted_functions(loss) for value in _captured(function.py_func))


def _jitted_functions(loss: Any) -> list[Any]:
    found: list[Any] = []
    queue = [loss]
    while queue:
        function = queue.pop()
        if any(function is other for other in found):
            continue
        found.append(function)
        queue += [value for value in _captured(function.py_func) if is_jitted(value)]
    return found


def _captured(function: Any) -> list[Any]:
    """What a Python function reads from its globals and its closure."""
    names = function.__code__.co_names
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell is not None]
    return [function.__globals__[name] for name in names if name in function.__globals__] + cells


_LIBRARIES = ("numpy", "numba", "math", "cmath", "operator", "scipy", "builtins", "fastgc")


def _is_data(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] not in _LIBRARIES
    return not callable(value)


def compiled_anew(loss: Any) -> Any:
    """The same function compiled with the constants that it sees now."""
    return numba.njit(**{key: value for key, value in loss.targetoptions.items() if key != "nopython"})(loss.py_func)


def is_jitted(function: Any) -> bool:
    """Whether a function was compiled by ``numba.njit``."""
    return isinstance(function, Dispatcher)
