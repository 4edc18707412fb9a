"""Our arithmetic neither warns nor raises; the caller's functions run under the caller's setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastgc

X = np.array([1.0, 2.0, 3.0])
EXTREME = [[1e-170, 1e-300, 1e-308], [5e-324, 1e-310, 0.0], [1e300, -1e308, 1e-308], [0.0, -0.0, 0.0]]


@pytest.fixture(params=["raise", "warn", "ignore"])
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    with np.errstate(all=request.param):
        yield request.param


class Seen:
    """A function that notes the setting under which it is called, at the point and elsewhere."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.here, self.there = function, set[str](), set[str]()

    def __call__(self, x: Any) -> Any:
        (self.here if np.array_equal(x, X) else self.there).update(np.geterr().values())
        return self.function(x)


DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "check_gradients": lambda f, g: fastgc.check_gradients(f, g, X, crosscheck=False),
    "in_place": lambda f, g: fastgc.check_gradients(f, g, X.copy(), in_place=True),
    "check_hessian": lambda f, g: fastgc.check_hessian(f, g, lambda x: 2 * np.eye(3), X),
    "numerical_gradient": lambda f, g: fastgc.numerical_gradient(f, X),
    "gradient_check": lambda f, g: fastgc.gradient_check(f, g, X),
    "taylor_test": lambda f, g: fastgc.taylor_test(f, g, X),
}


@pytest.mark.parametrize("door", DOORS)
def test_functions_of_the_caller_run_under_the_callers_setting(door: str, setting: str) -> None:
    f, g = Seen(lambda x: float(x @ x)), Seen(lambda x: 2 * x)
    before = np.geterr()
    DOORS[door](f, g)
    assert np.geterr() == before
    elsewhere = "ignore" if setting == "warn" else setting  # a NaN near the point is an answer, and no warning
    assert f.here <= {setting, elsewhere}
    assert f.there <= {elsewhere}
    assert g.here <= {setting, elsewhere}
    assert f.here | f.there


def test_the_function_of_a_jacobian_does_too(setting: str) -> None:
    f, g = Seen(lambda x: x**2), Seen(lambda x: np.diag(2 * x))
    fastgc.check_jacobian(f, g, X)
    assert g.here == {setting}
    assert f.there == {"ignore" if setting == "warn" else setting}


def test_points_that_the_caller_has_not_chosen_give_no_warnings() -> None:
    with np.errstate(all="warn"):  # which pytest makes errors
        report = fastgc.check_gradients(
            lambda x: float(np.sum(np.log(x))), lambda x: 1 / x, np.array([1e-9, 1.0, 1e9]), points=6
        )
        assert report.verdict != "fail"
        fastgc.check_jacobian(np.sqrt, lambda x: np.diag(0.5 / np.sqrt(x)), np.array([1e-9, 1.0]), points=6)


def test_a_function_that_calls_us_does_so_under_its_own_setting() -> None:
    inner = Seen(lambda x: float(x @ x))

    def outer(x: Any) -> float:
        fastgc.check_gradients(inner, lambda x: 2 * x, X, crosscheck=False)
        return float(x @ x)

    with np.errstate(all="raise"):
        assert fastgc.check_gradients(outer, lambda x: 2 * x, X, samples=1, crosscheck=False).passed
    assert inner.here == inner.there == {"raise"}


LOSSES: dict[str, tuple[Callable[[list[float]], float], list[float]]] = {  # by Python's arithmetic, which never raises
    "sum": (lambda v: 1e-160 * math.fsum(v), [1e-160] * 3),
    "one": (lambda v: v[0] * 1e10, [1e10, 1e308, 5e-324]),
    "one-sided": (lambda v: math.inf if v[0] > 1e-170 else v[0], [1.0, 0.0, 0.0]),
    "largest": (max, [1.0, 1e308, math.inf]),
}


@pytest.mark.parametrize("point", EXTREME, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_no_overflow_of_ours_raises(name: str, point: list[float]) -> None:
    (function, slope), x = LOSSES[name], np.array(point)

    def loss(x: Any) -> float:
        return function(np.asarray(x).tolist())

    def jacobian(x: Any) -> Any:
        return np.array([slope, slope])

    with np.errstate(all="raise"):
        if math.isfinite(loss(x)):
            shown(fastgc.check_gradients(loss, lambda x: np.array(slope), x))
            shown(fastgc.check_gradients(loss, np.array(slope), x, step=1e-300, previous=x))
            shown(fastgc.check_jacobian(lambda x: [loss(x), loss(x)], jacobian, x))
            str(fastgc.taylor_test(loss, lambda x: np.array(slope), x)._repr_html_())
            fastgc.gradient_check(loss, lambda x: np.array(slope), x)
            fastgc.numerical_gradient(loss, x)
        fastgc.relative_error(x, slope)
        fastgc.max_relative_error(x, slope)
        str(fastgc.step_sweep(lambda t: float(t) * 1e-3, 1e-3, point[0])._repr_html_())


def shown(report: fastgc.Report) -> None:
    str(report), report.to_html(), report.to_json(), report.to_markdown()
