"""The check of a gradient over a pytree, and what both checks of JAX functions share."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fastgc._arguments import flags, listed
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import Execution, FirstCall, NotFiniteError
from fastgc._evaluation.evaluator import WrongTypeError, described
from fastgc._gradient.check import check_loss, passed_or_raise
from fastgc._gradient.operation import with_operations
from fastgc._gradient.options import CheckOptions, refuse_args
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import FLOATS, named_layout
from fastgc._parameters.matching import refuse_nonfinite
from fastgc._parameters.point import Point
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._reports.gradient import GradientReport
from fastgc._words import Precision, Samples, StencilName, Tolerance
from fastgc.jax._evaluator import JaxEvaluator, Leaf, Leaves, LossOfLeaves, compiled_once
from fastgc.jax._operations import operations_of
from fastgc.jax._precision import in_precision, noted_as_double
from fastgc.jax._tangent import loss_tangents

_COPIED_BYTES = 2**26  # of parameters that are also copied in double precision: 128 MiB more


def check_gradients(
    loss: Callable[..., object],
    params: object,
    gradients: object = None,
    *,
    args: tuple[object, ...] = (),
    has_aux: bool = False,
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    crosscheck: bool = False,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    previous: object = None,
    operations: bool = True,
) -> GradientReport:
    """Check a gradient over a pytree: by default the one by `jax.grad`, custom rules included.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)`` returns one real number. It is compiled where it can be traced.
    params : pytree
        Its floating and complex leaves are checked, under the keys of their path joined by ".". All others are passed
        on and named in a note. A complex leaf is checked as its real and imaginary parts, in a last axis of 2.
    gradients : callable, pytree, or True, optional
        ``gradients(params, *args)``, or its value, of the structure of ``params`` and in the convention of `jax.grad`:
        the gradient with respect to x + iy is d/dx - i d/dy. True: the loss returns ``(value, gradients)``, as
        `jax.value_and_grad` makes it. None in place of a leaf counts as zero, and a note names it.
    args : tuple
        Extra positional arguments of both functions.
    has_aux : bool
        The loss returns ``(value, aux)``, and what `jax.grad` or `jax.value_and_grad` made of it with the same option
        may be the gradients.
    tensors, samples, probes, stencil, step, rtol, atol, points, bounds, symmetric, time_budget, seed, progress
    checkpoint
        As in `fastgc.check_gradients`. ``stencil="complex_step"`` needs a loss that takes complex parameters.
    precision : {"double", "native"}
        Evaluate at float64 copies of params and of floating arrays in args, with ``jax_enable_x64`` switched on while
        the check runs; or in their own dtypes, as JAX is configured. There, what their round-off leaves undecided may
        be confirmed by the loss in double precision, and a note says so.
    crosscheck : bool
        Also show ``scipy.optimize.check_grad`` for at most 32 of the entries.
    previous : pytree, optional
        The parameters of an earlier moment, of the structure of ``params``: see `fastgc.check_gradients`.
    operations : bool
        Where the check of the gradient by `jax.grad` fails: test every call of a function with a custom rule by itself,
        to name the wrong ones. It takes one evaluation with its gradient, equation by equation, and a few of each.

    Returns
    -------
    GradientReport
        ``engine`` names the backend, and "vmap" if values were computed in blocks.

    Notes
    -----
    What differences leave undecided (in noise, in single precision) is decided by an exact tangent, if it is
    independent of the gradient that is checked: that of the functions under custom rules, or of the loss by `jax.jvp`
    where the gradient is the caller's own. A note says so. It needs a loss that can be traced.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, a loss that is not one finite real number, and gradients of another structure
        or shape. Exceptions of the functions pass through, except at displaced points, as in
        `fastgc.check_gradients`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, fastgc
    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["W"] + params["b"]) ** 2)
    >>> params, x = {"W": np.ones((2, 3)), "b": np.zeros(3)}, np.array([[0.5, -0.25]])
    >>> fastgc.jax.check_gradients(loss, params, args=(x,)).verdict
    'pass'
    >>> wrong = {"W": np.ones((2, 3)), "b": np.zeros(3)}
    >>> fastgc.jax.check_gradients(loss, params, wrong, args=(x,)).verdict
    'fail'
    """
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, points=points, bounds=bounds, symmetric=symmetric, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return _check(loss, params, gradients, args, options, has_aux=has_aux, previous=previous, operations=operations)


def assert_gradients(
    loss: Callable[..., object],
    params: object,
    gradients: object = None,
    *,
    args: tuple[object, ...] = (),
    has_aux: bool = False,
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    stencil: StencilName = "central",
    step: float | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    precision: Precision = "double",
    points: int = 1,
    bounds: object = None,
    symmetric: str | Sequence[str] | None = None,
    crosscheck: bool = False,
    time_budget: float | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    previous: object = None,
    operations: bool = True,
    allow_undecided: bool = False,
) -> GradientReport:
    """Check a gradient as `fastgc.jax.check_gradients` does, and raise unless it passes.

    Parameters
    ----------
    loss, params, gradients, args, has_aux, tensors, samples, probes, stencil, step, rtol, atol, precision, points
        As in `fastgc.jax.check_gradients`.
    bounds, symmetric, crosscheck, time_budget, seed, progress, checkpoint, previous, operations
        As in `fastgc.jax.check_gradients`.
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    GradientReport

    Raises
    ------
    fastgc.GradientMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    TypeError, ValueError
        As `fastgc.jax.check_gradients`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, fastgc
    >>> fastgc.jax.assert_gradients(lambda w: jnp.sum(jnp.sin(w)), np.ones(3)).verdict
    'pass'
    """
    __tracebackhide__ = True
    flags(allow_undecided=allow_undecided)
    options = CheckOptions(
        tensors=tensors, samples=samples, probes=probes, stencil=stencil, step=step, rtol=rtol, atol=atol,
        precision=precision, points=points, bounds=bounds, symmetric=symmetric, crosscheck=crosscheck,
        time_budget=time_budget, seed=seed, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    report = _check(loss, params, gradients, args, options, has_aux=has_aux, previous=previous, operations=operations)
    return passed_or_raise(report, allow_undecided)


def _check(
    loss: Callable[..., object],
    params: object,
    gradients: object,
    args: tuple[object, ...],
    options: CheckOptions,
    *,
    has_aux: bool,
    previous: object,
    operations: bool,
) -> GradientReport:
    refuse_args(args)
    flags(has_aux=has_aux, operations=operations)
    options.refuse_gradients(gradients is None or gradients)
    with in_precision(options.precision) as notes, noted_as_double(options.precision):
        tree = flatten(params, "", options.precision)
        double = options.precision == "double"
        options = options.with_bfloat16(
            {n: _dtype(tree.given[i]) == jnp.bfloat16 for n, i in zip(tree.names, tree.checked, strict=True)}
        )
        args = jax.tree_util.tree_map(_leaf_in_double, args) if double else args
        given = _Given(loss, gradients, args, tree, has_aux)
        earlier = None if previous is None else tree.alike(previous, "previous", options.precision)
        with compiled_once(given.by_jax) as given.by_jax:
            report = report_on(
                given.value, given.analytic, tree.names, tree.arrays, options, [*notes, *tree.notes],
                asked=given.asked, by_jax=gradients is None, previous=earlier,
            )  # fmt: skip
        if operations and gradients is None:
            report = with_operations(
                report,
                lambda: operations_of(lambda leaves: _scalar(given.value(leaves)), tree.arrays, options.seed),
                "which custom rule",
            )
    return replace(report, notes=(*report.notes, *given.notes))


class _Given:
    """The caller's loss and gradients as functions of the checked leaves.

    Attributes
    ----------
    by_jax : the gradient by JAX's rules
    notes : on leaves whose gradient is None, once the gradient is known
    """

    def __init__(
        self, loss: Callable[..., object], gradients: object, args: tuple[object, ...], tree: Tree, has_aux: bool
    ) -> None:
        self._loss, self._gradients, self._args, self._tree, self._has_aux = loss, gradients, args, tree, has_aux
        self.by_jax = jax.grad(lambda leaves: _scalar(self.value(leaves)))
        self.notes: tuple[str, ...] = ()

    @property
    def asked(self) -> bool:
        """Whether the gradient can be computed at other points."""
        return self._gradients is None or self._gradients is True or callable(self._gradients)

    def value(self, leaves: Leaves) -> object:
        """The value of the loss."""
        found = self._loss(self._tree.rebuild(leaves), *self._args)
        found = _pair(found, "gradients=True", "gradients")[0] if self._gradients is True else found
        found = _pair(found, "has_aux=True", "aux")[0] if self._has_aux else found
        if isinstance(found, (tuple, list)):
            raise WrongTypeError(
                f"loss returned a {type(found).__name__} of {len(found)}; it must return one real number: pass "
                "has_aux=True if it returns (value, aux), gradients=True if it returns (value, gradients)"
            )
        if isinstance(found, jax.Array) and found.dtype == jnp.bfloat16:
            return found.astype(jnp.float32)
        return found

    def analytic(self, leaves: Leaves) -> list[Leaf]:
        """The gradient of every checked leaf; zeros where it is None."""
        found = self._gradient_of(leaves)
        without = [name for name, each in zip(self._tree.names, found, strict=True) if each is None]
        self.notes = (f"no gradient (None), taken for zero: {listed(without)}",) if without else ()
        return [np.zeros_like(leaf) if each is None else each for leaf, each in zip(leaves, found, strict=True)]

    def _gradient_of(self, leaves: Leaves) -> list[Leaf | None]:
        if self._gradients is None:
            return list(self.by_jax(leaves))
        found, params = self._gradients, self._tree.rebuild(leaves)
        if found is True:
            _, found = _pair(self._loss(params, *self._args), "gradients=True", "gradients")
        elif callable(found):
            found = found(params, *self._args)
        if self._has_aux and isinstance(found, tuple) and len(found) == 2 and not self._tree.fits(found):
            found = found[0]
        return self._tree.matching(found)


def _pair(found: object, option: str, second: str) -> tuple[object, object]:
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        raise WrongTypeError(f"{option}, but loss returned a {type(found).__name__}; it must return (value, {second})")
    return found[0], found[1]


def report_on(
    loss: LossOfLeaves,
    analytic: Callable[[Leaves], Sequence[Leaf]],
    names: Sequence[str],
    arrays: Sequence[Array],
    options: CheckOptions,
    notes: Sequence[str] = (),
    *,
    asked: bool = True,
    by_jax: bool = True,
    previous: Sequence[Array] | None = None,
) -> GradientReport:
    """The check of a real loss of real arrays, whose copies are displaced.

    Parameters
    ----------
    asked : whether the analytic gradient is computed for the leaves that it is asked for
    by_jax : whether the analytic gradient is by JAX's rules
    previous : the arrays of an earlier moment, if there are any
    """
    begin = time.perf_counter()
    layout = named_layout(names, [array.shape for array in arrays], [array.dtype for array in arrays])
    refuse_nonfinite(layout, arrays)
    earlier = None if previous is None else dict(zip(names, previous, strict=True))

    def gradients(params: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, map(np.asarray, analytic([*params.values()])), strict=True))

    small = sum(array.nbytes for array in arrays) <= _COPIED_BYTES
    coarse = options.precision == "native"
    finer = partial(_finer, loss) if coarse and small else None
    exact = partial(loss_tangents, loss, analytic, by_jax) if small else None
    callers = CallersLoss(loss, (), layout, arrays, Execution("python"), precision="native",
                          open_with=partial(_opened, tuple(notes)), finer=finer, exact=exact)  # fmt: skip
    given = gradients if asked else gradients(dict(zip(names, arrays, strict=True)))
    return check_loss(options.applied_to(callers), given, options, earlier, begin)


def _opened(
    notes: tuple[str, ...], loss: LossOfLeaves, point: Point, execution: Execution, **_: object
) -> tuple[JaxEvaluator, FirstCall]:
    """The evaluator at a point, and its first values."""
    with _complex_numbers_needed(any(leaf.dtype.kind == "c" for leaf in point.leaves)):
        evaluator = JaxEvaluator(loss, point.layout, point.leaves, execution.deadline)
    begin = time.perf_counter()
    base, again = evaluator.base, evaluator.value()
    seconds = time.perf_counter() - begin
    if not np.isfinite(base):
        raise NotFiniteError(f"loss is {base} at params; a gradient can be checked only where the loss is finite")
    noise = f"loss is noisy: a repeated call gave {again!r}, not {base!r} (random numbers? pass a fixed key)"
    noisy = bool(again != base)
    return evaluator, FirstCall(base, seconds, False, noisy, (*notes, noise) if noisy else notes)


def _finer(loss: LossOfLeaves, point: Point, deadline: float) -> tuple[JaxEvaluator, FirstCall] | None:
    """An evaluator in double precision, with ``jax_enable_x64`` on until it is closed; None where the loss has none."""
    there = replace(point, leaves=[leaf.astype(np.float64) for leaf in point.leaves])
    with contextlib.ExitStack() as stack:
        stack.enter_context(in_precision("double"))
        try:
            evaluator, first = _opened((), loss, there, Execution("python", deadline=deadline))
        except Exception:  # whatever it does with numbers that it was not written for
            return None
        if first.noisy:
            return None
        evaluator.opened = stack.pop_all()
    return evaluator, first


@contextlib.contextmanager
def _complex_numbers_needed(needed: bool) -> Iterator[None]:
    """Say what to do about an exception of a loss at complex parameters."""
    try:
        yield
    except Exception as error:
        if not needed:
            raise
        raise WrongTypeError(
            'stencil="complex_step" evaluates the loss at complex parameters, which it does not take '
            f'({described(error)}); use stencil="central"'
        ) from error


# --- pytrees ---


@dataclass(frozen=True)
class Tree:
    """A pytree, its checked leaves as real arrays, and the way back.

    Attributes
    ----------
    given : all leaves
    checked : the numbers of the checked leaves
    names, arrays : of the checked leaves; complex ones as real and imaginary parts in a last axis
    others : the names of the leaves that are not checked; None is no leaf to be named
    """

    structure: jax.tree_util.PyTreeDef
    given: tuple[object, ...]
    checked: tuple[int, ...]
    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    others: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """A note on the leaves that are not checked."""
        return [f"not checked, since neither floating nor complex: {listed(self.others)}"] if self.others else []

    def rebuild(self, leaves: Leaves) -> object:
        """The caller's structure with these arrays in place of the checked leaves."""
        every = list(self.given)
        for i, leaf in zip(self.checked, leaves, strict=True):
            every[i] = _as_given(leaf, self.given[i])
        return jax.tree_util.tree_unflatten(self.structure, every)

    def fits(self, value: object) -> bool:
        """Whether a pytree has this structure. None is a leaf: it may stand for one."""
        return bool(jax.tree_util.tree_structure(value, is_leaf=_is_none) == self.structure)

    def matching(self, gradients: object) -> list[Array | None]:
        """The checked leaves of a gradient of the same structure; JAX's gradient of x + iy is d/dx - i d/dy."""
        leaves = [None if leaf is None else _known(leaf) for leaf in self._checked_of(gradients, "gradients")]
        given = [self.given[i] for i in self.checked]
        return [
            _parts(np.conj(leaf + 0j)) if leaf is not None and _is_complex(like) else leaf
            for leaf, like in zip(leaves, given, strict=True)
        ]

    def alike(self, value: object, what: str, precision: str) -> list[Array]:
        """The checked leaves of other parameters of the same structure, as `arrays`."""
        pairs = zip(self.names, self._checked_of(value, what), strict=True)
        return [_array(name, leaf, precision) for name, leaf in pairs]

    def _checked_of(self, value: object, what: str) -> list[object]:
        leaves, structure = jax.tree_util.tree_flatten(value, is_leaf=_is_none)
        if structure != self.structure:
            raise ValueError(f"{what} has the structure {structure}; params has {self.structure}")
        return [leaves[i] for i in self.checked]


