"""Right and wrong verdicts of fastgc and its peers over the catalogues of the tests.

Correct but hard problems must not be accused (false alarms), wrong gradients must not pass (missed bugs). Every peer
runs with its documented defaults through a thin wrapper, and decides as its documentation or its users do:

- tutorial: central differences of all entries, ||a - n|| / (||a|| + ||n|| + 1e-8) < 1e-5 over the whole gradient
- element-wise: 50 random entries, h = 1e-5, max |a - n| / max(|a| + |n|, 1e-8) < 1e-5
- check_grad: SciPy's number below 1e-5 of the gradient's norm
- check_derivative: SciPy's accuracy below 1e-6
- scipy.differentiate, numdifftools, jacobi: every entry within 1e-5 of the larger value plus the stated error
- torch gradcheck (slow, fast), jax check_grads: as they say

Small errors of single entries are planted in the smooth problems in double precision: fastgc must fail 99 % of those
that the uncertainty of the entry allows it to see.

The exit status is 1 unless fastgc, looking at all entries, has 0 in both columns, and sees the small errors. An
exception that is no peer's way to say "wrong" is counted as an error, and as no verdict. "undecided" is a verdict of
fastgc only. Run ``python bench/accuracy.py [--json FILE] [--only WORD]`` ("small": the small errors alone) after
``pip install torch jax numdifftools jacobi scikit-learn statsmodels``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loops import agree, within
from measure import Row, machine, tell

import fastgc

sys.path.insert(0, str(Path(__file__).parents[1]))

NEEDED = ["torch", "jax", "numdifftools", "jacobi", "sklearn", "statsmodels"]
PIP = "python -m pip install torch jax numdifftools jacobi scikit-learn statsmodels"
LARGEST = 500  # parameters for the peers that take seconds beyond

Array = np.ndarray


@dataclass
class Case:
    """A problem as functions of one flat vector and of the separate arrays, with a count of the calls."""

    name: str
    loss: Callable[..., float]
    gradients: Callable[..., dict[str, Array]]
    params: dict[str, Array]
    args: tuple[Any, ...]
    calls: int = 0

    @property
    def point(self) -> Array:
        """All parameters in one vector."""
        return np.concatenate([p.ravel() for p in self.params.values()])

    def unpack(self, x: Array) -> dict[str, Array]:
        """One vector as named arrays."""
        cuts = np.cumsum([p.size for p in self.params.values()])[:-1]
        parts = np.split(np.asarray(x, float), cuts)
        return {name: part.reshape(p.shape) for (name, p), part in zip(self.params.items(), parts, strict=True)}

    def counted(self, params: dict[str, Array], *args: Any) -> float:
        """The loss."""
        self.calls += 1
        return self.loss(params, *args)

    def value(self, x: Array) -> float:
        """The loss of a flat vector."""
        return float(self.counted(self.unpack(x), *self.args))

    def slope(self, x: Array) -> Array:
        """The gradient under test of a flat vector."""
        found = self.gradients(self.unpack(x), *self.args)
        return np.concatenate([np.asarray(found[name], float).ravel() for name in self.params])

    def central(self, entries: Any, h: float) -> Array:
        """Central differences of some entries."""
        result, x = [], self.point
        for i in entries:
            original = x[i]
            x[i] = original + h
            above = self.value(x)
            x[i] = original - h
            result.append((above - self.value(x)) / (2 * h))
            x[i] = original
        return np.array(result)


# --- the checkers: True for "right", False for "wrong", None for "cannot tell" ---


def with_fastgc(case: Case) -> bool | None:
    report = fastgc.check_gradients(case.counted, case.gradients, case.params, args=case.args, samples="all")
    return {"pass": True, "fail": False, "undecided": None}[report.verdict]


def sampled_fastgc(case: Case) -> bool | None:
    report = fastgc.check_gradients(case.counted, case.gradients, case.params, args=case.args)
    return {"pass": True, "fail": False, "undecided": None}[report.verdict]


def tutorial(h: float) -> Callable[[Case], bool]:
    def check(case: Case) -> bool:
        return agree(case.slope(case.point), case.central(range(case.point.size), h))

    return check


def element_wise(case: Case) -> bool:
    x = case.point
    entries = np.random.default_rng(0).choice(x.size, min(50, x.size), replace=False)
    a, n = case.slope(x)[entries], case.central(entries, 1e-5)
    return bool(np.max(np.abs(a - n) / np.maximum(np.abs(a) + np.abs(n), 1e-8)) < 1e-5)


def scipy_check_grad(case: Case) -> bool:
    from scipy.optimize import check_grad

    error = check_grad(case.value, case.slope, case.point)
    return bool(error < 1e-5 * np.linalg.norm(case.slope(case.point)))


def scipy_check_derivative(case: Case) -> bool:
    from scipy.optimize._numdiff import check_derivative

    return bool(check_derivative(case.value, case.slope, case.point) < 1e-6)


def scipy_differentiate(case: Case) -> bool:
    from scipy.differentiate import jacobian

    def values(x: Array) -> Array:
        return np.apply_along_axis(case.value, 0, x)

    found = jacobian(values, case.point)
    return within(case.slope(case.point), found.df, found.error)


def with_numdifftools(case: Case) -> bool:
    import numdifftools

    found = numdifftools.Gradient(case.value, full_output=True)(case.point)
    return within(case.slope(case.point), np.ravel(found.estimate), np.ravel(found.error_estimate))


def with_jacobi(case: Case) -> bool:
    from jacobi import jacobi

    value, error = jacobi(case.value, case.point)
    return within(case.slope(case.point), value, error)


def torch_gradcheck(fast: bool) -> Callable[[Case], bool]:
    def check(case: Case) -> bool:
        import torch
        from torch.autograd.gradcheck import GradcheckError

        def arrays(tensors: Any) -> dict[str, Array]:
            return {name: t.detach().numpy() for name, t in zip(case.params, tensors, strict=True)}

        class Loss(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *tensors: Any) -> Any:
                ctx.save_for_backward(*tensors)
                return torch.tensor(float(case.counted(arrays(tensors), *case.args)), dtype=torch.float64)

            @staticmethod
            def backward(ctx: Any, grad: Any) -> Any:
                found = case.gradients(arrays(ctx.saved_tensors), *case.args)
                return tuple(grad * torch.tensor(np.asarray(found[name], float)) for name in case.params)

        inputs = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in case.params.values()]
        try:
            return bool(torch.autograd.gradcheck(Loss.apply, inputs, fast_mode=fast))
        except GradcheckError:
            return False

    return check


def jax_check_grads(case: Case) -> bool:
    import jax
    from jax.test_util import check_grads

    shapes = {name: jax.ShapeDtypeStruct(p.shape, np.float64) for name, p in case.params.items()}

    def plain(params: Any) -> dict[str, Array]:
        return {name: np.asarray(params[name], np.float64) for name in case.params}

    def host_loss(params: Any) -> Array:
        return np.float64(case.counted(plain(params), *case.args))

    def host_gradients(params: Any) -> dict[str, Array]:
        found = case.gradients(plain(params), *case.args)
        return {name: np.asarray(found[name], np.float64) for name in case.params}

    @jax.custom_vjp
    def loss(params: Any) -> Any:
        return jax.pure_callback(host_loss, jax.ShapeDtypeStruct((), np.float64), params)

    def backward(params: Any, cotangent: Any) -> Any:
        found = jax.pure_callback(host_gradients, shapes, params)
        return (jax.tree.map(lambda g: cotangent * g, found),)

    loss.defvjp(lambda params: (loss(params), params), backward)
    try:
        check_grads(loss, (case.params,), order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


@dataclass
class Peer:
    """A checker and its tally."""

    name: str
    check: Callable[[Case], bool | None]
    largest: int | None = None
    missed: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0

    def judge(self, case: Case, right: bool) -> None:
        """Check one problem and count what came of it."""
        if self.largest is not None and case.point.size > self.largest:
            self.skipped += 1
            return
        begin, case.calls = time.perf_counter(), 0
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                verdict = self.check(case)
        except Exception as error:
            self.errors.append(f"{case.name}: {type(error).__name__}: {str(error).strip().splitlines()[:1]}")
        else:
            if verdict is None:
                self.undecided.append(case.name)
            elif verdict is not right:
                (self.alarms if right else self.missed).append(case.name)
        self.seconds += time.perf_counter() - begin
        self.calls.append(case.calls)


def peers() -> list[Peer]:
    return [
        Peer("fastgc, all entries", with_fastgc),
        Peer("fastgc, defaults", sampled_fastgc),
        Peer("tutorial, h = 1e-5", tutorial(1e-5)),
        Peer("tutorial, h = 1e-7", tutorial(1e-7)),
        Peer("element-wise, 50 entries", element_wise),
        Peer("scipy check_grad", scipy_check_grad),
        Peer("scipy check_derivative", scipy_check_derivative),
        Peer("scipy.differentiate", scipy_differentiate, LARGEST),
        Peer("torch gradcheck, slow", torch_gradcheck(fast=False)),
        Peer("torch gradcheck, fast", torch_gradcheck(fast=True)),
        Peer("jax check_grads", jax_check_grads),
        Peer("numdifftools", with_numdifftools, LARGEST),
        Peer("jacobi", with_jacobi, LARGEST),
    ]


# --- small errors of single entries ---

# Relative errors of an entry, each with an rtol below it: that of a careful caller, and the default.
SMALL = ((1e-5, 1e-6), (2e-5, 1e-5))
PLANTED = 4  # entries of each problem, at random
FOUND = 99.0  # per cent
CERTAIN = 10.0  # uncertainties and the tolerance, beyond which an entry fails (rule 4 of the verdicts)


def small_errors() -> list[Row]:
    """How many small errors of single entries fail, of those that the uncertainty allows to be seen."""
    from tests.support.catalogue import correct_problems

    problems = [each for each in correct_problems() if "smooth" in each.tags and in_double(each)]
    rows = []
    for error, rtol in SMALL:
        missed, tried = [], 0
        for problem in problems:
            names = planted(problem, error, rtol)
            tried += len(names)
            missed += [name for name, verdict in names.items() if verdict != "fail"]
        part = f"errors of {error:g} in one entry, rtol={rtol:g}"
        rows.append(tell(Row(part, "errors that the uncertainty allows to be seen", tried, ">= 200")))
        rows.append(tell(Row(part, "per cent that fail", 100 * (1 - len(missed) / tried), f">= {FOUND:g}")))
        print(*(f"  not found: {name}" for name in missed), sep="\n")
    return rows


def in_double(problem: Any) -> bool:
    """Whether its loss and its gradient are float64 numbers."""
    slopes = problem.gradients(problem.params, *problem.args).values()
    return "float32" not in problem.name and all(each.dtype == np.float64 for each in slopes)


def planted(problem: Any, error: float, rtol: float) -> dict[str, str]:
    """Verdicts on the gradient with that relative error in a random entry, where the uncertainty allows to see it."""
    generator = np.random.default_rng([len(problem.name), *problem.name.encode()])
    right = problem.gradients(problem.params, *problem.args)
    doubled = verdicts_on(problem, {name: 2 * slopes for name, slopes in right.items()}, rtol)  # so all climb ladders
    found = {}
    for _ in range(PLANTED):
        name = str(generator.choice([name for name in right if right[name].size]))
        k = int(generator.integers(right[name].size))
        value, entry = float(right[name].flat[k]), doubled.tensors[name].entries[k]
        scales = {each: np.sqrt(np.mean(slopes**2)) for each, slopes in right.items() if slopes.size}
        scale = max(scales[name], 1e-6 * max(scales.values()))
        tolerance = rtol * (abs(value) + 1e-5 * scale)
        if entry.reason or not tolerance * (1 + error) + CERTAIN * entry.uncertainty < error * abs(value):
            continue
        wrong = {each: slopes.copy() for each, slopes in right.items()}
        wrong[name].flat[k] = value * (1 + error)
        found[f"{problem.name} {name}[{k}]"] = verdicts_on(problem, wrong, rtol).verdict
    return found


def verdicts_on(problem: Any, gradients: dict[str, Array], rtol: float) -> Any:
    return fastgc.check_gradients(
        problem.loss, gradients, problem.params, args=problem.args, samples="all", rtol=rtol, crosscheck=False
    )


# --- the run ---


def require_peers() -> str:
    """Import every peer; the versions, or an exit that says what to install."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"bench/accuracy.py needs {', '.join(missing)}: {PIP}")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax, torch = importlib.import_module("jax"), importlib.import_module("torch")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # a callback that waits for its own arguments
    torch.set_num_threads(1)
    versions = {name: importlib.import_module(name).__version__ for name in ["numpy", "scipy", *NEEDED]}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def cases() -> list[tuple[Case, bool]]:
    """All problems, each with whether its gradient is right."""
    from tests.support.catalogue import correct_problems, wrong_gradients

    right = [(problem, True) for problem in correct_problems()]
    wrong = [(each.problem, False) for each in wrong_gradients()]
    return [(Case(p.name, p.loss, p.gradients, p.params, p.args), good) for p, good in right + wrong]


