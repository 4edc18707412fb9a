"""What wrong gradients look like: patterns that lead from the numerical gradient of a tensor to the analytic one.

The analytic gradient is known everywhere, the numerical one at a few entries. So a pattern is tested backwards: undone,
it must turn the analytic gradient into one that agrees with every measured entry (``analytic[j, i]`` is compared with
``numerical[i, j]``, and no mirrored entry has to be measured).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastgc._diagnosis.measured_tensor import BITS, FEWEST, TELLING, WITHIN, MeasuredTensor
from fastgc._words import Kind

Floats = NDArray[np.float64]

FITTED = 3  # wrong entries, at least, for each fitted constant: one determines it, the others test it
EXACT = 1e-6  # relative precision in which a factor is recognised, at best: 2 and 1.999998 come from different bugs
# Machine epsilons that are left of terms that cancel, relative to the numerical gradient, as the terms may be many and
# larger than it; at most `EXACT`, a factor between units that gradients do have.
_ROUNDOFF = 1e4
_RESOLVED = TELLING / 10  # slacks that a fitted term must contribute somewhere: less is no term


@dataclass(frozen=True)
class Pattern:
    """One explanation of a tensor's wrong entries; see `fastgc.Diagnosis` for the attributes."""

    kind: Kind
    message: str
    factor: float | None = None
    axis: int | None = None
    indices: tuple[tuple[int, ...], ...] = ()
    deviation: float = 0.0  # the largest residual of an entry, in units of its tolerance and uncertainty


def explaining(
    tensor: MeasuredTensor,
    candidates: Iterable[tuple[Pattern, Floats]],
    fewest: int,
    alternatives: int,
    fitted: int = 0,
) -> Iterator[Pattern]:
    """The patterns whose residuals explain the tensor; each pays for all alternatives."""
    for pattern, residual in candidates:
        if tensor.explained(residual, fewest, alternatives=alternatives, fitted=fitted):
            yield replace(pattern, deviation=tensor.deviation(residual))


# --- the same entries times a constant ---


