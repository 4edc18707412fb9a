"""The complex step as an adjudicator: it decides what differences do not, where the loss is known to be analytic.

Im f(x + ih) / h subtracts nothing, and so is exact to round-off whatever offset hides the slope (Squire and Trapp
1998). It is silently wrong where the loss takes an absolute value, compares, or drops an imaginary part: its real part
moves, and nothing shows. So a loss is used only if all that its source calls is known to be analytic, and its answer
only where it lies within the uncertainty of the real differences. Why, and what that shows of directions, is derived in
`fastgc._derivatives.complex_slopes`.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import CodeType, FunctionType, ModuleType

import numpy as np

from fastgc._derivatives.complex_slopes import IMAGINARY_STEPS, ROUND_OFF
from fastgc._derivatives.directions import Probing, Shortcut, analytic_slope, direction
from fastgc._derivatives.entry_ladders import ladder_estimates
from fastgc._derivatives.estimates import Estimates
from fastgc._derivatives.first_quotients import distinguishing_quotients, hidden
from fastgc._derivatives.ladder import WRONG_BEYOND
from fastgc._derivatives.loss_at_point import LossAtPoint
from fastgc._evaluation.stages import StagedLoss
from fastgc._parameters.arrays import Array, Flags, Floats, Positions, norm
from fastgc._verdicts.entries import GradientAtPoint, Verdicts
from fastgc._verdicts.judgement import Judgement

Displaced = Callable[[Positions, Floats], tuple[Array, Floats]]  # see `adjudicate`

# What an analytic function may be made of, besides arithmetic.
_FUNCTIONS = frozenset(
    """exp expm1 log log1p log2 log10 sqrt sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh
    square power reciprocal add subtract multiply divide true_divide negative sum mean prod cumsum cumprod dot matmul
    einsum tensordot outer inner trace inv solve det reshape ravel flatten transpose swapaxes moveaxis squeeze
    expand_dims concatenate stack hstack vstack diag diagonal roll flip take""".split()  # noqa: SIM905 - a list to read
)
_HARMLESS = frozenset(
    """linalg shape size ndim T mT pi e newaxis items keys values copy arange complex128 range len enumerate zip
    reversed tuple list""".split()  # noqa: SIM905
)
_TAKING_THE_REAL_PART = {"dtype", "out", "casting"}  # may be told to, and NumPy then but warns
_MODULES = ("numpy", "numpy.linalg", "math", "cmath")


# --- which losses are analytic ---


def is_analytic(function: object, seen: tuple[object, ...] = ()) -> bool:
    """Whether everything that the source of a function uses is known to be analytic; what is unknown is not."""
    if isinstance(function, StagedLoss):
        return all(_is_known(part, seen) for part in function.functions)
    compiled = hasattr(function, "py_func")  # into code where a complex number fits no array of real ones
    function = getattr(function, "py_func", function)
    if not isinstance(function, FunctionType):
        return False
    if function in seen:
        return True
    used = [*_globals(function, function.__code__), *_closure(function), *_defaults(function)]
    known = (_is_known(value, (*seen, function)) for value in used)
    plain = all(
        _is_plain(code) and (compiled or not _drops_imaginary_parts(code)) for code in _codes(function.__code__)
    )
    return plain and all(known)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions, comprehensions and so on inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_plain(code: CodeType) -> bool:
    """Whether it compares nothing, imports nothing and reaches for known attributes only."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("COMPARE_OP", "IMPORT_NAME", "STORE_GLOBAL", "LOAD_NAME"):
            return False
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR"):
            name = str(instruction.argval)
            if name not in _FUNCTIONS and name not in _HARMLESS:
                return False
    return True


def _drops_imaginary_parts(code: CodeType) -> bool:
    """Whether NumPy may be made to: an array of real numbers takes complex ones, with a warning."""
    if any(instruction.opname in ("STORE_SUBSCR", "STORE_SLICE") for instruction in dis.get_instructions(code)):
        return True
    return any(isinstance(each, tuple) and not _TAKING_THE_REAL_PART.isdisjoint(each) for each in code.co_consts)


