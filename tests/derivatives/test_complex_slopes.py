"""Directions by the complex step: exact where the loss is analytic, and left to differences wherever it may not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from fastgc import check_gradients
from fastgc._derivatives.complex_slopes import IMAGINARY_STEPS, ComplexLoss
from fastgc._derivatives.directions import analytic_slope, direction
from fastgc._derivatives.loss_at_point import unmeasured_loss
from fastgc._evaluation.callers_loss import CallersLoss
from fastgc._evaluation.engine import Execution
from fastgc._gradient import examine as module
from fastgc._parameters.layout import flatten_parameters
from fastgc._parameters.point import copied_point

Floats = NDArray[np.float64]
Params = dict[str, Any]

SIZE = 2000
W = np.random.default_rng(0).standard_normal(SIZE)
PARAMS = {"w": W}
AT = 1000 + int(np.argmax(W[1000:] > 0.5))
REFUSED = "probes measured differences, no complex steps: "


def loss(p: Params) -> Any:
    return np.sum(np.sin(p["w"]) * p["w"])


def gradient(p: Params) -> dict[str, Floats]:
    return {"w": np.sin(p["w"]) + p["w"] * np.cos(p["w"])}


def wrong_in(index: int, right: Callable[[Params], Any] = gradient, factor: float = 1.01) -> Callable[[Params], Any]:
    def wrong(p: Params) -> Any:
        found = right(p)
        found["w"].reshape(-1)[index] *= factor
        return found

    return wrong


def shifted(offset: float) -> Callable[[Params], Any]:
    return lambda p: offset + loss(p)


@contextmanager
def counted_search() -> Iterator[list[int]]:
    """The evaluations of every search."""
    counts: list[int] = []
    search = module.search  # type: ignore[attr-defined]

    def counting(at_point: Any, *rest: Any) -> Any:
        def evaluations() -> int:
            return int(at_point.loss.evaluator.evaluations + at_point.loss.complex_loss.evaluations)

        before = evaluations()
        found = search(at_point, *rest)
        counts.append(evaluations() - before)
        return found

    with mock.patch.object(module, "search", counting):
        yield counts


# --- accuracy ---


def layers(p: Params) -> Any:
    hidden = np.tanh(p["x"] @ p["W"])
    return np.sum(np.exp(-hidden) * hidden)


def layers_gradient(p: Params) -> dict[str, Floats]:
    hidden = np.tanh(p["x"] @ p["W"])
    back = np.exp(-hidden) * (1 - hidden) * (1 - hidden**2)
    return {"x": back @ p["W"].T, "W": p["x"].T @ back}


def smooth(p: Params) -> Any:
    return np.sum(np.log1p(p["w"] ** 2)) + np.sum(np.exp(-p["w"]) * p["w"])


def smooth_gradient(p: Params) -> dict[str, Floats]:
    w = p["w"]
    return {"w": 2 * w / (1 + w**2) + np.exp(-w) * (1 - w)}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize(
    ("function", "slopes", "shapes"),
    [
        (loss, gradient, {"w": 100_000}),
        (smooth, smooth_gradient, {"w": 100_000}),
        (layers, layers_gradient, {"x": (20, 300), "W": (300, 330)}),
    ],
)
def test_a_direction_is_right_to_1e_14_of_the_norm(
    function: Callable[[Params], Any], slopes: Any, shapes: dict[str, Any], offset: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    params = {name: generator.standard_normal(shape) / 10 for name, shape in shapes.items()}
    layout, leaves = flatten_parameters(params)
    callers = CallersLoss(lambda p: offset + function(p), (), layout, leaves, Execution("python"))
    point = copied_point(layout, leaves, (), "double", complex_step=False)
    at_point = unmeasured_loss(callers.open_complex(point), layout, leaves, 0.0)
    complex_loss = ComplexLoss(lambda: callers.open_complex(point))
    gradients = [each.reshape(-1).astype(np.longdouble) for each in slopes(params).values()]
    for t in range(len(leaves)):
        rays = direction(at_point, [t], seed, 0)
        values = complex_loss.along_rays([rays], IMAGINARY_STEPS)
        assert values is not None
        found = values.imag[0] / IMAGINARY_STEPS
        length = float(at_point.tensor_scales[t] * np.linalg.norm(gradients[t].astype(np.float64)))
        true = float(rays[0].scale * np.sum(rays[0].weights.astype(np.longdouble) * gradients[t]))
        assert np.abs(found - true).max() <= 1e-14 * length
        assert abs(analytic_slope(rays, [each.astype(np.float64) for each in gradients]) - true) <= 1e-14 * length


# --- under stencil="complex_step" ---


def test_all_directions_are_complex_steps() -> None:
    report = check_gradients(loss, gradient, PARAMS, stencil="complex_step")
    differences = check_gradients(loss, gradient, PARAMS)
    assert report.passed and differences.passed, str(report)
    assert not report.notes
    assert report.evaluations < differences.evaluations
    probe, other = report.tensors["w"].probe, differences.tensors["w"].probe
    assert probe is not None and other is not None
    assert np.abs(probe.residuals).max() <= 1e-14 * probe.norm
    assert np.abs(other.residuals).max() > 1e-14 * other.norm


@pytest.mark.parametrize("shape", [(200, 200)])
def test_one_wrong_entry_of_many_is_named_by_six_evaluations(shape: tuple[int, ...]) -> None:
    """Of a million entries in `bench/huge.py`."""
    w = np.random.default_rng(0).standard_normal(shape)
    size = np.abs(gradient({"w": w})["w"].reshape(-1))
    index = int(np.argsort(size)[size.size // 2])  # of median magnitude
    with counted_search() as counts:
        report = check_gradients(loss, wrong_in(index), {"w": w}, stencil="complex_step")
    assert [entry.index for entry in report.tensors["w"].wrong_entries] == [np.unravel_index(index, shape)]
    assert counts[0] <= 6


@pytest.mark.parametrize(("offset", "index"), [(0.0, 0), (1e6, SIZE - 1), (1e10, 0), (1e14, SIZE - 1)])
def test_a_wrong_entry_is_named_whatever_the_offset(offset: float, index: int) -> None:
    report = check_gradients(shifted(offset), wrong_in(index), PARAMS, stencil="complex_step")
    assert [entry.index for entry in report.tensors["w"].wrong_entries] == [(index,)], str(report)
    assert check_gradients(shifted(offset), gradient, PARAMS, stencil="complex_step").passed


def test_options_go_with_it() -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 50))
    symmetric = {"w": matrix + matrix.T}
    for options in ({"bounds": {"w": (-50.0, 50.0)}}, {"vectorized": True}, {"workers": 2}, {"step": 1e-20}):
        batched = "vectorized" in options
        function = (lambda p: np.sum(np.sin(p["w"]) * p["w"], axis=1)) if batched else loss
        for slopes, verdict in ((gradient, "pass"), (wrong_in(777), "fail")):
            report = check_gradients(function, slopes, PARAMS, stencil="complex_step", **options)
            assert report.verdict == verdict, (options, str(report))
            assert not any("differences" in note for note in report.notes), (options, report.notes)
    for factor, verdict in ((1.0, "pass"), (1.01, "fail")):
        report = check_gradients(
            loss, wrong_in(0, factor=factor), symmetric, symmetric=["w"], stencil="complex_step", samples=20
        )
        assert report.verdict == verdict, str(report)


# --- losses that are not analytic ---


def with_abs(p: Params) -> Any:
    return np.sum(np.sin(p["w"])) + 0.1 * np.sum(np.abs(p["w"]))


def with_conjugate(p: Params) -> Any:
    return np.sum(p["w"] * np.conj(p["w"]))


def with_maximum(p: Params) -> Any:
    return np.sum(np.maximum(p["w"], 0.0) ** 2)


def with_real(p: Params) -> Any:
    return np.sum(np.real(p["w"]) * p["w"])


def with_comparison(p: Params) -> Any:
    return np.sum(np.where(p["w"] > 0, p["w"], 0.1 * p["w"]))


def with_cast(p: Params) -> Any:
    return np.sum(p["w"].real.astype(np.float64) ** 2) + np.sum(p["w"])


def with_float(p: Params) -> Any:
    return float(np.real(np.sum(p["w"] ** 3)))


def with_dtype_in_words(p: Params) -> Any:
    return np.sum(p["w"]) + np.sum(p["w"] * p["w"], None, "f8")


def with_norm(p: Params) -> Any:
    return np.linalg.norm(p["w"]) + np.sum(p["w"])


def with_modulus(p: Params) -> Any:
    return np.sum(np.sqrt(p["w"].real ** 2 + p["w"].imag ** 2 + 1))


def sign(p: Params) -> Floats:
    return np.asarray(np.sign(p["w"]))


TRAPS: list[tuple[Any, Callable[[Params], Floats]]] = [
    (with_abs, lambda p: np.cos(p["w"]) + 0.1 * sign(p)),
    (with_conjugate, lambda p: 2 * p["w"]),
    (with_maximum, lambda p: 2 * np.maximum(p["w"], 0)),
    (with_real, lambda p: 2 * p["w"]),
    (with_comparison, lambda p: np.where(p["w"] > 0, 1.0, 0.1)),
    (with_cast, lambda p: 2 * p["w"] + 1),
    (with_float, lambda p: 3 * p["w"] ** 2),
    (with_dtype_in_words, lambda p: 1 + 2 * p["w"]),
    (with_norm, lambda p: p["w"] / np.linalg.norm(p["w"]) + 1),
    (with_modulus, lambda p: p["w"] / np.sqrt(p["w"] ** 2 + 1)),
]


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize(("trap", "slopes"), TRAPS, ids=[trap.__name__ for trap, _ in TRAPS])
def test_directions_of_other_losses_are_differences(trap: Any, slopes: Callable[[Params], Floats]) -> None:
    def right(p: Params) -> dict[str, Floats]:
        return {"w": slopes(p)}

    far = {"w": np.where(W > 0, 1.0, -1.0) * (0.5 + np.abs(W))}  # no kink is near
    for stencil in ("complex_step", "central"):
        report = check_gradients(trap, right, far, stencil=stencil)
        probe = report.tensors["w"].probe
        assert report.passed, str(report)
        assert probe is not None and not probe.seen and probe.resolved
        assert any(note.startswith(REFUSED) for note in report.notes) == (stencil == "complex_step"), report.notes
        wrong = check_gradients(trap, wrong_in(AT, right, 1.1), far, stencil=stencil)
        assert [entry.index for entry in wrong.tensors["w"].wrong_entries] == [(AT,)], str(wrong)


def test_it_says_why() -> None:
    def picky(p: Params) -> Any:
        return np.sum(p["w"] % 1e9)

    odd = check_gradients(with_abs, lambda p: {"w": np.cos(p["w"]) + 0.1 * sign(p)}, PARAMS, stencil="complex_step")
    assert REFUSED + "its source does not show that it is analytic" in odd.notes
    report = check_gradients(picky, lambda p: {"w": np.ones(SIZE)}, {"w": 5 + np.abs(W)})
    assert report.passed and not report.notes


# --- as the judge of what differences leave undecided ---


@pytest.mark.parametrize("offset", [1e10, 1e14])
def test_it_decides_probes_that_noise_hides(offset: float) -> None:
    report = check_gradients(shifted(offset), gradient, PARAMS)
    probe = report.tensors["w"].probe
    assert report.passed, str(report)
    assert probe is not None and probe.resolved and probe.miss_probability < 1e-5
    assert not any("last bit" in note for note in report.notes)
    for index in (0, 777, SIZE - 1):
        wrong = check_gradients(shifted(offset), wrong_in(index), PARAMS)
        assert [entry.index for entry in wrong.tensors["w"].wrong_entries] == [(index,)], str(wrong)


def test_noise_stays_noise_where_the_loss_may_not_be_analytic() -> None:
    report = check_gradients(lambda p: 1e14 + with_abs(p), lambda p: {"w": np.cos(p["w"])}, PARAMS)
    assert not report.passed
    probe = report.tensors["w"].probe
    assert probe is not None and not (probe.resolved and probe.miss_probability < 1e-3)


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_differences_have_the_last_word() -> None:
    def dropping(p: Params) -> Any:
        return 1e6 + np.sum(p["w"], None, "f8")

    report = check_gradients(dropping, lambda p: {"w": np.zeros(SIZE)}, PARAMS)  # as the complex step has it
    assert report.verdict == "fail", str(report)
    assert check_gradients(dropping, lambda p: {"w": np.ones(SIZE)}, PARAMS).passed


def test_a_search_by_complex_steps_takes_fewer_evaluations() -> None:
    def opaque(p: Params) -> Any:
        return loss(p) if len(p) < 2 else np.abs(1.0)  # its source does not show that it is analytic

    counts = {}
    for function in (loss, opaque):
        with counted_search() as found:
            report = check_gradients(function, wrong_in(777), PARAMS)
        assert [entry.index for entry in report.tensors["w"].wrong_entries] == [(777,)]
        counts[function.__name__] = found[0]
    assert counts["loss"] < counts["opaque"]


def test_every_evaluation_counts() -> None:
    report = check_gradients(shifted(1e14), gradient, PARAMS)
    calls = 0

    def counting(p: Params) -> Any:
        nonlocal calls
        calls += 1
        return loss(p)

    plain = check_gradients(counting, gradient, PARAMS)
    assert calls == plain.evaluations
    assert report.evaluations > plain.evaluations


# --- compiled losses ---


@numba.njit
def compiled(p: Any) -> Any:
    total = 0.0 * p["w"][0]
    for i in range(p["w"].size):
        total += np.sin(p["w"][i]) * p["w"][i]
    return total


@numba.njit
def compiled_far_away(p: Any) -> Any:
    return 1e14 + compiled(p)


@numba.njit
def compiled_with_real_memory(p: Any) -> Any:
    found = np.zeros(p["w"].size)
    for i in range(p["w"].size):
        found[i] = np.sin(p["w"][i]) * p["w"][i]
    return found.sum()


@pytest.mark.parametrize("engine", ["auto", "numba", "python"])
def test_a_compiled_loss_is_compiled_for_complex_numbers(engine: Any) -> None:
    right = check_gradients(compiled, gradient, PARAMS, stencil="complex_step", engine=engine)
    assert right.passed and not right.notes, str(right)
    probe = right.tensors["w"].probe
    assert probe is not None and np.abs(probe.residuals).max() <= 1e-14 * probe.norm
    with counted_search() as counts:
        wrong = check_gradients(compiled, wrong_in(777), PARAMS, stencil="complex_step", engine=engine)
    assert [entry.index for entry in wrong.tensors["w"].wrong_entries] == [(777,)], str(wrong)
    assert counts[0] <= 6


def test_a_compiled_loss_is_judged_where_noise_hides_it() -> None:
    assert check_gradients(compiled_far_away, gradient, PARAMS).passed
    wrong = check_gradients(compiled_far_away, wrong_in(5, factor=30.0), PARAMS, stencil="complex_step")
    assert [entry.index for entry in wrong.tensors["w"].wrong_entries] == [(5,)], str(wrong)


@pytest.mark.parametrize("engine", ["auto", "numba"])
def test_differences_serve_where_it_cannot_be_compiled_for_complex_numbers(engine: Any) -> None:
    note = 'stencil="complex_step", but Numba cannot compile the loss for complex numbers: central differences'
    for stencil in ("complex_step", "central"):
        right = check_gradients(compiled_with_real_memory, gradient, PARAMS, stencil=stencil, engine=engine)
        assert right.passed, str(right)
        assert right.notes == ((note,) if stencil == "complex_step" else ())
        wrong = check_gradients(compiled_with_real_memory, wrong_in(777), PARAMS, stencil=stencil, engine=engine)
        assert [entry.index for entry in wrong.tensors["w"].wrong_entries] == [(777,)], str(wrong)
    stepped = check_gradients(
        compiled_with_real_memory, gradient, PARAMS, stencil="complex_step", step=1e-20, engine=engine
    )
    assert stepped.passed and note + " of the default step" in stepped.notes


def test_what_cannot_be_compiled_at_all_is_refused_as_ever() -> None:
    @numba.njit
    def hopeless(p: Any) -> Any:
        return undefined_name(p)  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="Numba cannot compile the loss"):
        check_gradients(hopeless, gradient, PARAMS, stencil="complex_step")