def validate(problems: list[tuple[Case, bool]]) -> None:
    """Both catalogues are there, and the wrappers call what they wrap."""
    assert sum(good for _, good in problems) >= 60
    assert sum(not good for _, good in problems) >= 100
    named = {case.name: case for case, _ in problems}
    easy, reversed_sign = named["mlp-tanh-mse"], named["mlp-tanh-mse/times-1"]
    assert easy.value(easy.point) == easy.loss(easy.params, *easy.args)
    assert easy.slope(easy.point).size == easy.point.size
    for peer in peers():
        assert peer.check(easy) is True, f"{peer.name} on {easy.name}"
        assert peer.check(reversed_sign) is False, f"{peer.name} on {reversed_sign.name}"


TITLES = ("missed bugs", "false alarms", "undecided", "errors", "not run", "evaluations", "seconds")


def row(peer: Peer) -> str:
    numbers = (len(peer.missed), len(peer.alarms), len(peer.undecided), len(peer.errors), peer.skipped)
    calls = statistics.median(peer.calls) if peer.calls else 0
    return f"{peer.name:<26}" + "".join(f"{n:>14}" for n in numbers) + f"{calls:>14,.0f}{peer.seconds:>14.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", metavar="WORD", help="of the peers, only those whose name contains this word")
    chosen = parser.parse_args()
    if chosen.only == "small":
        return 0 if all(row.met for row in small_errors()) else 1
    versions = require_peers()
    problems = cases()
    validate(problems)
    ours, *others = peers()
    found = [ours, *(peer for peer in others if not chosen.only or chosen.only in peer.name)]
    count = sum(right for _, right in problems)
    print(f"Python {platform.python_version()}, fastgc {fastgc.__version__}, {os.cpu_count()} cores\n{versions}\n"
          f"{count} correct problems, {len(problems) - count} wrong gradients; "
          "evaluations of the loss: median of a check\n")  # fmt: skip
    print(f"{'checker':<26}" + "".join(f"{title:>14}" for title in TITLES), flush=True)
    for peer in found:
        for case, right in problems:
            peer.judge(case, right)
        print(row(peer), flush=True)
    best = all(
        len(ours.missed) <= len(peer.missed) and len(ours.alarms) <= len(peer.alarms) for peer in found
    )  # fmt: skip
    met = best and not (ours.missed or ours.alarms or ours.errors)
    print(f"\ntarget: {ours.name}, best in the first two columns, with 0 in both: {'met' if met else 'MISSED'}")
    for title, names in (
        ("missed", ours.missed), ("accused", ours.alarms), ("undecided", ours.undecided), ("errors", ours.errors)
    ):  # fmt: skip
        if names:
            print(f"{title} by {ours.name}:", *names, sep="\n  ")
    small = [] if chosen.only else small_errors()
    met &= all(row.met for row in small)
    if chosen.json:
        columns = ("missed", "alarms", "undecided", "errors", "calls", "skipped", "seconds")
        numbers = {peer.name: {column: getattr(peer, column) for column in columns} for peer in found}
        figures = {"met": met, "machine": machine(), "peers": numbers, "small": [asdict(row) for row in small]}
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