def _globals(function: FunctionType, code: CodeType) -> Iterator[object]:
    for each in _codes(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname == "LOAD_GLOBAL":
                name = str(instruction.argval)
                yield function.__globals__.get(name, getattr(builtins, name, None))


def _closure(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        yield cell.cell_contents


def _defaults(function: FunctionType) -> Iterator[object]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _is_known(value: object, seen: tuple[object, ...]) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__ in _MODULES
    if is_data(value):
        return True
    name = getattr(value, "__name__", "")
    if getattr(builtins, name, None) is value:
        return name in _HARMLESS or name in _FUNCTIONS
    if getattr(np, name, None) is value or getattr(np.linalg, name, None) is value:
        return name in _FUNCTIONS
    return is_analytic(value, seen)


def is_data(value: object) -> bool:
    """Whether it is made of numbers, text and arrays, and so has no methods of its own."""
    if isinstance(value, dict):
        return all(map(is_data, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(is_data, value))
    return value is None or isinstance(value, (bool, int, float, complex, str, np.generic, np.ndarray))


# --- what it decides ---


def adjudicate(
    function: object,
    args: tuple[object, ...],
    displaced: Displaced,
    estimates: Estimates,
    judgement: Judgement,
    verdicts: Verdicts,
    *,
    all_uncertain: bool = False,
) -> tuple[Estimates, Judgement, tuple[str, ...]]:
    """Decide entries that noise leaves undecided, if the loss accepts complex numbers; also a note if it did.

    With ``all_uncertain`` also those that pass with an uncertainty above the tolerance.
    ``displaced(positions, steps)`` gives the loss at entries moved by ``1j`` times these steps, which are in units of
    the entries' scales, and the steps as they are, both of shape (entries, steps).
    """
    uncertain = judgement.undecided | (all_uncertain & (estimates.uncertainty > judgement.allowed))
    where = np.flatnonzero(uncertain & estimates.clear & np.isfinite(estimates.numerical))
    if not where.size or not (is_analytic(function) and is_data(args)):
        return estimates, judgement, ()
    try:
        values, steps = displaced(estimates.positions[where], IMAGINARY_STEPS)
    except Exception:  # whatever a loss does with numbers that it was not written for
        return estimates, judgement, ()
    if not np.isfinite(values).all():  # both parts: nan as a complex number has an imaginary part of 0
        return estimates, judgement, ()
    derivatives, before = np.asarray(values).imag / steps, estimates.part(where)
    value = derivatives[:, 0]
    uncertainty = np.maximum(WRONG_BEYOND * np.ptp(derivatives, axis=1), ROUND_OFF * np.abs(value))
    agrees = (np.abs(value - before.numerical) <= before.uncertainty) & (uncertainty < before.uncertainty)
    if not agrees.any():
        return estimates, judgement, ()
    better = replace(before, numerical=value, left=value, right=value, step=steps[:, 0])
    better = replace(better, uncertainty=np.maximum(uncertainty, np.finfo(np.float64).tiny))
    estimates = estimates.updated(where[agrees], better.part(agrees))
    count = int(np.count_nonzero(agrees))
    note = f"the complex step decided {count} {'entry' if count == 1 else 'entries'} that noise hides from differences"
    return estimates, verdicts(estimates), (note,)


def displaced_loss(gradient: GradientAtPoint, positions: Positions, relative: Floats) -> tuple[Array, Floats]:
    """The loss at complex entries, for `adjudicate`; nan where it has none."""
    steps = relative * gradient.loss.scales(positions)[:, None]
    complex_loss = gradient.loss.complex_loss
    values = None if complex_loss is None else complex_loss.at_entries(positions, steps)
    return np.full(steps.shape, np.nan) if values is None else values, steps


# --- directions ---


def settled(gradient: GradientAtPoint, probing: Probing, numbers: range, seed: int, enough: float) -> Probing | None:
    """The probing with its directions, and further ones, measured by the complex step; None where it may not be.

    ``enough`` is the uncertainty of the residuals that need not be improved.
    """
    loss, complex_loss = gradient.loss, gradient.loss.complex_loss
    if complex_loss is None:
        return None
    analytic: list[float] = []
    slopes: list[float] = []
    round_off = 0.0
    for number in numbers:
        rays = direction(loss, probing.tensors, seed, number)
        values = complex_loss.along_rays([rays], IMAGINARY_STEPS if not slopes else IMAGINARY_STEPS[:1])
        if values is None:
            return None
        analytic.append(analytic_slope(rays, gradient.gradients))
        each = values[0].imag / IMAGINARY_STEPS[: values.size]
        slopes.append(float(each[0]))
        round_off = max(round_off, WRONG_BEYOND * float(np.ptp(each)))
        if why := _contradicted(loss, probing, number, slopes[-1], values):
            complex_loss.refuse(why)
            return None
    complex_loss.agreed = True
    length = sum(float(loss.tensor_scales[t]) * norm(gradient.gradients[t]) for t in probing.tensors)
    round_off = max(round_off, ROUND_OFF * max(length, np.abs(slopes).max()), np.finfo(np.float64).tiny)
    own = sum(float(np.finfo(gradient.gradients[t].dtype).eps) for t in probing.tensors) * length
    shortcut = Shortcut(IMAGINARY_STEPS[:1], round_off, imaginary=True)
    return replace(
        probing,
        residuals=np.subtract(analytic, slopes),
        slopes=np.array(slopes),
        analytic=np.array(analytic),
        uncertainties=np.full(len(slopes), max(round_off, enough) + own),
        quick=shortcut,
        fine=shortcut,
        trouble="",
    )


def _contradicted(loss: LossAtPoint, probing: Probing, number: int, slope: float, values: Array) -> str:
    """What speaks against a slope by the complex step, "" for nothing."""
    if not np.abs(values.real - loss.base).max() <= WRONG_BEYOND * loss.noise.at_point:
        return "its real part is not the loss"
    k = number - probing.first
    if k >= probing.slopes.size or (k > 0 and probing.beside):  # not measured, or together with other tensors
        return ""
    if not abs(slope - probing.slopes[k]) <= probing.uncertainties[k]:
        return "differences contradict it"
    return ""


def entry_estimates(gradient: GradientAtPoint, positions: Positions, scales: Floats) -> Estimates | None:
    """Derivatives of a few entries by the complex step; None where it is not known to be right.

    Where it says that an entry is wrong, a real quotient has to be nearer to it than to the analytic value, or else the
    slope from a whole ladder of steps has to agree with it.
    """
    loss, complex_loss = gradient.loss, gradient.loss.complex_loss
    if complex_loss is None or not complex_loss.agreed:
        return None
    steps = IMAGINARY_STEPS[:1] * loss.scales(positions)[:, None]
    values = complex_loss.at_entries(positions, steps)
    if values is None:
        return None
    numerical, tensors = (values.imag / steps)[:, 0], loss.layout.tensor_of(positions)
    if not _supported(gradient, positions, numerical).all():
        ladders = ladder_estimates(loss, positions)
        if not (np.abs(ladders.numerical - numerical) <= ladders.uncertainty).all():
            return None
    uncertainty = np.maximum(ROUND_OFF * np.maximum(np.abs(numerical), scales[tensors]), np.finfo(np.float64).tiny)
    trouble = np.zeros(positions.size, np.int8)
    return Estimates(positions, numerical, uncertainty, numerical, numerical, steps[:, 0], trouble)


def _supported(gradient: GradientAtPoint, positions: Positions, numerical: Floats) -> Flags:
    """Where a real quotient is nearer to these slopes than to the analytic values, or where none can tell."""
    analytic = gradient.analytic(positions)
    differences = np.abs(analytic - numerical)
    silence = hidden(gradient.loss, positions, differences)
    if silence.all():
        return silence
    quotients = distinguishing_quotients(gradient.loss, positions, differences, near=(1.0,))
    return silence | (np.abs(quotients - numerical) < np.abs(quotients - analytic))
