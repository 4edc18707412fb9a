"""The check of a gradient: validate, estimate, compare, explain, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgc._compare import (
    DEFAULT_RTOL,
    FAIL,
    PASS,
    UNDECIDED,
    Judgement,
    Tolerances,
    gradient_scales,
    judge,
)
from fastgc._crosscheck import CrossCheck
from fastgc._crosscheck import crosscheck as scipy_crosscheck
from fastgc._engine import NotFiniteError, is_jitted, open_evaluator
from fastgc._entries import Estimates, Scene, ladder_estimates, open_scene, quotient_estimates
from fastgc._evaluate import outside_domain
from fastgc._layout import Array, ParameterLayout, flatten_parameters, match_gradients
from fastgc._point import Point, callers_point, copied_point, fingerprint, moved, refuse_changed
from fastgc._progress import Progress
from fastgc._report import GradientReport
from fastgc._sampling import plan_samples
from fastgc._stencil import Stencil, stencil_named
from fastgc._summary import Findings, summarise
from fastgc._validate import sample_counts, selected, validate

Floats = NDArray[np.float64]

_REACHES = [2.0**-k for k in range(8)]  # of the random points, in mean magnitudes of each tensor
_SOME = 3  # entries without which no remark is made
_ROUND_OFF = 100  # eps of the loss: noise below it is round-off, and above it noise


class GradientMismatch(AssertionError):
    """A gradient did not pass; ``report`` holds the `GradientReport`."""

    def __init__(self, report: GradientReport) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class _Request:
    """The arguments of one check, validated."""

    loss: Callable[..., Any]
    gradients: Any
    params: Any
    args: tuple[Any, ...]
    layout: ParameterLayout
    counts: tuple[int | None, ...]  # entries to sample of each tensor; None: the tensor is not checked
    stencil: Stencil
    step: float | None
    rtol: float | None
    atol: float | None
    precision: str
    engine: str
    threads: int | None
    in_place: bool
    crosscheck: bool
    seed: int


def check_gradients(
    loss: Callable[..., Any],
    gradients: Any,
    params: Any,
    *,
    args: tuple[Any, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: int | str | Mapping[str, int | str] = 32,
    stencil: str = "central",
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: str = "double",
    engine: str = "auto",
    threads: int | None = None,
    points: int = 1,
    in_place: bool = False,
    crosscheck: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> GradientReport:
    """Check an analytic gradient against numerical derivatives, entry by entry, each with its uncertainty.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)`` returns one real number. A plain function receives the structure of ``params``; one
        compiled by ``numba.njit`` receives ``fastgc.record(params)`` and is run in compiled, parallel loops.
    gradients : callable, structure of arrays, or True
        ``gradients(params, *args)`` returns the structure of ``params`` (a compiled one also a tuple of arrays in the
        order of params); or that structure itself; or True: the loss returns ``(value, gradients)``.
    params : dict of arrays (may be nested), list or tuple of arrays, or one array
        Of float16, float32 or float64, of any shape. They are left as they are, to the bit.
    args : tuple
        Extra positional arguments of both functions.
    tensors : str or sequence of str, optional
        Names or patterns (``*`` and ``?``) of the tensors to check; nested keys are joined by ".".
    samples : int, "all", or mapping of name or pattern to these
        Entries checked one by one in every tensor.
    stencil : {"central", "forward", "backward", "five_point", "complex_step"}
        The difference formula of the first look; entries in doubt are settled by central differences at many steps.
    step : float, optional
        An absolute step; by default one is chosen for each entry from its scale and the loss's noise.
    rtol, atol : float, optional
        An entry agrees where ``|a - n| <= atol + rtol * max(|a|, |n|)``, beyond its uncertainty. By default rtol is
        1e-5 for a float64 gradient, 1e-3 for float32 and 1e-2 for float16, and atol is 1e-3 * rtol times the root mean
        square of the tensor's numerical entries.
    precision : {"double", "native"}
        Evaluate at float64 copies of params and of floating arrays in args, or at copies in their own dtypes.
    engine : {"auto", "numba", "python"}
        "auto" runs a jitted loss in compiled loops where that pays for their compilation; "numba" compiles a plain
        loss; "python" calls the loss from Python.
    threads : int, optional
        Threads of the compiled loops; by default Numba's own setting. Results do not depend on it.
    points : int
        Check at params and at ``points - 1`` random points around them; needs callable gradients.
    in_place : bool
        Displace the caller's own arrays (restored to the bit), for a loss that reads them from elsewhere.
    crosscheck : bool
        Also show ``scipy.optimize.check_grad`` for at most 32 of the entries.
    seed : int
        Of the sampled entries and the random points.
    progress : bool
        Show a tqdm progress bar.

    Returns
    -------
    GradientReport

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense together or by themselves, a loss that is not one finite real number, and
        functions that change their parameters. Exceptions of the loss and of the gradient pass through.
    """
    begin = time.perf_counter()
    layout, leaves = flatten_parameters(params)
    validate(layout, leaves, gradients, args=args, step=step, rtol=rtol, atol=atol, precision=precision, engine=engine,
             threads=threads, points=points, in_place=in_place, stencil=stencil, seed=seed)  # fmt: skip
    counts = _counts(layout, tensors, samples)
    request = _Request(loss, gradients, params, args, layout, counts, stencil_named(stencil), step, rtol, atol,
                       precision, engine, threads, in_place, crosscheck, seed)  # fmt: skip
    with Progress(points * sum(filter(None, counts)), shown=progress) as bar:
        findings = [_check_point(request, number, leaves, bar) for number in range(points)]
    return summarise(layout, counts, findings, seed, time.perf_counter() - begin)


def assert_gradients(*args: Any, allow_undecided: bool = False, **options: Any) -> GradientReport:
    """Check a gradient as `check_gradients` does, with the same arguments, and raise unless it passes.

    Parameters
    ----------
    allow_undecided : bool
        Accept a report that is undecided.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientMismatch
        An AssertionError whose text is the report and whose ``report`` attribute holds it.
    """
    report = check_gradients(*args, **options)
    if not (report.passed or (allow_undecided and report.verdict == UNDECIDED)):
        raise GradientMismatch(report)
    return report


def _counts(
    layout: ParameterLayout, tensors: str | Sequence[str] | None, samples: int | str | Mapping[str, int | str]
) -> tuple[int | None, ...]:
    """How many entries of each tensor are checked; None for a tensor that was not selected."""
    chosen, wanted = selected(tensors, layout.names), sample_counts(samples, layout.names)
    return tuple(
        min(size, wanted[name]) if name in chosen else None
        for name, size in zip(layout.names, layout.sizes, strict=True)
    )


# --- one point ---


def _check_point(request: _Request, number: int, leaves: Sequence[Array], bar: Progress) -> Findings:
    """Check at the given point (number 0) or at a random one, which comes nearer until the loss is defined there."""
    reaches = [1.0] if number == 0 else _REACHES
    for reach in reaches:
        try:
            with np.errstate(all=None if number == 0 else "ignore"):
                return _check_at(request, number, leaves, reach, bar)
        except Exception as error:
            if reach == reaches[-1] or not (isinstance(error, NotFiniteError) or outside_domain(error)):
                raise
    raise AssertionError("unreachable")


def _check_at(request: _Request, number: int, leaves: Sequence[Array], reach: float, bar: Progress) -> Findings:
    with _point(request, number, leaves, reach) as point:
        expected = 2 * sum(filter(None, request.counts))
        evaluator, first = open_evaluator(
            request.loss, point, engine=request.engine, threads=request.threads, expected=expected,
            with_gradients=request.gradients is True,
        )  # fmt: skip
        with contextlib.closing(evaluator):
            gradients = _analytic(request, point)
            plan = plan_samples(request.layout, gradients, request.counts, request.seed)
            positions = plan.positions(request.layout)
            analytic = _entries_of(gradients, request.layout, positions)
            base = float(np.real(first.value))
            scene = open_scene(evaluator, request.layout, point.leaves, positions, base, request.seed)
            tolerances = _tolerances(request, gradients)
            estimates, judgement = _settle(request, scene, positions, analytic, tolerances, bar)
            second: CrossCheck | None = None
            if request.crosscheck and number == 0:
                second = scipy_crosscheck(evaluator, positions, analytic)
        notes = (*first.notes, *_vacuous(estimates, analytic))
        return Findings(
            number, estimates, judgement, tolerances.rtol, evaluator.evaluations, evaluator.name, second, notes
        )


@contextlib.contextmanager
def _point(request: _Request, number: int, leaves: Sequence[Array], reach: float) -> Iterator[Point]:
    """The given point, or a random one around it; the caller's arrays are as they were afterwards."""
    if request.in_place:
        with moved(leaves, request.seed, number, reach, in_place=True) as places:
            yield callers_point(request.layout, places, request.params, request.args)
    else:
        with moved(leaves, request.seed, number, reach, in_place=False) as places:
            complex_step = request.stencil.is_complex
            yield copied_point(request.layout, places, request.args, request.precision, complex_step=complex_step)