def flatten(value: object, prefix: str, precision: str) -> Tree:
    """The `Tree` of a pytree; its names begin with the prefix."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(value, is_leaf=_is_none)
    given = tuple(leaf for _, leaf in pairs)
    checked = tuple(i for i, leaf in enumerate(given) if jnp.issubdtype(_dtype(leaf), jnp.inexact))
    if not checked:
        raise ValueError(f"{prefix or 'params'} holds no floating array: nothing to check")
    every = [".".join(filter(None, [prefix, *map(_key, path)])) or "params" for path, _ in pairs]
    names = tuple(every[i] for i in checked)
    arrays = tuple(_array(name, given[i], precision) for name, i in zip(names, checked, strict=True))
    others = tuple(name for i, name in enumerate(every) if i not in checked and given[i] is not None)
    return Tree(structure, given, checked, names, arrays, others)


def _is_none(value: object) -> bool:
    return value is None


def _key(key: object) -> str:
    """A dict's key, a sequence's index, an attribute's name."""
    return str(next((getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)), key))


def _dtype(leaf: object) -> np.dtype[np.generic]:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _is_complex(leaf: object) -> bool:
    return bool(jnp.issubdtype(_dtype(leaf), jnp.complexfloating))


def _array(name: str, leaf: object, precision: str) -> Array:
    """A real, writable copy of a leaf, in double precision or in the dtype that JAX gives it."""
    array = _parts(np.asarray(leaf)) if _is_complex(leaf) else _known(leaf)
    dtype = np.dtype(np.float64) if precision == "double" else jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype not in FLOATS:
        raise TypeError(f'{name!r} is of {dtype}, which NumPy does not know; use precision="double"')
    return np.array(array, dtype=dtype, order="C")


def _known(leaf: object) -> Array:
    """An array; of float32 in place of bfloat16, which NumPy does not know."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _as_given(leaf: Leaf, given: object) -> Leaf:
    """A leaf as the loss receives it: complex again, and in bfloat16 where float32 stands for that."""
    if _is_complex(given):
        return jax.lax.complex(leaf[..., 0], leaf[..., 1])
    return leaf.astype(jnp.bfloat16) if _dtype(given) == jnp.bfloat16 and leaf.dtype == np.float32 else leaf


def _parts(array: Array) -> Array:
    return np.stack([array.real, array.imag], axis=-1)


def _leaf_in_double(leaf: object) -> object:
    """A floating or complex array in double precision, anything else as it is."""
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.asarray(leaf, jnp.complex128 if _is_complex(leaf) else jnp.float64)


def _scalar(value: object) -> object:
    return value.reshape(()) if isinstance(value, (jax.Array, np.ndarray)) and value.size == 1 else value
