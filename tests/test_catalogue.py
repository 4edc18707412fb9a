"""The catalogues hold what they promise, by complex steps, differences and one-sided slopes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.catalogue import Params, Problem, Wrong, correct_problems, wrong_gradients
from tests.support.models import Array

TAGS = {"smooth", "kink", "float32", "domain", "noise", "scale", "offset", "zero", "thirdparty"}


@pytest.fixture(scope="module")
def correct() -> tuple[Problem, ...]:
    return correct_problems()


@pytest.fixture(scope="module")
def wrong() -> tuple[Wrong, ...]:
    return wrong_gradients()


def moved(problem: Problem, name: str, index: int, step: complex) -> Any:
    """Move one entry and take the loss without its noise."""
    p = problem.params[name].astype(np.result_type(problem.params[name], step))
    p.flat[index] += step
    return (problem.exact or problem.loss)(problem.params | {name: p}, *problem.args)


def entrywise(problem: Problem, slope: Callable[[Problem, str, int], Any]) -> dict[str, Array]:
    """Find a slope for each entry of each tensor."""
    return {
        name: np.array([slope(problem, name, i) for i in range(p.size)]).reshape(*p.shape, -1)
        for name, p in problem.params.items()
    }


def accepts_complex(problem: Problem) -> bool:
    """Whether the noise-free loss keeps an imaginary part."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return bool(np.iscomplexobj(moved(problem, next(iter(problem.params)), 0, 1e-200j)))
        except (TypeError, ValueError, np.exceptions.ComplexWarning):
            return False


def complex_slope(problem: Problem, name: str, index: int) -> float:
    """Differentiate without cancellation."""
    return float(moved(problem, name, index, 1e-150j).imag / 1e-150)


def difference_slope(problem: Problem, name: str, index: int) -> float:
    """Extrapolated central differences at the step where two neighbours agree best."""

    def five_point(h: float) -> float:
        f = [moved(problem, name, index, k * h) for k in (-2, -1, 1, 2)]
        return float((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h))

    slopes = np.array([five_point(h) for h in (1e-2, 1e-3, 1e-4)])
    finer = (1e4 * slopes[1:] - slopes[:-1]) / (1e4 - 1)
    return float(finer[np.argmin(np.abs(np.diff(slopes)))])


def side_slopes(problem: Problem, name: str, index: int) -> tuple[float, float]:
    """Second-order slopes to the left and to the right."""
    size, typical = np.abs(problem.params[name]).max(), largest(problem.params)
    h = 1e-5 * (size if size > 1e-6 * typical else typical)
    here = moved(problem, name, index, 0.0)
    left, right = (
        (4 * moved(problem, name, index, s) - moved(problem, name, index, 2 * s) - 3 * here) / (2 * s) for s in (-h, h)
    )
    return min(left, right), max(left, right)


def gradients(problem: Problem) -> Params:
    """Take the gradients under test."""
    return problem.gradients(problem.params, *problem.args)


def relative_tolerance(problem: Problem, grads: Params, precise: bool) -> float:
    """Agreement to ask for, by the noise of the gradients and of the reference."""
    if any(g.dtype == np.float32 for g in grads.values()):
        return 1e-4
    return 1e-9 if precise and "noise" not in problem.tags else 1e-6


def largest(grads: Params) -> float:
    """Largest magnitude over all tensors."""
    return max(float(np.abs(g).max()) for g in grads.values())


def outside(problem: Problem, bounds: dict[str, Array], precise: bool) -> Iterator[str]:
    """Tensors with an entry beyond its lowest or highest admissible slope."""
    grads = gradients(problem)
    share = relative_tolerance(problem, grads, precise)
    # Sums that cancel leave rounding in proportion to what was summed.
    loss = abs((problem.exact or problem.loss)(problem.params, *problem.args))
    rounding = (1e-14 if precise else 1e-10) * loss + 1e-15
    for name, g in grads.items():
        low, high = bounds[name].min(axis=-1), bounds[name].max(axis=-1)
        size = np.maximum(np.abs(low), np.abs(high))
        allowed = share * size + (1e-13 if share < 1e-6 else share) * size.max() + rounding
        if not np.all((g >= low - allowed) & (g <= high + allowed)):
            yield f"{problem.name}:{name} off by {np.maximum(low - g, g - high).max():.2g}"


def test_enough_problems_with_unique_names(correct: list[Problem], wrong: list[Wrong]) -> None:
    names = [p.name for p in correct] + [w.name for w in wrong]
    assert len(names) == len(set(names))
    assert len(correct) >= 70
    assert len(wrong) >= 120
    assert len({w.kind for w in wrong}) >= 12


