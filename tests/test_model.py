"""Models that hold their parameters, checked without glue."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import fastgc

X, Y = np.linspace(-1, 1, 12).reshape(4, 3), np.array([0.3, -0.4, 0.9, 0.1])


class Model:
    """A regression in the style of scikit-learn."""

    def __init__(self, dtype: Any = np.float64, factor: float = 1.0) -> None:
        self.coef_, self.intercept_ = np.array([0.2, -0.4, 0.7], dtype), np.array([0.5], dtype)
        self.factor, self.bias = factor, 0.5

    @property
    def copied(self) -> Any:
        return self.coef_.copy()

    def loss(self, x: Any, y: Any) -> Any:
        return np.sum(np.tanh(x @ self.coef_ + self.intercept_ - y) ** 2)

    def gradients(self, x: Any, y: Any) -> Any:
        h = np.tanh(x @ self.coef_ + self.intercept_ - y)
        slope = 2 * h * (1 - h**2)
        return {"coef_": self.factor * x.T @ slope, "intercept_": np.array([slope.sum()])}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.1, "fail")])
def test_a_model_with_attributes(dtype: Any, factor: float, verdict: str) -> None:
    model = Model(dtype, factor)
    before = model.coef_.copy()
    report = fastgc.check_gradients(
        lambda _: model.loss(X, Y),
        lambda _: model.gradients(X, Y),
        fastgc.attributes(model, ["coef_", "intercept_"]),
        in_place=True,
    )
    assert {name: each.verdict for name, each in report.tensors.items()} == {"coef_": verdict, "intercept_": "pass"}
    assert np.array_equal(model.coef_, before)


def test_the_arrays_are_the_models_own() -> None:
    model = Model()
    assert fastgc.attributes(model, ["coef_"])["coef_"] is model.coef_


class Outer:
    def __init__(self) -> None:
        self.inner = Model()


def test_attributes_of_attributes() -> None:
    outer = Outer()
    assert fastgc.attributes(outer, ["inner.coef_"])["inner.coef_"] is outer.inner.coef_


@numba.experimental.jitclass([("W", numba.float64[:])])
class Jitted:
    def __init__(self, W: Any) -> None:
        self.W = W

    def loss(self) -> Any:
        return np.sum(self.W**3)


def test_an_instance_of_a_jitted_class() -> None:
    model = Jitted(np.array([1.0, 2.0]))
    params = fastgc.attributes(model, ["W"])
    report = fastgc.check_gradients(lambda _: model.loss(), lambda p: {"W": 3 * p["W"] ** 2}, params, in_place=True)
    assert report.passed


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ("coef_", TypeError, r"^names is 'coef_'; it must be a sequence of names: \['coef_'\]$"),
        (["weights"], AttributeError, "^Model has no attribute 'weights', of 'weights'$"),
        (
            ["bias"],
            TypeError,
            r"^Model.bias is a float; it must be an array, .*; keep it as an array: np.array\(0.5\)$",
        ),
        (["loss"], TypeError, "^Model.loss is a method; it must be an array, which a check displaces$"),
        (["copied"], ValueError, r"^Model.copied is another array at each reading \(a property\?\), so that the model"),
    ],
)
def test_what_cannot_be_displaced_is_refused(names: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fastgc.attributes(Model(), names)


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Model.coef_ is of int64; it must be of float16, float32, float64: cast it"):
        fastgc.attributes(Model(np.int64), ["coef_"])


# --- one vector ---


class Process:
    def __init__(self, factor: float = 1.0) -> None:
        self.vector, self.factor = np.array([0.5, -0.2]), factor

    def get_parameter_vector(self) -> Any:
        return self.vector

    def set_parameter_vector(self, vector: Any) -> None:
        self.vector[:] = vector

    def log_likelihood(self, y: Any) -> float:
        return float(-np.sum((y - self.vector[0]) ** 2) * np.exp(-self.vector[1]))

    def slopes(self, y: Any) -> Any:
        z = y - self.vector[0]
        return np.array([2 * z.sum(), self.factor * z @ z]) * np.exp(-self.vector[1])


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (-1.0, "fail")])
def test_a_model_behind_one_vector(factor: float, verdict: str) -> None:
    model = Process(factor)
    loss, gradient = (fastgc.at_vector(model, each) for each in (model.log_likelihood, model.slopes))
    report = fastgc.check_gradients(loss, gradient, model.get_parameter_vector().copy(), args=(Y,), points=2)
    assert report.verdict == verdict
    assert model.vector.tolist() == [0.5, -0.2]


def test_the_vector_comes_back_where_the_method_raises() -> None:
    model = Process()
    with pytest.raises(TypeError):
        fastgc.at_vector(model, model.log_likelihood)(np.ones(2), "text")
    assert model.vector.tolist() == [0.5, -0.2]


def test_a_model_without_a_vector_is_refused() -> None:
    message = (
        "^Model lacks 'get_parameter_vector', 'set_parameter_vector'; for arrays as attributes: fastgc.attributes$"
    )
    with pytest.raises(TypeError, match=message):
        fastgc.at_vector(Model(), len)


# --- a loss that reads its model, and not its argument ---

MODEL = Model()


def test_the_hint_names_the_object_that_holds_the_arrays() -> None:
    held = (
        "is a Model that holds arrays like these, as 'coef_': where the loss reads them there, check fastgc.attributes("
    )
    local, params = Model(), {"coef_": MODEL.coef_}
    losses: dict[str, Any] = {
        "local": lambda p: local.loss(X, Y),
        "MODEL": lambda p: MODEL.loss(X, Y),
    }
    for name, loss in losses.items():
        report = fastgc.check_gradients(loss, params, params)
        assert report.verdict == "fail"
        assert report.notes[-1] == f"{name} {held}{name}, ['coef_']) with in_place=True"
    report = fastgc.check_gradients(lambda p, model: model.loss(X, Y), params, params, args=(local,))
    assert report.notes[-1].startswith(f"args[0] {held}args[0], ['coef_'])")


def test_an_instance_of_a_jitted_class_is_seen_too() -> None:
    model = Jitted(np.array([1.0, 2.0]))
    report = fastgc.check_gradients(lambda p: model.loss(), {"W": np.ones(2)}, {"W": model.W})
    assert "in_place=True" in report.notes[-1]


def test_there_is_no_hint_where_the_loss_moves_or_nothing_holds_the_arrays() -> None:
    model, params = Model(), {"coef_": MODEL.coef_}
    for loss in (lambda p: model.intercept_[0] * p["coef_"].sum(), lambda p: 3.0):
        report = fastgc.check_gradients(loss, {"coef_": np.full(3, 0.1)}, params)
        assert not any("in_place=True" in note for note in report.notes)