def _analytic(request: _Request, point: Point) -> list[Array]:
    """The analytic gradient at the point, one flat array for each tensor, safe from being overwritten."""
    if not (callable(request.gradients) or request.gradients is True):
        return match_gradients(request.layout, request.gradients, copy=False)
    function = request.loss if request.gradients is True else request.gradients
    point = point.real()
    before = fingerprint(point.leaves)
    result = function(point.received_by(is_jitted(function)), *point.args)
    refuse_changed(point, before, "gradients" if function is request.gradients else "loss")
    gradients = result[1] if request.gradients is True else result
    return match_gradients(request.layout, gradients, by_position=is_jitted(function), copy=True)


def _entries_of(gradients: Sequence[Array], layout: ParameterLayout, positions: NDArray[np.int64]) -> Floats:
    tensors = layout.tensor_of(positions)
    local = positions - layout.starts[tensors]
    parts = [gradients[t][local[tensors == t]].astype(np.float64) for t in np.unique(tensors)]
    return np.concatenate([np.empty(0), *parts])


def _tolerances(request: _Request, gradients: Sequence[Array]) -> Tolerances:
    defaults = [DEFAULT_RTOL[gradient.dtype] for gradient in gradients]
    rtol = np.array(defaults if request.rtol is None else [request.rtol] * len(gradients))
    atol = None if request.atol is None else np.full(len(gradients), request.atol)
    return Tolerances(rtol, atol)


