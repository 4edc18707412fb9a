"""What a check would cost: per evaluation, by random directions, by entries, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fastgc._evaluation.engine import is_jitted
from fastgc._gradient.check import check_gradients
from fastgc._numerical.drawable import Drawable
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._public import public
from fastgc._reports.gradient import GradientReport
from fastgc._reports.picture import Axis, Picture, Points, decades
from fastgc._words import Engine

_PER_ENTRY = 2  # evaluations of an entry that is right: on both sides of it
_KINDS = {"python": "forward", "numba": "central"}  # their colours and shapes
CHECKS = ("probes", "default", "all entries")


@public
@dataclass(frozen=True, repr=False)
class Benchmark(Drawable):
    """What checks of a gradient cost; ``str(benchmark)`` is the table.

    ``plot()`` draws seconds against evaluations, in a colour for each engine.

    Attributes
    ----------
    size : int
        Entries of all parameters.
    evaluations : dict of dicts of int
        By engine, and by check: "probes" (random directions alone), "default", "all entries".
    seconds : dict of dicts of float
        The same. Those of all entries are computed from the others.
    first : dict of float
        By engine, seconds of the very first check, which compiles what is compiled.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> found: fastgc.Benchmark = fastgc.benchmark(lambda p: p @ p, lambda p: 2 * p, np.ones(1000), engines=["python"])
    >>> found.size, found.evaluations["python"]["all entries"] > 2000
    (1000, True)
    >>> str(found).splitlines()[0]
    'engine  check        evaluations  seconds'
    """

    size: int
    evaluations: dict[str, dict[str, int]]
    seconds: dict[str, dict[str, float]]
    first: dict[str, float]

    @property
    def per_evaluation(self) -> dict[str, float]:
        """By engine, seconds of an evaluation in a check, with all that goes with it."""
        return {engine: self._per_evaluation(engine) for engine in self.seconds}

    def _per_evaluation(self, engine: str) -> float:
        counts, seconds = self.evaluations[engine], self.seconds[engine]
        return _rate(counts["probes"], seconds["probes"], counts["default"], seconds["default"])

    def __str__(self) -> str:
        lines = ["engine  check        evaluations  seconds"]
        for engine, check, count, seconds in self._rows():
            lines.append(f"{engine:6}  {check:11}  {count:11,}  {seconds:7.2g}")
        return "\n".join(lines)

    def _rows(self) -> Iterator[tuple[str, str, int, float]]:
        for engine, seconds in self.seconds.items():
            counts = self.evaluations[engine]
            yield from ((engine, check, counts[check], seconds[check]) for check in CHECKS)
            yield engine, "evaluation", 1, self.per_evaluation[engine]
            yield engine, "first check", counts["default"], self.first[engine]

    def _picture(self) -> Picture:
        counts = {engine: np.array([*each.values()], np.float64) for engine, each in self.evaluations.items()}
        seconds = {engine: np.array([*each.values()]) for engine, each in self.seconds.items()}
        dots = tuple(Points(counts[each], seconds[each], _KINDS[each], each) for each in counts)
        return Picture(
            "checks by probes, of default samples, of all entries",
            Axis("evaluations", "log", limits=decades(np.concatenate([*counts.values()]))),
            Axis("seconds", "log", limits=decades(np.concatenate([*seconds.values()]))),
            dots,
        )


def benchmark(
    loss: Callable[..., object],
    gradients: object,
    params: object,
    *,
    args: tuple[object, ...] = (),
    engines: list[Engine] | None = None,
    seed: int = 0,
) -> Benchmark:
    """Measure what checks of a gradient cost, by random directions and by entries, compiled or not.

    Parameters
    ----------
    loss, gradients, params, args
        As in `check_gradients`.
    engines : list of {"python", "numba"}, optional
        By default "python", and "numba" too for a loss compiled by ``numba.njit``.
    seed : int
        Of the checks.

    Returns
    -------
    Benchmark
        Printed, it is a table; ``plot()`` draws it.

    Raises
    ------
    TypeError, ValueError
        As `check_gradients`; for engines of other names.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> found = fastgc.benchmark(lambda p: np.sum(p**3), lambda p: 3 * p**2, np.linspace(1, 2, 50))
    >>> sorted(found.seconds["python"])
    ['all entries', 'default', 'probes']
    """
    usual: list[Engine] = ["python", "numba"] if is_jitted(loss) else ["python"]
    chosen = usual if engines is None else [*engines]
    unknown = [each for each in chosen if each not in _KINDS]
    if unknown or not chosen:
        raise ValueError(f"engines is {engines!r}; it must hold one or both of 'python', 'numba'")
    runs = {
        engine: [
            check_gradients(
                loss, gradients, params, args=args, samples=samples, engine=engine, crosscheck=False, seed=seed
            )
            for samples in (DEFAULT_SAMPLES, 0, DEFAULT_SAMPLES)
        ]
        for engine in chosen
    }
    size = sum(each.size for each in runs[chosen[0]][0].tensors.values())
    costs = {engine: _costs(probes, default, size) for engine, (_, probes, default) in runs.items()}
    return Benchmark(
        size,
        {engine: counts for engine, (counts, _) in costs.items()},
        {engine: seconds for engine, (_, seconds) in costs.items()},
        {engine: first.seconds for engine, (first, _, _) in runs.items()},
    )


def _costs(probes: GradientReport, default: GradientReport, size: int) -> tuple[dict[str, int], dict[str, float]]:
    """Evaluations and seconds of both checks, and those of a check of all entries."""
    left = _PER_ENTRY * (size - sum(each.checked for each in default.tensors.values()))
    rate = _rate(probes.evaluations, probes.seconds, default.evaluations, default.seconds)
    counts = (probes.evaluations, default.evaluations, default.evaluations + left)
    times = (probes.seconds, default.seconds, default.seconds + left * rate)
    return dict(zip(CHECKS, counts, strict=True)), dict(zip(CHECKS, times, strict=True))


def _rate(fewer: int, sooner: float, more: int, later: float) -> float:
    """Seconds of an evaluation: from the difference of two checks, or from the longer one where that shows none."""
    if more > fewer and later > sooner:
        return (later - sooner) / (more - fewer)
    return later / max(1, more)
