"""Named tuples, dataclasses and attrs classes of arrays as parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import attrs
import numba
import numpy as np
import pytest

import fastgc


class Tuple(NamedTuple):
    W: Any
    b: Any


@dataclasses.dataclass
class Data:
    W: Any
    b: Any
    name: str = "net"
    sizes: tuple[int, ...] = (3, 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    W: Any
    b: Any


@attrs.define
class Attrs:
    W: Any
    b: Any
    seed: int = 3


@attrs.frozen
class FrozenAttrs:
    W: Any
    b: Any


KINDS = [Tuple, Data, Frozen, Attrs, FrozenAttrs]
W, B = np.linspace(0.2, 1, 6).reshape(3, 2), np.array([0.5, -1.0])


def loss(p: Any, x: Any) -> Any:
    return np.sum(np.tanh(x @ p.W + p.b) ** 2)


def slopes(p: Any, x: Any) -> tuple[Any, Any]:
    h = np.tanh(x @ p.W + p.b)
    slope = 2 * h * (1 - h**2)
    return x.T @ slope, slope.sum(axis=0)


X = np.linspace(-1, 1, 12).reshape(4, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_may_have_the_same_structure_or_be_a_dict_of_fields(kind: Any) -> None:
    params = kind(W, B)
    report = fastgc.check_gradients(loss, lambda p, x: kind(*slopes(p, x)), params, args=(X,), samples="all")
    assert report.passed and list(report.tensors) == ["W", "b"]
    assert fastgc.tensor_names(params) == ["W", "b"]
    report = fastgc.check_gradients(loss, lambda p, x: kind(*(2 * g for g in slopes(p, x))), params, args=(X,))
    assert {each.verdict for each in report.tensors.values()} == {"fail"}
    assert params.W is W


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_dict_of_fields_is_taken_too(kind: Any) -> None:
    def gradients(p: Any, x: Any) -> Any:
        assert type(p) is kind
        return dict(zip("Wb", slopes(p, x), strict=True))

    assert fastgc.check_gradients(loss, gradients, kind(W, B), args=(X,)).passed


def test_other_fields_stay_as_they_are() -> None:
    def named(p: Any, x: Any) -> Any:
        assert (p.name, p.sizes) == ("mine", (1, 2))
        return loss(p, x)

    params = Data(W, B, "mine", (1, 2))
    assert fastgc.check_gradients(named, lambda p, x: Data(*slopes(p, x)), params, args=(X,), points=2).passed


@dataclasses.dataclass
class Nested:
    layers: list[Any]
    scale: float
    steps: Any = None


def test_nested_ones_and_numbers() -> None:
    params = Nested([Data(W, B), {"v": B}], 2.0, np.arange(3))

    def total(p: Any) -> Any:
        return p.scale * (np.sum(p.layers[0].W ** 2) + np.sum(p.layers[0].b ** 3)) + np.sum(p.layers[1]["v"] ** 2)

    def gradients(p: Any) -> Any:
        first = p.layers[0]
        inner = np.sum(first.W**2) + np.sum(first.b**3)
        return Nested([Data(2 * p.scale * first.W, 3 * p.scale * first.b**2), {"v": 2 * p.layers[1]["v"]}], inner)

    report = fastgc.check_gradients(total, gradients, params)
    assert report.passed
    assert list(report.tensors) == ["layers.0.W", "layers.0.b", "layers.1.v", "scale"]


@numba.njit
def jitted_loss(p: Any, x: Any) -> Any:
    return np.sum(np.tanh(x @ p.W + p.b) ** 2)


@pytest.mark.parametrize(("kind", "engine"), [(Tuple, "auto"), (Tuple, "python"), (Data, "numba"), (Data, "python")])
def test_a_jitted_loss_reads_fields(kind: Any, engine: Any) -> None:
    report = fastgc.check_gradients(
        jitted_loss, lambda p, x: kind(*slopes(p, x)), kind(W, B), args=(X,), engine=engine, samples="all"
    )
    assert report.passed


def test_a_jitted_gradient_returns_its_named_tuple() -> None:
    @numba.njit
    def gradients(p: Any, x: Any) -> Any:
        h = np.tanh(x @ p.W + p.b)
        slope = 2 * h * (1 - h**2)
        return Tuple(x.T @ slope, np.ones(len(x)) @ slope)  # Numba compiles a sum along an axis for a second

    params = Tuple(W.astype(np.float32), B.astype(np.float32))
    assert fastgc.check_gradients(jitted_loss, gradients, params, args=(X,)).passed


def test_a_record_of_a_dataclass_has_its_fields() -> None:
    record = fastgc.record(Data(W, B))
    assert np.array_equal(record.W, W) and np.array_equal(record["b"], B)
    with pytest.raises(AttributeError, match=r"^<record of 'W', 'b'> has no attribute 'name'$"):
        record.name  # noqa: B018
    with pytest.raises(AttributeError, match=r"^<record of 'W'> has no attribute 'W'$"):
        fastgc.record({"W": W}).W  # noqa: B018


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"^gradients lacks 'b'; the names of params are 'W', 'b'$"):
        fastgc.check_gradients(loss, {"W": W}, Data(W, B), args=(X,))
    with pytest.raises(TypeError, match=r"^gradients is a list; params is a Data: use its keys$"):
        fastgc.check_gradients(loss, [W, B], Data(W, B), args=(X,))
    with pytest.raises(ValueError, match=r"^params holds no array"):
        fastgc.check_gradients(loss, [W], Data("W", 3), args=(X,))


def test_single_precision_in_named_tuples_of_args_is_cast_with_the_rest() -> None:
    args = (Tuple(np.ones(2, np.float32), {"x": np.ones(2, np.float32)}),)
    seen = []

    def dot(p: Any, given: Any) -> Any:
        seen.append((type(given), given.W.dtype, given.b["x"].dtype))
        return p @ given.W

    assert fastgc.check_gradients(dot, lambda p, given: given.W, np.ones(2), args=args).passed
    assert set(seen) == {(Tuple, np.dtype(np.float64), np.dtype(np.float64))}