# --- from quotients to verdicts ---


def _settle(
    request: _Request,
    scene: Scene,
    positions: NDArray[np.int64],
    analytic: Floats,
    tolerances: Tolerances,
    bar: Progress,
) -> tuple[Estimates, Judgement]:
    """A quotient for every entry; a ladder of steps where that settles nothing; a second ladder where it is close."""
    layout, tensors = request.layout, request.layout.tensor_of(positions)

    def verdicts(estimates: Estimates) -> Judgement:
        scales = gradient_scales(estimates.numerical, tensors, len(layout.names))
        return judge(analytic, estimates, tensors, scales, tolerances, _noise_reason(scene))

    parts = []
    for t in np.unique(tensors):
        bar.enter(layout.names[t])
        parts.append(quotient_estimates(scene, positions[tensors == t], request.stencil, request.step, bar.advance))
    quotients = Estimates.joined(parts)
    estimates, judgement = quotients, verdicts(quotients)
    suspects = np.flatnonzero((judgement.verdict != PASS) | judgement.unsure)
    if suspects.size:
        estimates = quotients.updated(suspects, _climbed(scene, positions[suspects], bar))
        judgement = verdicts(estimates)
    close = np.flatnonzero(judgement.close)
    if close.size:
        estimates = estimates.bettered(close, ladder_estimates(scene, positions[close], shift=2.0))
        judgement = verdicts(estimates)
    bar.failed(int(np.count_nonzero(judgement.verdict == FAIL)))
    shown = estimates if request.step is None else _with_textbook_quotients(estimates, quotients)
    return shown, judgement


def _climbed(scene: Scene, positions: NDArray[np.int64], bar: Progress) -> Estimates:
    """Ladders for the suspects, tensor by tensor, so that the bar says where the work is."""
    tensors = scene.layout.tensor_of(positions)
    parts = []
    for t in np.unique(tensors):
        bar.enter(f"{scene.layout.names[t]} (in doubt)")
        parts.append(ladder_estimates(scene, positions[tensors == t]))
    return Estimates.joined(parts)


def _with_textbook_quotients(estimates: Estimates, quotients: Estimates) -> Estimates:
    """Under a step of the caller's own, ``numerical`` is the quotient with that step, as uncertain as it has proved."""
    off = np.abs(quotients.numerical - estimates.numerical)
    plain = np.isfinite(off) & (estimates.trouble == "") & (off > 0)
    uncertainty = np.where(plain, estimates.uncertainty + off, estimates.uncertainty)
    numerical = np.where(plain, quotients.numerical, estimates.numerical)
    return replace(estimates, numerical=numerical, uncertainty=uncertainty, step=quotients.step)


def _noise_reason(scene: Scene) -> str:
    if scene.noise.single:
        return "round-off of float32 hides the slope"
    if scene.noise.at_point <= _ROUND_OFF * np.finfo(np.float64).eps * abs(scene.base):
        return "the slope vanishes within round-off here: check at another point"
    return "noise of the loss hides the slope"


def _vacuous(estimates: Estimates, analytic: Floats) -> Iterator[str]:
    """Remarks on checks that show less than they seem to."""
    if not analytic.size:
        return
    if not estimates.numerical.any():
        yield "the loss did not respond to any entry: does it read its argument?"
    elif not analytic.any():
        yield "the analytic gradient is zero everywhere"
    same = np.abs(analytic - estimates.numerical) <= 4 * np.finfo(np.float64).eps * np.abs(analytic)
    apart = estimates.uncertainty > 1e4 * np.finfo(np.float64).eps * np.abs(analytic)
    if np.count_nonzero(apart) >= _SOME and same[apart].all() and analytic[apart].all():
        yield "the analytic gradient agrees with the quotients to the last bit: is it a finite difference itself?"
