"""Numba's type of a record: parameters by name in compiled code."""

from __future__ import annotations

import functools
import operator
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed, lower_builtin, lower_getattr_generic
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer, infer_getattr, signature
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

from fastgc._parameters.layout import Branch, flatten_parameters
from fastgc._parameters.record import Record, RecordTree, store

if TYPE_CHECKING:
    from numba.core.cgutils import _StructProxy as StructProxy
    from numba.core.datamodel.manager import DataModelManager
    from numba.core.pythonapi import _BoxContext as BoxContext
    from numba.core.pythonapi import _UnboxContext as UnboxContext
    from numba.core.typing.context import Context as TypingContext
    from numba.core.typing.templates import Signature

Context: TypeAlias = Any  # in which Numba generates code; its stub names few of its methods
# What Numba's decorators take: a type and what writes the code, or the Python function to compile.
Intrinsic: TypeAlias = "tuple[Signature, Callable[..., ir.Value]]"
Values: TypeAlias = Sequence[ir.Value]
Overload: TypeAlias = Callable[..., object] | None

_KEPT = 32  # types of records, which take twenty times as long to make as to look up

_BUFFER, _TABLE = types.Array(types.uint8, 1, "C"), types.Array(types.int64, 1, "C")


class RecordType(types.Type):
    """Numba's type of a `Record`. It holds no sizes, so that one compilation serves all sizes."""

    _hash: int | None = None  # kept because Numba asks for it at every call; not pickled, since processes differ in it

    def __init__(self, tree: RecordTree) -> None:
        self.tree = tree
        super().__init__(f"fastgc.Record{self.branch.names}#{zlib.crc32(repr(tree).encode()):x}")

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.tree)
        return self._hash

    def __getstate__(self) -> dict[str, object]:
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
    def __init__(self, manager: DataModelManager, record: RecordType) -> None:
        super().__init__(manager, record, [("buffer", _BUFFER), ("table", _TABLE)])


@typeof_impl.register(Record)
def _typeof_record(record: Record, context: TypingContext) -> RecordType:
    if not hasattr(record, "_numba_type_"):
        record._numba_type_ = _type_of(record.tree)  # Numba's dispatchers find it there, and ask here once
    kind: RecordType = record._numba_type_
    return kind


@functools.lru_cache(maxsize=_KEPT)
def _type_of(tree: RecordTree) -> RecordType:
    return RecordType(tree)


@unbox(RecordType)
def _unbox_record(record: RecordType, obj: ir.Value, c: UnboxContext) -> NativeValue:
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
def _box_record(record: RecordType, value: ir.Value, c: BoxContext) -> ir.Value:
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
    children = [_child_type(tree.child(child)) for child in tree.node.children]
    return types.BaseTuple.from_types(children, tree.node.container if tree.node.names else tuple)


def _build_child(context: Context, builder: ir.IRBuilder, native: StructProxy, tree: RecordTree) -> ir.Value:
    """The LLVM value of a child: an array over its part of the buffer, a record, or a tuple of children."""
    if isinstance(tree.node, int):
        return _build_array(context, builder, native, tree)
    kind = _child_type(tree)
    if tree.node.is_dict:
        child = cgutils.create_struct_proxy(kind)(context, builder)
        child.buffer, child.table = native.buffer, native.table
        return child._getvalue()
    parts = [_build_child(context, builder, native, tree.child(part)) for part in tree.node.children]
    return context.make_tuple(builder, kind, parts)


def _build_array(context: Context, builder: ir.IRBuilder, native: StructProxy, tree: RecordTree) -> ir.Value:
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
    """The typing of ``record["W1"]``. It saves compiling a function for every name."""

    key = "static_getitem"

    def generic(self, args: tuple[types.Type, str], kws: object) -> Signature | None:
        record, name = args
        if isinstance(record, RecordType) and name in record.branch.names:
            found: Signature = signature(_child_type(_child_tree(record, name)), *args)
            return found
        return None  # the overload below says what is wrong


