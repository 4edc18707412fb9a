"""The drop-in for jax.test_util.check_grads: forward and reverse mode of any order, checked with verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from fastgc._arguments import flags, number, whole
from fastgc._gradient.options import CheckOptions
from fastgc._parameters.arrays import Array
from fastgc._parameters.streams import stream
from fastgc._reports.gradient import GradientReport, TensorSummary
from fastgc._words import PASS, UNDECIDED, Mode
from fastgc.jax._evaluator import Leaf, Leaves, compiled, compiled_once
from fastgc.jax._gradients import Tree, flatten, report_on
from fastgc.jax._precision import in_precision, noted_as_double

RealFunction = Callable[[Leaves], list[jax.Array]]  # takes real arrays and returns real arrays
Derived = tuple[list[jax.Array], list[jax.Array], jax.Array | float]  # value, gradient and slope, as of a `_Rule`

_MODES = {"fwd": "JVP", "rev": "VJP", "lin": "LIN"}
_PUSHED_AT_ONCE = 64  # basis vectors: enough that a call costs little, few enough to stay in memory
_ACCEPTED = 1e-5  # JAX's own tolerance in double precision: nothing that differs by less is undecided by default
_LINEAR = 1e-9  # relative to the terms that are added up: a thousand roundings of 1e-12, as of ill-conditioned rules
_SAME_OUTPUT = 1e-6  # relative to the largest output or slope: a rule that computes in single precision is no failure
_SMALLEST = 1e-300  # numbers below it lose bits when they are scaled: they are about to underflow

# Where terms cancel, a value or a slope may be nothing but their round-off, which is far above eps times the rest.
# How far, is measured at arguments that are longer by a few units in the last place: everything rounds anew. A
# derivative grows with its tangent but for that and for its own slope, which is as little as the stretch.
_STRETCHES = 1 + np.finfo(np.float64).eps * np.array([3.0, -5.0, 9.0, -17.0])
_LARGEST_ROUND_OFF = 30.0  # times the largest of these few samples, which are whole multiples of an ulp and often 0
_EXACT_STRETCH = -2.0  # of a cotangent: changes sign and exponent only, so that every operation rounds the same way


def check_grads(
    f: Callable[..., object],
    args: Sequence[object],
    order: int,
    modes: Mode | Sequence[Mode] = ("fwd", "rev"),
    atol: float | Mapping[DTypeLike, float] | None = None,
    rtol: float | Mapping[DTypeLike, float] | None = None,
    eps: float | None = None,
    *,
    allow_undecided: bool = False,
) -> None:
    """Check the derivatives that JAX takes of a function, in place of ``jax.test_util.check_grads``.

    One random combination of the outputs is checked as `fastgc.check_gradients` checks a loss: random directions over
    every argument, and a sample of entries. The function runs in float64, with ``jax_enable_x64`` switched on while the
    check runs.

    Parameters
    ----------
    f : callable
        ``f(*args)`` returns a pytree; its floating and complex leaves are differentiated.
    args : tuple
        Pytrees; their floating and complex leaves are checked.
    order : int
        Derivatives up to this order are checked.
    modes : sequence of {"fwd", "rev", "lin"}
        Forward mode (`jax.jvp`), reverse mode (`jax.vjp`), linearisation (`jax.linearize`).
    atol, rtol : float or dict by dtype, optional
        As in `fastgc.check_gradients`; of a dict the largest value for a dtype in ``args`` counts. No entry is
        undecided whose difference and uncertainty are within atol (1e-5, as in JAX, if none is given).
    eps : float, optional
        The step, absolute; by default a step is chosen for each entry.
    allow_undecided : bool
        Accept what finite differences cannot decide.

    Returns
    -------
    None

    Raises
    ------
    AssertionError
        With the mode, the argument's path, the entry and both values. The message begins with "undecided:" if nothing
        is wrong but something could not be decided.
    TypeError, ValueError
        For arguments that make no sense. Exceptions of the function pass through.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np, fastgc
    >>> fastgc.jax.check_grads(jnp.tanh, (np.array([0.5, -1.0]),), order=2)
    >>> @jax.custom_jvp
    ... def square(x):
    ...     return x**2
    >>> square.defjvps(lambda t, y, x: 3 * x * t)
    >>> fastgc.jax.check_grads(square, (np.array([0.5, -1.0]),), order=1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: JVP: args.0[...]: analytic ...
    """
    __tracebackhide__ = True
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in _MODES]
    if unknown or not modes:
        raise ValueError(f"modes has {unknown or 'nothing'}; it may hold {', '.join(map(repr, _MODES))}")
    whole("order", order, least=1)
    flags(allow_undecided=allow_undecided)
    number("eps", eps, positive=True)
    with in_precision("double") as notes, noted_as_double("double"):
        tree = flatten(tuple(args), "args", "double")
        relative, absolute = _tolerance("rtol", rtol, tree), _tolerance("atol", atol, tree)
        criteria = _Closeness(modes, relative, absolute, eps, (*notes, *tree.notes))
        arrays = [jnp.array(array) for array in tree.arrays]
        try:
            undecided = list(_failures(_of_reals(f, tree), arrays, tree.names, order, criteria, ""))
        except _Mismatch as error:
            raise AssertionError(str(error)) from None  # a failing test begins with the message
    if undecided and not allow_undecided:
        raise AssertionError(f"undecided: {undecided[0]}")


class _Mismatch(AssertionError):
    """A wrong derivative. Another class than AssertionError, so that the function's own keep their traceback."""


@dataclass(frozen=True)
class _Closeness:
    """The options that say how closely derivatives of every order are checked."""

    modes: tuple[str, ...]
    rtol: float | None
    atol: float | None
    step: float | None
    notes: tuple[str, ...]


def _tolerance(name: str, value: float | Mapping[DTypeLike, float] | None, tree: Tree) -> float | None:
    """A tolerance given as a number, or by dtype."""
    if isinstance(value, Mapping):
        by_dtype = {np.dtype(dtype): tolerance for dtype, tolerance in value.items()}
        dtypes = {jnp.result_type(tree.given[i]) for i in tree.checked}
        value = max((by_dtype[dtype] for dtype in dtypes if dtype in by_dtype), default=None)
    number(name, value)
    return None if value is None else float(value)


def _of_reals(f: Callable[..., object], tree: Tree) -> RealFunction:
    """``f`` as a function of real arrays that returns real arrays."""

    def function(arrays: Leaves) -> list[jax.Array]:
        arguments = tree.rebuild(arrays)
        assert isinstance(arguments, tuple)  # as they were flattened
        output = jax.tree_util.tree_leaves(f(*arguments))
        parts = [jnp.asarray(each) for each in output if jnp.issubdtype(jnp.result_type(each), jnp.inexact)]
        return [jnp.stack([p.real, p.imag], -1) if jnp.iscomplexobj(p) else p for p in parts]

    return function


# --- orders and modes ---


def _failures(
    f: RealFunction, arrays: Leaves, names: Sequence[str], order: int, criteria: _Closeness, above: str
) -> Iterator[str]:
    """Check all modes and all lower orders; raises at the first failure, yields what is undecided."""
    for mode in criteria.modes:
        title = f"{_MODES[mode]} of {above}" if above else _MODES[mode]
        report = _report(f, arrays, names, mode, criteria, title)
        if report.verdict != PASS:
            message = f"{title}: {_first_words(report)}\n{report}"
            if report.verdict != UNDECIDED:
                raise _Mismatch(message)
            yield message
        if order > 1:
            tangent = f"tangent {title.count(' of ') + 1}" if above else "tangent"
            derived = _derivative(f, arrays, names, mode, tangent)
            yield from _failures(*derived, order - 1, criteria, title)


def _derivative(
    f: RealFunction, arrays: Leaves, names: Sequence[str], mode: str, label: str
) -> tuple[RealFunction, Leaves, Sequence[str]]:
    """The derivative by a mode as a function, its arguments (tangents included) and their names."""
    if mode == "rev":
        return _pulled_back(f), arrays, names
    count = len(names)

    def pushed(both: Leaves) -> list[jax.Array]:
        output, tangent = _push(f, both[:count], mode)
        return [*output, *tangent(both[count:])]

    return pushed, [*arrays, *arrays], [*names, *(f"{label} of {name}" for name in names)]


def _pulled_back(f: RealFunction) -> RealFunction:
    def pulled(arrays: Leaves) -> list[jax.Array]:
        output, pull = jax.vjp(f, list(arrays))
        return list(pull(output)[0])

    return pulled


def _push(f: RealFunction, arrays: Leaves, mode: str) -> tuple[list[jax.Array], Callable[[Leaves], list[jax.Array]]]:
    """The function's value as the mode gives it, and its derivative along tangents."""
    arrays = list(arrays)
    if mode == "lin":
        output, linear = jax.linearize(f, arrays)
        return output, lambda tangents: linear(list(tangents))
    output = jax.jvp(f, (arrays,), ([jnp.zeros_like(array) for array in arrays],))[0]
    return output, lambda tangents: jax.jvp(f, (arrays,), (list(tangents),))[1]


def _report(
    f: RealFunction, arrays: Leaves, names: Sequence[str], mode: str, criteria: _Closeness, title: str
) -> GradientReport:
    """The check of ``<weights, f>`` for fixed random weights; of ``f`` itself if it returns one number."""
    copies = [np.array(array) for array in arrays]
    call = compiled(f, copies)[0]
    expected = call(copies)
    if not expected:
        raise ValueError("f returned no floating array: nothing to check")
    weights = _weights(expected)

    def loss(leaves: Leaves) -> jax.Array:
        return _dot(weights, f(leaves))

    def analytic(leaves: Leaves) -> list[jax.Array]:
        rule = _Rule(derived, leaves, mode)
        _refuse_outputs(rule, expected, lambda: _scatter(call, leaves, expected), criteria.atol or 0.0, title)
        _refuse_nonlinear(rule, criteria.atol or 0.0, title)
        return list(rule.gradient)

    accepted = _ACCEPTED if criteria.atol is None else criteria.atol
    options = CheckOptions(rtol=criteria.rtol, atol=criteria.atol, accepted=accepted, step=criteria.step,
                           crosscheck=False)  # fmt: skip
    with compiled_once(partial(_derived, f, weights, mode)) as derived:
        return report_on(loss, analytic, names, copies, options, criteria.notes)


def _weights(outputs: Leaves) -> list[Array]:
    """Random weights that make one number of all outputs; one number is left as it is, float32 digits and all."""
    if sum(each.size for each in outputs) == 1:
        return [np.ones_like(each) for each in outputs]
    return [_normal(stream(0, "weights", i), each) / max(1, each.size) ** 0.5 for i, each in enumerate(outputs)]


class _Rule:
    """The derivatives by a mode at a point, of the outputs added up with weights.

    Attributes
    ----------
    mode : that gives them
    output : the function's value
    gradient : with respect to every array
    slope : along a random direction, from one tangent; 0 in reverse mode
    """

    def __init__(self, derived: Callable[[Leaves], Derived], arrays: Leaves, mode: str) -> None:
        self.mode, self._arrays, self._derived = mode, arrays, derived
        self.output, self.gradient, self.slope = self.stretched(1.0)

    def stretched(self, factor: float, of_point: float = 1.0) -> Derived:
        """Value, gradient and slope with tangents and cotangents times a factor, at the point times another."""
        point = [np.asarray(array * of_point) for array in self._arrays]
        return self._derived([*point, np.array(factor)])


def _derived(f: RealFunction, weights: Leaves, mode: str, both: Leaves) -> Derived:
    """The value, gradient and slope of a `_Rule`, of arrays and a factor of tangents and cotangents."""
    *arrays, stretch = both
    if mode == "rev":
        return _drawn_back(f, arrays, weights, stretch)
    return _pushed_forward(f, arrays, weights, mode, stretch)


def _drawn_back(f: RealFunction, arrays: Leaves, weights: Leaves, stretch: ArrayLike) -> Derived:
    """The function's value and its gradient from cotangents."""
    output, pull = jax.vjp(f, list(arrays))
    return output, list(pull([stretch * weight for weight in weights])[0]), 0.0


def _pushed_forward(f: RealFunction, arrays: Leaves, weights: Leaves, mode: str, stretch: ArrayLike) -> Derived:
    """The function's value, its gradient from tangents, and the slope along a random direction.

    The gradient is the transpose of the linear map of the tangents; if JAX cannot transpose it, every basis vector is
    pushed forward.
    """
    output, tangent = _push(f, arrays, mode)

    def slope(flat: jax.Array) -> jax.Array:
        return _dot(weights, tangent(_arrays_like(flat, arrays)))

    zero = jnp.zeros(sum(array.size for array in arrays))
    try:
        gradient = jax.linear_transpose(slope, zero)(stretch * jnp.ones(()))[0]
    except Exception:  # the rule is not linear, or has a primitive that cannot be transposed
        gradient = jnp.concatenate([zero[:0], *_basis_slopes(slope, zero, stretch)])
    return output, _arrays_like(gradient, arrays), slope(stretch * _normal(stream(0, "tangent"), zero))


def _basis_slopes(slope: Callable[[jax.Array], jax.Array], zero: jax.Array, stretch: ArrayLike) -> Iterator[jax.Array]:
    together = jax.jit(jax.vmap(lambda i: slope(zero.at[i].set(stretch))))
    for begin in range(0, zero.size, _PUSHED_AT_ONCE):
        yield together(jnp.arange(begin, min(begin + _PUSHED_AT_ONCE, zero.size)))


def _arrays_like(flat: jax.Array, arrays: Leaves) -> list[jax.Array]:
    starts = np.cumsum([0, *(array.size for array in arrays)]).tolist()
    pairs = zip(starts, starts[1:], arrays, strict=False)
    return [flat[i:j].reshape(array.shape).astype(array.dtype) for i, j, array in pairs]


def _dot(weights: Leaves, output: Leaves) -> jax.Array:
    return sum(jnp.vdot(weight, each) for weight, each in zip(weights, output, strict=True))


def _normal(generator: np.random.Generator, like: Leaf) -> Array:
    return np.asarray(generator.standard_normal(like.shape), like.dtype)


# --- values and linearity, which no gradient shows ---


def _refuse_outputs(rule: _Rule, expected: Leaves, scatter: Callable[[], Leaves], atol: float, title: str) -> None:
    """A custom rule returns the function's value too; it must be right."""
    off = [np.abs(np.asarray(value) - np.asarray(true)) for value, true in zip(rule.output, expected, strict=True)]
    allowed = [max(_SAME_OUTPUT * np.abs(np.asarray(true)).max(initial=0.0), atol) for true in expected]
    if all(np.all(each <= most) for each, most in zip(off, allowed, strict=True)):
        return
    for i, (each, most, rounding) in enumerate(zip(off, allowed, scatter(), strict=True)):
        if not np.all(each <= max(most, _LARGEST_ROUND_OFF * rounding)):
            at = tuple(int(k) for k in np.unravel_index(np.argmax(np.nan_to_num(each, nan=np.inf)), each.shape))
            raise _Mismatch(
                f"{title}: output {i} is {rule.output[i][at]} at {at}; the function itself gives {expected[i][at]}"
            )


def _scatter(call: Callable[[Leaves], Leaves], arrays: Leaves, expected: Leaves) -> list[float]:
    """The largest change of each output when the arguments change in the last place.

    Zeros that stay zeros are differences of equal numbers, and the same code compiled otherwise, with a multiplication
    and an addition in one, may round one of the two: by the arguments' last place.
    """
    moved = [call([np.asarray(array * stretch) for array in arrays]) for stretch in _STRETCHES]
    found = [
        max(float(np.abs(np.asarray(outputs[i]) - np.asarray(true)).max(initial=0.0)) for outputs in moved)
        for i, true in enumerate(expected)
    ]
    last = max(float(np.spacing(np.abs(array).max(initial=0.0))) for array in map(np.asarray, arrays))
    return [each if each or np.any(true) else last for each, true in zip(found, expected, strict=True)]


def _refuse_nonlinear(rule: _Rule, atol: float, title: str) -> None:
    """A rule is linear in tangents and cotangents."""
    if rule.mode == "rev":
        _refuse_nonlinear_cotangents(rule, atol, title)
    else:
        _refuse_nonlinear_tangents(rule, atol, title)


def _refuse_nonlinear_cotangents(rule: _Rule, atol: float, title: str) -> None:
    """Zeros give zeros; a cotangent times -2 gives the gradient times -2, since it rounds the same way."""
    for factor in (0.0, _EXACT_STRETCH):
        for once, other in zip(rule.gradient, rule.stretched(factor)[1], strict=True):
            before, after = np.asarray(once).reshape(-1), np.asarray(other).reshape(-1)
            off = np.nan_to_num(np.abs(after - factor * before))  # what is not finite fails by itself
            if (off > (max(atol, _SAME_OUTPUT * np.abs(before).max(initial=0.0), _SMALLEST) if factor else 0.0)).any():
                k = int(np.argmax(off))
                raise _Mismatch(
                    f"{title}: not linear in its cotangents: {after[k]} for {factor} times those that give {before[k]}"
                )


def _refuse_nonlinear_tangents(rule: _Rule, atol: float, title: str) -> None:
    """The slope along any direction is the sum of its own slopes along the axes only if a rule is linear."""
    products, along = _products(rule.gradient), float(rule.slope)
    off = abs(along - products.sum())
    if off <= max(atol, _LINEAR * np.abs(products).sum()) or not np.isfinite(products).all():
        return
    rounding = 0.0
    for stretch in _STRETCHES.tolist():
        _, gradient, slope = rule.stretched(stretch, stretch)
        rounding = max(rounding, abs(float(slope) - stretch * along))
        rounding = max(rounding, float(np.abs(_products(gradient) - stretch * products).sum()))
    if not off <= _LARGEST_ROUND_OFF * rounding:
        raise _Mismatch(
            f"{title}: not linear in its tangents: {along} along a random direction, where its own slopes "
            f"along the axes add up to {products.sum()}"
        )


def _products(gradient: Leaves) -> Array:
    """The terms of a slope in the random direction."""
    flat = _joined(gradient)
    return np.asarray(flat * _normal(stream(0, "tangent"), flat))


def _joined(arrays: Leaves) -> Array:
    return np.concatenate([np.asarray(each).reshape(-1) for each in arrays])


def _first_words(report: GradientReport) -> str:
    """The first argument that does not pass, with its entry and both values, or with the reason."""
    tensor = next(each for each in report.tensors.values() if each.verdict == report.verdict)
    entry = tensor.wrong_entries[0] if tensor.wrong_entries else tensor.worst
    if entry is None or entry.verdict != report.verdict:
        return f"{tensor.name}: {tensor.reason}"
    return f"{_entry_name(tensor, entry.index)}: analytic {entry.analytic:.6g}, numerical {entry.numerical:.6g} +- " + (
        f"{entry.uncertainty:.0e}" + (f" ({entry.reason})" if entry.reason else "")
    )


def _entry_name(tensor: TensorSummary, index: tuple[int, ...]) -> str:
    return f"{tensor.name}[{', '.join(map(str, index))}]" if index else tensor.name
