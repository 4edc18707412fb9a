"""Which kind of bug is named in whole checks, and where the numbers establish none."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgc
from tests.support.catalogue import Wrong, alone, edited, wrong_gradients
from tests.support.diagnosed import check, problems
from tests.support.planted import planted_kinds, slope, unstructured_names, value
from tests.support.tensors import slopes
from tests.support.texts import unbroken

SIZE = 60


def summary(right: np.ndarray, analytic: np.ndarray, **options: Any) -> Any:
    """Check a smooth loss of these slopes."""

    def loss(p: np.ndarray) -> float:
        return float(np.sum(right * (np.sin(p))))

    x = np.zeros(right.shape)
    return fastgc.check_gradients(loss, analytic, x, **options).tensors["params"]


def diagnosed(item: str, change: Callable[..., np.ndarray], **options: Any) -> Any:
    """The diagnosis of one tensor (item: problem:tensor) whose gradient was changed by change(gradients, params, name).

    No other tensor of the problem has any.
    """
    name, _, tensor = item.partition(":")
    report = check(edited(problems()[name], "", "", (tensor,), change).problem, **options)
    assert all(other.diagnosis is None for key, other in report.tensors.items() if key != tensor)
    assert report.tensors[tensor].verdict == "fail"
    return report.tensors[tensor].diagnosis


# --- what is named, each kind over several models ---


def drifting(g: np.ndarray) -> np.ndarray:
    return g * np.linspace(1.9, 2.1, g.size).reshape(g.shape)


def last_row(g: np.ndarray, value: Any) -> np.ndarray:
    g = g.copy()
    g[-1] = value
    return g


def without_the_first(g: np.ndarray) -> np.ndarray:
    return np.concatenate([0 * g[:1], g[:-1]])


def level(axis: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda g: np.broadcast_to(g.mean(axis=axis, keepdims=True), g.shape)


def in_half(g: np.ndarray) -> np.ndarray:
    return g.astype(np.float16).astype(float)


FIRES = [
    ("sign", alone(np.negative), "lstm:U conv2d-relu-xent:b1 gaussian-process:log_noise"),
    ("factor", alone(lambda g: 2 * g), "attention:Wq regression-poisson:W mlp-wide-tanh:W1"),
    ("factor", alone(lambda g: g / 3.7), "gaussian-mixture:means sinkhorn:cost"),
    ("transpose", alone(np.transpose), "attention:Wv equilibrium:W log-determinant:A"),
    ("permutation", alone(lambda g: g[::-1]), "mlp-relu-xent:W2 conv1d-tanh-mse:W1"),
    ("permutation", alone(lambda g: g[..., ::-1]), "hidden-markov:emit mlp-wide-tanh:W1"),
    ("permutation", alone(without_the_first), "lstm:b regression-poisson:W"),
    ("zero", alone(np.zeros_like), "regression-gamma:b rnn:Wx mlp-wide-tanh:W1"),
    ("missing_term", lambda g, p, t: g[t] - 0.1 * p[t], "mlp-sigmoid-mse:W1 attention:Wo conv2d-relu-xent:W2"),
    ("missing_term", lambda g, p, t: g[t] + 0.1 * np.sign(p[t]), "mlp-softplus-mse:W2 rosenbrock:p"),
    ("missing_term", alone(lambda g: g + 0.05), "mlp-tanh-mse:b1 neural-ode:W1"),
    ("broadcast", alone(level(0)), "mlp-sigmoid-mse:W1 lotka-volterra:rates"),
    ("broadcast", alone(level(-1)), "hidden-markov:emit mlp-wide-tanh:W1"),
    ("sparse", alone(lambda g: last_row(g, 0)), "neural-ode:W1 mlp-wide-tanh:W1 entropy-edge:p"),
    ("sparse", alone(lambda g: last_row(g.T, 0).T), "mlp-gelu-xent:W1 regression-multinomial:W"),
    ("scale_precision", alone(in_half), "mlp-tanh-mse:W1 regression-logistic:W"),
    ("unstructured", alone(lambda g: g + g**2), "gru:U mlp-wide-tanh:W1 statsmodels-probit:params"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "item"),
    [(kind, change, item) for kind, change, items in FIRES for item in items.split()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_kind_is_named(kind: str, change: Any, item: str) -> None:
    assert diagnosed(item, change).kind == kind


@pytest.mark.parametrize("pair", ["mlp-square-tanh:W1,W2", "attention:Wq,Wk", "skip-gram:inner,outer"])
def test_swapped_tensors_name_each_other(pair: str) -> None:
    name, _, tensors = pair.partition(":")
    first, second = tensors.split(",")
    problem = problems()[name]
    right = problem.gradients(problem.params, *problem.args)
    wrong = right | {first: right[second], second: right[first]}
    report = fastgc.check_gradients(problem.loss, wrong, problem.params, args=problem.args)
    assert [report.tensors[t].diagnosis.kind for t in (first, second)] == ["swapped", "swapped"]
    assert repr(second) in report.tensors[first].diagnosis.message


# --- near misses ---

NEAR = [
    ("sign", alone(lambda g: -1.01 * g), "mlp-tanh-mse:W1"),
    ("factor", alone(drifting), "mlp-tanh-mse:W1 mlp-wide-tanh:W1 lstm:U"),
    ("transpose", alone(lambda g: (g + g.T) / 2), "mlp-square-tanh:W2 log-determinant:A"),
    ("permutation", alone(lambda g: 1.01 * g[::-1]), "mlp-relu-xent:W2 mlp-wide-tanh:W1"),
    ("zero", alone(lambda g: np.where(np.arange(g.shape[-1]) == 0, g, 0)), "mlp-tanh-mse:W1 lstm:U"),
    ("missing_term", lambda g, p, t: g[t] - 0.1 * p[t] ** 2, "mlp-sigmoid-mse:W1 gru:U"),
    ("broadcast", alone(lambda g: level(0)(g) * np.linspace(1, 1.001, g.size).reshape(g.shape)), "mlp-sigmoid-mse:W1"),
    ("sparse", alone(lambda g: np.where(slopes(*g.shape) > 0, 1.5 * g, g)), "lstm:U mlp-tanh-mse:W1 mlp-wide-tanh:W1"),
    ("scale_precision", alone(lambda g: g * (1 + 1e-4 * slopes(*g.shape))), "mlp-tanh-mse:W1 lstm:U"),
]


@pytest.mark.parametrize(
    ("kind", "change", "item"),
    [(kind, change, item) for kind, change, items in NEAR for item in items.split()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_near_miss_is_not_named(kind: str, change: Any, item: str) -> None:
    found = diagnosed(item, change)
    assert found is None or found.kind != kind


def test_a_factor_beside_a_swap_is_no_swap() -> None:
    problem = problems()["attention"]
    right = problem.gradients(problem.params, *problem.args)
    report = fastgc.check_gradients(problem.loss, right | {"Wq": 1.01 * right["Wk"]}, problem.params, args=problem.args)
    assert report.tensors["Wq"].diagnosis.kind == "unstructured"


# --- the catalogue of wrong gradients (all of it: bench/diagnosis.py) ---


def test_the_catalogue_is_named_rightly() -> None:
    right = wrong = silent = 0
    for each in wrong_gradients()[1::6]:
        for name, tensor in check(each.problem).tensors.items():
            if tensor.verdict == "fail":
                kind = tensor.diagnosis.kind if tensor.diagnosis and tensor.diagnosis.kind != "unstructured" else ""
                expected = each.named(name)
                right, wrong = right + bool(expected and kind == expected), wrong + bool(kind and kind != expected)
                silent += bool(expected and not kind)
    assert right >= 30
    assert wrong == 0
    assert silent <= 1


# --- constant factors ---


@pytest.mark.parametrize("factor", [2.0, 0.5, 30.0, 1 / 30, 3.0, -2.0, 1.001, 4096.0, 1 / 4096, 1e6])
@pytest.mark.parametrize("samples", [32, "all"])
def test_a_constant_factor_is_named(factor: float, samples: Any) -> None:
    found = summary(slopes(SIZE), factor * slopes(SIZE), samples=samples).diagnosis
    assert found.kind == "factor"
    assert found.factor == pytest.approx(factor, rel=1e-5)
    assert f"factor of {factor:.4g}" in found.message
    assert "(analytic / numerical)" in found.message


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1.01, 1e4), sign=st.sampled_from([-1, 1]), power=st.integers(-8, 8))
def test_any_factor_is_named_at_any_scale(factor: float, sign: int, power: int) -> None:
    right = slopes(SIZE) * 10.0**power
    found = summary(right, sign * factor * right).diagnosis
    assert found.factor == pytest.approx(sign * factor, rel=1e-4)


def test_the_text_of_the_report_carries_it() -> None:
    report = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 6 * p, slopes(SIZE))
    lines = unbroken(report)
    assert any(line.endswith("FAIL consistent with a constant factor of 3 (analytic / numerical)") for line in lines)
    said = r"params: explains all 32 measured entries \(32 wrong\); largest deviation \de-\d\d of the tolerance"
    assert any(re.fullmatch(said, line) for line in lines)


@pytest.mark.parametrize(
    ("size", "samples", "wrong", "said"),
    [(1, 32, 2, r"explains the one measured entry \(1 wrong\); largest deviation \de-\d\d of the tolerance"),
     (60, 3, 2, r"explains all 16 measured entries \(16 wrong, 13 measured for the diagnosis\); largest .*"),
     (60, "all", np.where(np.arange(60) == 7, 3, 1), r"explains all 60 measured entries \(1 wrong\)")],
)  # fmt: skip
def test_what_a_diagnosis_rests_on_is_said(size: int, samples: Any, wrong: Any, said: str) -> None:
    right = slopes(size)
    report = fastgc.check_gradients(lambda p: float(right @ np.sin(p)), wrong * right, np.zeros(size), samples=samples)
    assert any(re.fullmatch(f"params: {said}", line) for line in unbroken(report))


def test_what_explains_the_entries_as_well_is_said() -> None:
    """The slopes are twice the parameters: three times too large is also four parameters too much."""
    report = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 6 * p, slopes(SIZE))
    found = report.tensors["params"].diagnosis
    assert found.kind == "factor"
    assert len(found.alternatives) == 1
    assert "analytic - numerical = 4 * parameter" in found.alternatives[0]
    assert f"params: also {found.alternatives[0]}" in unbroken(report)


def test_zeros_on_both_sides_do_not_hide_the_factor() -> None:
    right = np.where(np.arange(SIZE) % 2, slopes(SIZE), 0.0)
    assert summary(right, 2 * right, samples="all").diagnosis.factor == pytest.approx(2, rel=1e-6)


def test_the_batch_axis_is_named() -> None:
    problem = problems()["mlp-tanh-mse"]
    wrong = edited(problem, "", "", tuple(problem.params), alone(lambda g: 12 * g)).problem
    report = check(wrong)
    assert all(
        tensor.diagnosis.message.endswith("(analytic / numerical) = N, N = 12 is the batch axis of args[0]")
        for tensor in report.tensors.values()
    )


def test_the_text_says_where_no_pattern_was_found() -> None:
    wrong = slopes(SIZE) + slopes(SIZE) ** 2
    report = fastgc.check_gradients(lambda p: float(slopes(SIZE) @ np.sin(p)), wrong, np.zeros(SIZE))
    row = next(line for line in unbroken(report) if line.startswith("params "))
    assert row.endswith("FAIL 32 of 32 checked entries differ; no simple pattern explains them")


# --- where none is established ---


def test_a_gradient_that_agrees_has_no_bug() -> None:
    assert summary(slopes(SIZE), slopes(SIZE)).diagnosis is None


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 5e-2])
def test_a_drifting_factor_is_not_a_constant_one(spread: float) -> None:
    drifting = 2 * slopes(SIZE) * np.linspace(1 - spread, 1 + spread, SIZE)
    assert summary(slopes(SIZE), drifting, samples="all").diagnosis.kind == "unstructured"


def test_errors_just_above_the_tolerance_are_no_factor() -> None:
    found = summary(slopes(SIZE), slopes(SIZE) * (1 + 1.5e-5 * slopes(SIZE, seed=1)), samples="all")
    assert found.verdict == "fail"
    assert found.diagnosis is None or found.diagnosis.kind == "unstructured"


def test_a_factor_in_half_of_the_entries_is_none() -> None:
    wrong = slopes(SIZE) * np.where(np.arange(SIZE) < SIZE // 2, 2, 1)
    assert summary(slopes(SIZE), wrong, samples="all").diagnosis.kind == "unstructured"


def test_entries_that_are_not_finite_are_few_or_nothing() -> None:
    wrong = slopes(SIZE)
    wrong[3] = np.nan
    found = summary(slopes(SIZE), wrong, samples="all")
    assert (found.verdict, found.diagnosis.kind, found.diagnosis.indices) == ("fail", "sparse", ((3,),))
    assert summary(slopes(SIZE), 2 * wrong, samples="all").diagnosis is None
    assert summary(slopes(SIZE), np.full(SIZE, np.nan)).diagnosis is None


# --- few entries ---


@pytest.mark.parametrize("size", [2, 3, 7])
def test_all_entries_of_a_small_tensor_establish_a_factor(size: int) -> None:
    assert summary(slopes(size), 2 * slopes(size)).diagnosis.factor == pytest.approx(2, rel=1e-6)


def test_two_entries_establish_only_a_factor_with_a_meaning() -> None:
    assert summary(slopes(2), 1.37 * slopes(2)).diagnosis.kind == "unstructured"


@pytest.mark.parametrize("samples", [1, 3, 7, 8])
def test_where_few_entries_are_sampled_more_are_measured(samples: int) -> None:
    found = summary(slopes(SIZE), 2 * slopes(SIZE), samples=samples)
    assert found.checked == samples
    assert found.diagnosis.factor == pytest.approx(2, rel=1e-6)
    assert found.diagnosis.evidence.entries >= 8
    assert found.diagnosis.evidence.extra == (0 if samples == 8 else found.diagnosis.evidence.entries - samples)


def test_a_diagnosis_is_frozen() -> None:
    found = summary(slopes(SIZE), 2 * slopes(SIZE)).diagnosis
    assert isinstance(found, fastgc.Diagnosis)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.factor = 1.0


# --- errors of no kind ---


def test_unstructured_errors_are_not_named() -> None:
    assert unstructured_names(50, partial(check, samples="all")) == []


@pytest.mark.parametrize("size", [3, 5])
def test_errors_of_a_few_tolerances_are_no_wrong_axis(size: int) -> None:
    """The lengths of the data are those of the tensor; one in seven such errors has a sum of nearly zero."""
    rng = np.random.default_rng(size)
    for _ in range(10):
        x, y, w = rng.normal(size=(size, size)), rng.normal(size=size), rng.normal(size=size)
        wrong = slope({"w": w}, x, y)["w"] * (1 + 1e-4 * rng.normal(size=size))
        report = fastgc.check_gradients(value, {"w": wrong}, {"w": w}, args=(x, y), crosscheck=False)
        found = report.tensors["w"].diagnosis
        assert found is None or found.kind == "unstructured"


@pytest.mark.parametrize("place", [0, 1])
def test_an_entry_of_two_is_not_off_by_one(place: int) -> None:
    wrong = slopes(2) * np.where(np.arange(2) == place, 3, 1)
    found = summary(slopes(2), wrong).diagnosis
    assert (found.kind, found.indices) == ("sparse", ((place,),))
    assert "off by one" not in found.message


# --- new kinds, planted in real models (all of them: bench/diagnosis.py) ---


@pytest.mark.parametrize("wrong", planted_kinds()[::7], ids=lambda wrong: wrong.name)
def test_planted_kinds_are_named(wrong: Wrong) -> None:
    for name, tensor in check(wrong.problem).tensors.items():
        if tensor.verdict == "fail":
            assert tensor.diagnosis is not None
            assert tensor.diagnosis.kind == wrong.named(name)


def test_indices_overwritten_instead_of_added_up_are_said() -> None:
    rng = np.random.default_rng(0)
    table, ids, weights = rng.normal(size=(12, 4)), np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3]), rng.normal(size=(10, 4))

    def loss(e: np.ndarray, ids: np.ndarray) -> float:
        return float(np.sum(weights * np.tanh(e[ids])))

    def overwritten(e: np.ndarray, ids: np.ndarray) -> np.ndarray:
        g = np.zeros_like(e)
        g[ids] += weights / np.cosh(e[ids]) ** 2  # adds each index once
        return g

    found = fastgc.check_gradients(loss, overwritten, table, args=(ids,), samples="all").tensors["params"].diagnosis
    assert (found.kind, found.axis, found.indices) == ("sparse", 0, ((1,), (3,), (5,)))
    assert "overwritten instead of added up: [1, :], [3, :], [5, :] are wrong, where args[0] repeats" in found.message


# --- one quotient across a jump ---


@pytest.mark.parametrize("jump", [1.0, 1e-3])
@pytest.mark.parametrize("factor", [2.0, -1.0, 0.37])
def test_an_extra_entry_measured_across_a_jump_hides_no_kind(factor: float, jump: float) -> None:
    """28 entries, all of which are measured: three by samples, and the others, two next to a jump, for this."""
    right = slopes(28)
    sampled = [entry.index[0] for entry in summary(right, factor * right, samples=3, probes=0).entries]
    jumping = np.setdiff1d(np.arange(28), sampled)[[4, 19]]

    def loss(p: np.ndarray) -> float:
        return float(np.sum(right * np.sin(p)) + jump * np.count_nonzero(p[jumping] > 1e-9))

    found = fastgc.check_gradients(loss, factor * right, np.zeros(28), samples=3, probes=0).tensors["params"]
    assert found.diagnosis.factor == pytest.approx(factor, rel=1e-5)
    assert (found.diagnosis.evidence.entries, found.diagnosis.evidence.extra) == (26, 23)


# --- Jacobians ---


def jacobian(change: Callable[[Any], Any], **options: Any) -> Any:
    """The diagnosis of a Jacobian of 40 by 40 with a band of five diagonals, changed."""
    sparse = pytest.importorskip("scipy.sparse")
    band = sparse.diags_array([slopes(40 - abs(k), seed=k + 2) for k in range(-2, 3)], offsets=range(-2, 3)).tocsr()
    x = slopes(40, seed=9)
    right = sparse.csr_array(band * np.cos(x)[None, :])
    return fastgc.check_jacobian(lambda x: band @ np.sin(x), x=x, **change(right), **options).diagnosis


FORMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "dense": lambda wrong: {"jacobian": wrong.toarray()},
    "sparse": lambda wrong: {"jacobian": wrong},
    "jvp": lambda wrong: {"jacobian": None, "jvp": lambda x, u: wrong @ u},
    "vjp": lambda wrong: {"jacobian": None, "vjp": lambda x, v: wrong.T @ v},
}


PLACELESS = [(-1.0, "sign", None), (2.0, "factor", 12), (0.37, "factor", None), (0.0, "zero", 12)]
IN_TURNS = [(*each, form) for i, each in enumerate(PLACELESS) for j, form in enumerate(FORMS) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("factor", "kind", "columns", "form"), IN_TURNS)
def test_what_needs_no_places_is_named_of_every_form_of_a_jacobian(
    factor: float, kind: str, columns: Any, form: str
) -> None:
    found = jacobian(lambda right: FORMS[form](factor * right), columns=columns)
    assert (found.kind, found.factor) == (kind, pytest.approx(factor))


@pytest.mark.parametrize("form", FORMS)
def test_a_drifting_factor_of_a_jacobian_is_none(form: str) -> None:
    drift = np.linspace(1.9, 2.1, 40)[None, :]
    found = jacobian(lambda right: FORMS[form](type(right)(right * drift)))
    assert found is None or found.kind == "unstructured"


def test_a_triangle_of_a_hessian_is_named() -> None:
    def right(x: np.ndarray) -> np.ndarray:
        return np.diag(np.exp(x)) + np.cos(x.sum())

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.exp(x) + np.sin(x.sum())

    report = fastgc.check_hessian(None, gradient, lambda x: np.tril(right(x)), 0.3 * slopes(6))
    assert report.diagnosis is not None
    assert report.diagnosis.kind == "symmetric"
    assert "the upper triangle zero" in report.diagnosis.message


def test_a_missing_conjugate_is_no_transpose() -> None:
    torch = pytest.importorskip("torch")

    class Cube(torch.autograd.Function):  # type: ignore[misc,name-defined]
        @staticmethod
        def forward(ctx: Any, z: Any) -> Any:
            ctx.save_for_backward(z)
            return z**3

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            (z,) = ctx.saved_tensors
            return grad * 3 * z**2

    for shape in ((), (3,)):
        z = torch.tensor(slopes(*shape) + 1j * slopes(*shape, seed=1), requires_grad=True)
        with pytest.raises(RuntimeError, match="consistent with a missing conjugate"):
            fastgc.torch.gradcheck(Cube.apply, (z,))