@lower_builtin("static_getitem", RecordType, types.StringLiteral)
def _record_item(context: Context, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
    native, name = args
    return _lowered_child(context, builder, signature.args[0], native, name)


@infer_getattr
class _RecordField(AttributeTemplate):
    """The typing of ``record.W1``, where a dataclass or an attrs class became a record."""

    key = RecordType

    def generic_resolve(self, record: RecordType, name: str) -> types.Type | None:  # type: ignore[override]
        if record.branch.template is not None and name in record.branch.names:
            found: types.Type = _child_type(_child_tree(record, name))
            return found
        return None


@lower_getattr_generic(RecordType)
def _record_field(context: Context, builder: ir.IRBuilder, record: RecordType, value: ir.Value, name: str) -> ir.Value:
    return _lowered_child(context, builder, record, value, name)


def _child_tree(record: RecordType, name: str) -> RecordTree:
    branch = record.branch
    return record.tree.child(branch.children[branch.names.index(name)])


def _lowered_child(context: Context, builder: ir.IRBuilder, record: RecordType, value: ir.Value, name: str) -> ir.Value:
    tree = _child_tree(record, name)
    native = cgutils.create_struct_proxy(record)(context, builder, value)
    return impl_ret_borrowed(context, builder, _child_type(tree), _build_child(context, builder, native, tree))


@intrinsic(prefer_literal=True)
def _child(typing_context: TypingContext, record: RecordType, name: types.StringLiteral) -> Intrinsic:
    def codegen(context: Context, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        return _lowered_child(context, builder, record, args[0], name.literal_value)

    return _child_type(_child_tree(record, name.literal_value))(record, name), codegen


@overload(operator.getitem, prefer_literal=True, strict=False)
def _getitem(record: types.Type, name: types.Type) -> Overload:
    if not isinstance(record, RecordType):
        return None
    if not isinstance(name, types.StringLiteral):
        raise numba.errors.TypingError("a record is indexed by a literal name, such as params['W1'], in jitted code")
    if name.literal_value not in record.branch.names:
        known = ", ".join(map(repr, record.branch.names))
        raise numba.errors.TypingError(f"params has no tensor {name.literal_value!r}; it has {known}")
    return lambda record, name: _child(record, name)  # type: ignore[call-arg]


@overload(len, strict=False)
def _len(record: types.Type) -> Overload:
    if not isinstance(record, RecordType):
        return None
    count = len(record.branch.names)
    return lambda record: count


@intrinsic
def _buffer(typing_context: TypingContext, record: RecordType) -> Intrinsic:
    def codegen(context: Context, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        native = cgutils.create_struct_proxy(record)(context, builder, args[0])
        return impl_ret_borrowed(context, builder, _BUFFER, native.buffer)

    return _BUFFER(record), codegen


@intrinsic
def _with_buffer(typing_context: TypingContext, record: RecordType, buffer: types.Array) -> Intrinsic:
    def codegen(context: Context, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]) -> ir.Value:
        native = cgutils.create_struct_proxy(record)(context, builder, args[0])
        native.buffer = args[1]
        return impl_ret_borrowed(context, builder, record, native._getvalue())

    return record(record, buffer), codegen


def record(params: object) -> Any:
    """A copy of parameters in the form that a jitted function receives: ``r["W1"]`` in Python and in nopython code.

    Parameters
    ----------
    params : dict of arrays (may be nested), list or tuple of arrays, or one array
        Arrays of float16, float32 or float64, of any shape.

    Returns
    -------
    Record, tuple or array
        C-contiguous float64 copies over one buffer. A dict becomes a record, which is indexed by its keys (in jitted
        code by literal keys); a list or tuple becomes a tuple; an array stays an array. Inside a jitted function,
        ``fastgc.record(params)`` copies a record: memory that a compiled gradient fills and returns.

    Raises
    ------
    TypeError, ValueError
        For parameters that `check_gradients` would refuse.

    Examples
    --------
    A jitted loss with a jitted gradient, for which `check_gradients` makes the record itself:

    >>> import numba
    >>> import numpy as np
    >>> import fastgc
    >>> @numba.njit
    ... def loss(params, x):
    ...     return np.sum((params["w"] * x + params["b"]) ** 2)
    >>> @numba.njit
    ... def gradients(params, x):
    ...     slope = 2 * (params["w"] * x + params["b"])
    ...     result = fastgc.record(params)
    ...     result["w"][:] = slope * x
    ...     result["b"][:] = slope
    ...     return result
    >>> params = {"w": np.array([1.0, 2.0]), "b": np.array([0.5, -1.0])}
    >>> x = np.array([3.0, 4.0])
    >>> fastgc.check_gradients(loss, gradients, params, args=(x,)).verdict
    'pass'
    >>> float(loss(fastgc.record(params), x))
    61.25
    """
    layout, leaves = flatten_parameters(params)
    return store(layout, leaves, [np.dtype(np.float64)] * len(leaves)).record()


@overload(record, strict=False)
def _record_in_jitted_code(params: types.Type) -> Overload:
    if isinstance(params, RecordType):
        return lambda params: _with_buffer(params, _buffer(params).copy())  # type: ignore[call-arg]
    if isinstance(params, types.Array):
        return lambda params: params.copy()
    return None