def test_every_tag_is_known_and_used(correct: list[Problem]) -> None:
    assert set().union(*(p.tags for p in correct)) == TAGS
    assert all(len(p.tags & {"smooth", "kink"}) == 1 for p in correct)


def test_gradients_match_their_parameters(correct: list[Problem]) -> None:
    for p in correct:
        grads = gradients(p)
        assert grads.keys() == p.params.keys(), p.name
        assert all(type(g) is np.ndarray for g in grads.values()), p.name
        assert all(g.shape == p.params[name].shape for name, g in grads.items()), p.name
        assert all(v.dtype == np.float64 for v in p.params.values()), p.name
        assert all(np.isfinite(g).all() for g in grads.values()), p.name
        assert sum(v.size for v in p.params.values()) <= 1500, p.name


def test_losses_are_repeatable_floats_and_touch_nothing(correct: list[Problem]) -> None:
    for p in correct:
        frozen = {name: v.copy(order="K") for name, v in p.params.items()}
        for each in (*frozen.values(), *p.args):
            each.setflags(write=False)
        first, grads = p.loss(frozen, *p.args), p.gradients(frozen, *p.args)
        second = p.loss(frozen, *p.args)
        assert isinstance(first, float), p.name
        assert np.isfinite(first), p.name
        assert first == second, p.name
        again = gradients(p)
        assert all(np.array_equal(grads[name], again[name]) for name in grads), p.name


def test_single_precision_losses_are_single_precision(correct: list[Problem]) -> None:
    for p in correct:
        loss = p.loss(p.params, *p.args)
        if loss and "noise" not in p.tags:
            assert (float(np.float32(loss)) == loss) == ("float32" in p.tags), p.name


def test_smooth_gradients_are_right(correct: list[Problem]) -> None:
    found: list[str] = []
    for p in correct:
        if "smooth" in p.tags:
            precise = accepts_complex(p)
            found += outside(p, entrywise(p, complex_slope if precise else difference_slope), precise)
    assert not found


def test_kinked_gradients_lie_between_the_slopes_of_both_sides(correct: list[Problem]) -> None:
    kinked = [p for p in correct if "kink" in p.tags]
    assert not [line for p in kinked for line in outside(p, entrywise(p, side_slopes), False)]


def test_tiny_entries_are_right_on_their_own(correct: list[Problem]) -> None:
    spread = [p for p in correct if "domain" in p.tags or p.name.startswith("spanning")]
    for p in spread:
        for name, slope in entrywise(p, complex_slope).items():
            np.testing.assert_allclose(gradients(p)[name], slope[..., 0], rtol=1e-8, err_msg=p.name)


def test_wrong_gradients_are_wrong_where_they_say_and_only_there(wrong: list[Wrong]) -> None:
    for w in wrong:
        p = w.problem
        right, got = w.correct(p.params, *p.args), gradients(p)
        assert right.keys() == got.keys(), w.name
        assert all(got[name].shape == right[name].shape for name in right), w.name
        differing = {name for name in right if not np.array_equal(right[name], got[name])}
        assert differing == set(w.tensors), w.name


def test_wrong_gradients_are_visibly_wrong(wrong: list[Wrong]) -> None:
    for w in wrong:
        p = w.problem
        right, got = w.correct(p.params, *p.args), gradients(p)
        single = "float32" in p.tags
        least = (0.09 if w.kind == "entry" else 0.01) if single else 1e-4
        for name in w.tensors:
            size = np.maximum(np.abs(right[name]), np.abs(got[name]))
            plain = size >= 1e-3 * size.max()
            error = np.abs(got[name] - right[name])[plain] / size[plain]
            assert error.max() >= least, f"{w.name}:{name} {error.max():.2g}"


def test_factors_are_as_recorded(wrong: list[Wrong]) -> None:
    for w in wrong:
        if w.factor is not None and w.kind != "entry":
            right, got = w.correct(w.problem.params, *w.problem.args), gradients(w.problem)
            for name in w.tensors:
                np.testing.assert_allclose(got[name], w.factor * right[name], rtol=1e-12, err_msg=w.name)


def test_single_entries_are_single_and_not_small(wrong: list[Wrong]) -> None:
    for w in wrong:
        if w.kind == "entry":
            (name,) = w.tensors
            right, got = w.correct(w.problem.params, *w.problem.args)[name], gradients(w.problem)[name]
            (index,) = np.flatnonzero(right != got)
            assert abs(right.flat[index]) >= np.median(np.abs(right)), w.name
            np.testing.assert_allclose(got.flat[index], w.factor * right.flat[index], err_msg=w.name)


def test_another_seed_gives_other_problems_of_the_same_names(correct: list[Problem]) -> None:
    other = correct_problems(1)
    assert [p.name for p in other] == [p.name for p in correct]
    assert not np.array_equal(other[0].params["W1"], correct[0].params["W1"])