def zero(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Nothing arrives in the gradient where the loss has a slope."""
    if tensor.strong.any() and not tensor.gradient.any():
        yield Pattern("zero", "consistent with a gradient that is detached or never accumulated: zero everywhere", 0.0)


def nearly_zero(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """The same, up to the round-off of terms that cancel."""
    if not tensor.strong.any() or not tensor.gradient.any():
        return
    share = min(_ROUNDOFF * float(np.finfo(tensor.gradient.dtype).eps), EXACT)
    if np.abs(tensor.gradient).max() <= share * np.median(np.abs(tensor.numerical[tensor.strong])):
        text = "consistent with a gradient that is detached or cancels: zero everywhere up to round-off"
        yield Pattern("zero", text, 0.0)


def constant_factor(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """``analytic = c * numerical``. One entry alone shows only a factor that has a meaning."""
    n = tensor.numerical / tensor.slack
    factor = _ratio(tensor.analytic / tensor.slack, n)
    if not factor:
        return
    residual = tensor.analytic / factor - tensor.numerical
    precision = max(EXACT, WITHIN * float(np.min(1 / np.abs(n[n != 0]), initial=1.0)))
    own = {length: f"the length of axis {axis} of the tensor" for axis, length in enumerate(tensor.shape) if length > 2}
    lengths = own | dict(tensor.lengths)
    meaning = named_factor(factor, precision, lengths)
    tried = (3 + 2 * len(lengths)) * (2 if factor < 0 and meaning != "-1" else 1)  # -1, 2, 1/2, N, 1/N; then -2, ...
    if (meaning and tensor.explained(residual, 1, alternatives=tried)) or tensor.explained(residual, FITTED, fitted=1):
        yield _times(factor, meaning, tensor.deviation(residual))


def _ratio(a: Floats, n: Floats) -> float:
    """The factor of n that comes nearest to a; 0 if there is none."""
    factor = float(np.sum(a * n) / np.sum(n * n))
    return factor if math.isfinite(factor) else 0.0


def _times(factor: float, meaning: str, deviation: float) -> Pattern:
    if meaning == "-1":
        return Pattern("sign", "consistent with the wrong sign (analytic = -numerical)", factor, deviation=deviation)
    text = f"consistent with a constant factor of {factor:.4g} (analytic / numerical)"
    return Pattern("factor", text + (f" = {meaning}" if "N" in meaning else ""), factor, deviation=deviation)


def named_factor(factor: float, precision: float, lengths: Mapping[int, str]) -> str:
    """The meaning of a factor: -1, 2, 1/2, N or 1/N with N the length of an axis; "" for any other factor."""

    def near(number: float) -> bool:
        return abs(factor - number) <= precision * abs(number)

    if near(-1):
        return "-1"
    for size, text in ((2.0, "2"), (0.5, "1/2")):
        if near(size) or near(-size):
            return text if factor > 0 else f"-{text}"
    sign = "-" if factor < 0 else ""
    for length, place in lengths.items():
        if near(math.copysign(length, factor)):
            return f"{sign}N, N = {length} is {place}"
        if near(math.copysign(1 / length, factor)):
            return f"{sign}1/N, N = {length} is {place}"
    return ""


def lost_sign(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """``analytic = |numerical|``, or the reverse."""
    size, texts = np.abs(tensor.numerical), ((1, "|numerical|"), (-1, "-|numerical|"))
    candidates = (
        (Pattern("sign", f"consistent with lost signs (analytic = {text})"), sign * tensor.analytic - size)
        for sign, text in texts
    )
    yield from explaining(tensor, candidates, 2, len(texts))


def same_factor(tensor: MeasuredTensor, factors: Mapping[str, float]) -> Iterator[Pattern]:
    """A factor that is another tensor's too, and so means something in a single entry."""
    for name, factor in factors.items():
        residual = tensor.analytic / factor - tensor.numerical
        if tensor.explained(residual, 1, BITS / 2, alternatives=len(factors)):
            text = f"consistent with a constant factor of {factor:.4g} (analytic / numerical), as in {name!r}"
            yield Pattern("factor", text, factor, deviation=tensor.deviation(residual))


_LOGS: tuple[tuple[str, str, Callable[[Floats], Floats]], ...] = (
    ("parameter * numerical", "the derivative by log(parameter)", lambda p: p),
    ("numerical / parameter", "the factor of a logarithmic parameter missing", lambda p: 1 / p),
    ("exp(parameter) * numerical", "the factor of a logarithmic parameter once too often", np.exp),
    ("numerical / exp(parameter)", "the derivative by exp(parameter)", lambda p: np.exp(-p)),
)


def log_parameter(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """A derivative by the logarithm of the parameter, or by a quantity whose logarithm the parameter is.

    The same times a constant, as of a logarithm to another base, takes entries that show the constant.
    """
    for text, why, weight in _LOGS:
        weights = weight(tensor.parameters)
        at_zero = (weights == 0) & (tensor.analytic == 0)
        undone, n = (np.where(at_zero, 0.0, each) for each in (tensor.analytic / weights, tensor.numerical))
        if tensor.explained(undone - n, 1, alternatives=len(_LOGS)):
            yield _weighted(tensor, undone - n, f"{text} ({why}?)", None)
        elif (
            np.ptp(weights) > EXACT * np.abs(weights).max()  # where they are all one, the factor is the constant
            and (factor := _ratio(undone / tensor.slack, n / tensor.slack))
            and tensor.explained(undone / factor - n, FITTED, alternatives=len(_LOGS), fitted=1)
        ):
            yield _weighted(tensor, undone / factor - n, f"{factor:.4g} * {text}", factor)


def _weighted(tensor: MeasuredTensor, residual: Floats, text: str, factor: float | None) -> Pattern:
    deviation = tensor.deviation(residual)
    return Pattern("log_parameter", f"consistent with analytic = {text}", factor, deviation=deviation)


# --- an affine relation, and values cut off ---


def affine(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """``analytic = c * numerical + d``."""
    a, n = tensor.analytic, tensor.numerical
    fitted = _fit(tensor, [n, np.ones(n.size)], a)
    if fitted is None:
        return
    c, d = fitted
    residual, parts = (a - d) / c - n, np.abs([(c - 1) * n, np.full(n.size, d)])
    resolved = np.all((parts / tensor.slack).max(axis=1) > _RESOLVED)
    if resolved and tensor.explained(residual, 2 * FITTED, fitted=2):
        text = f"consistent with analytic = {c:.4g} * numerical {'-' if d < 0 else '+'} {abs(d):.4g}"
        yield Pattern("affine", text, c, deviation=tensor.deviation(residual))


def _fit(tensor: MeasuredTensor, columns: Sequence[Floats], values: Floats) -> list[float] | None:
    """Coefficients of columns that add up to values, by least squares in units of slack; None if there are none."""
    usable = all(np.isfinite(each).all() and each.any() for each in (*columns, values))
    if not (usable and tensor.strong.any()):
        return None
    basis = np.stack(columns, axis=1)
    peaks, peak = np.abs(basis).max(axis=0), float(np.abs(values).max())  # divided out: no square overflows
    weights = tensor.slack.min() / tensor.slack
    scaled = np.linalg.lstsq(basis / peaks * weights[:, None], values / peak * weights, rcond=1e-9)[0]
    return [float(each) for each in scaled / peaks * peak]


def clipped(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Values beyond a bound are the bound; at least two are, so that it is seen twice."""
    a, n = tensor.analytic, tensor.numerical
    if not np.isfinite(tensor.gradient).all() or not tensor.gradient.any():
        return
    low, high = float(tensor.gradient.min()), float(tensor.gradient.max())
    size = max(-low, high)
    table = ((-size, size, f"to [{-size:.4g}, {size:.4g}]"), (-math.inf, high, f"to at most {high:.4g}"),
             (low, math.inf, f"to at least {low:.4g}"))  # fmt: skip
    at_bound = tensor.strong & ((np.abs(a) == size) | (a == high) | (a == low))
    if np.count_nonzero(at_bound) >= 2 and tensor.agreement >= BITS + tensor.spent:
        candidates = (
            (Pattern("clipped", f"consistent with values clipped {text}"), a - np.clip(n, least, most))
            for least, most, text in table
        )
        yield from explaining(tensor, candidates, 2, len(table), fitted=1)


# --- the same entries in fewer digits ---


def few_digits(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """All analytic values have the short mantissas of a coarser format, and errors of the size of its rounding."""
    some = tensor.at(tensor.some)
    some = some[np.isfinite(some) & (some != 0)]
    for bits, name in ((8, "bfloat16"), (11, "float16"), (24, "float32")):
        if some.size and _is_rounded(some, bits):
            rounding = 4 * 2.0**-bits * np.fmax(np.abs(tensor.numerical), float(np.median(np.abs(tensor.numerical))))
            enough = np.count_nonzero(tensor.wrong) >= (2 if tensor.complete else FEWEST)
            if enough and np.all(np.abs(tensor.analytic - tensor.numerical) <= WITHIN * tensor.resolved(0) + rounding):
                text = f"consistent with a gradient computed in {name}: it agrees to that precision only"
                yield Pattern("scale_precision", text)
            return


def _is_rounded(values: Floats, bits: int) -> bool:
    """Whether the mantissas fit into so many bits, most need the last three, and the values are no multiples of one.

    Counts have short mantissas too, but are multiples of the last bit of the largest.
    """
    mantissas, exponents = np.frexp(values)
    fits, fits_in_less = (mantissas * 2.0**kept % 1 == 0 for kept in (bits, bits - 3))
    multiples = np.ldexp(mantissas, exponents - exponents.max() + bits) % 1 == 0
    return bool(fits.all() and fits_in_less.mean() < 0.5 and not multiples.all())


# --- something added or left out ---

_TERMS = {
    "parameter": ("weight decay missing, or too weak", "weight decay twice, too strong, or not in the loss"),
    "sign(parameter)": ("an L1 penalty missing, or too weak", "an L1 penalty twice, too strong, or not in the loss"),
    "1": ("a shift by a constant", "a shift by a constant"),
}
# Wrong entries, at least, for terms of one size: errors of one size have just these signs by chance once in 32 times.
_SIGNS = 6


def one_term(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """``analytic - numerical`` is a multiple of the parameter, of its sign, or a constant."""
    for name in _TERMS:
        yield from _with_terms(tensor, (name,))


def two_terms(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """The same with two of them."""
    for names in itertools.combinations(_TERMS, 2):
        yield from _with_terms(tensor, names)


def _with_terms(tensor: MeasuredTensor, names: tuple[str, ...]) -> Iterator[Pattern]:
    columns = [_column(tensor, name) for name in names]
    error = tensor.analytic - tensor.numerical
    coefficients = _fit(tensor, columns, error)
    if coefficients is None:
        return
    parts = np.stack([c * column for c, column in zip(coefficients, columns, strict=True)])
    term, count = parts.sum(axis=0), len(names)
    resolved = np.all(np.abs(parts / tensor.slack).max(axis=1) > _RESOLVED)
    fewest = max(FITTED * count, 0 if "parameter" in names else _SIGNS)
    if resolved and tensor.explained(error - term, fewest, term=term, alternatives=len(_TERMS), fitted=count):
        yield _added(names, coefficients, tensor.deviation(error - term))


def _column(tensor: MeasuredTensor, name: str) -> Floats:
    p = tensor.parameters
    return {"parameter": p, "sign(parameter)": np.sign(p), "1": np.ones(p.size)}[name]


def _added(names: Sequence[str], coefficients: Sequence[float], deviation: float) -> Pattern:
    sums = " + ".join(_product(c, name) for c, name in zip(coefficients, names, strict=True))
    message = f"consistent with analytic - numerical = {sums.replace('+ -', '- ')}"
    if len(names) > 1:
        return Pattern("missing_term", message, deviation=deviation)
    hint = _TERMS[names[0]][int(coefficients[0] > 0)]
    return Pattern("missing_term", f"{message} ({hint}?)", coefficients[0], deviation=deviation)


def _product(coefficient: float, name: str) -> str:
    return f"{coefficient:.4g}" if name == "1" else f"{coefficient:.4g} * {name}"


# --- the gradient of another moment ---


def stale(tensor: MeasuredTensor, earlier: MeasuredTensor, bits: float = BITS) -> Iterator[Pattern]:
    """The analytic gradient belongs to other parameters: it agrees with all entries measured there, and not here.

    The information comes from the change of the numerical gradient in between.
    """
    here = tensor.part(np.isin(tensor.local, earlier.local))
    both = replace(here, slack=np.fmax(here.slack, earlier.slack), uncertainty=None)
    residual = earlier.analytic - earlier.numerical
    agrees, change = earlier.deviation(residual) <= WITHIN, earlier.numerical - here.numerical
    if agrees and both.explained(residual, 1, bits, change):
        text = "consistent with the gradient at the parameters in `previous` (computed before the last update?)"
        yield Pattern("stale", text, deviation=earlier.deviation(residual))


def stale_together(
    tensors: Mapping[int, MeasuredTensor], earlier: Mapping[int, MeasuredTensor]
) -> dict[int, list[Pattern]]:
    """The same of several tensors: where one is stale, less is enough to show that another is."""
    certain = {t: list(stale(tensors[t], there)) for t, there in earlier.items()}
    bits = BITS / 2 if any(certain.values()) else BITS
    return {t: list(stale(tensors[t], there, bits)) for t, there in earlier.items()}


# --- none of these ---


def unstructured(tensor: MeasuredTensor) -> Iterator[Pattern]:
    """Enough wrong entries to have shown a pattern."""
    enough = np.count_nonzero(tensor.strong) >= max(2, min(FEWEST, tensor.gradient.size))
    if enough and np.isfinite(tensor.analytic).all():
        yield Pattern("unstructured", "no simple pattern explains them")
