"""Gradients that differ from their parameters by axes of length 1 only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastgc


@pytest.mark.parametrize(
    ("shape", "of_gradient", "said"),
    [
        (
            (3,),
            (3, 1),
            r"gradients\['a'\] has shape \(3, 1\); params\['a'\] has shape \(3,\): only axes of length 1 differ",
        ),
        ((3,), (3, 1), r"; use .ravel\(\) of gradients$"),
        ((3,), (1, 3), r"; use .ravel\(\) of gradients$"),
        ((3, 2), (3, 2, 1), r"; use .squeeze\(\) of gradients$"),
        ((), (1,), r"; use .squeeze\(\) of gradients$"),
        ((3, 1), (3,), r"; use .reshape\(p.shape\) of gradients$"),
        ((1,), (1, 1), r"; use .ravel\(\) of gradients$"),
        ((3, 2), (2, 3), r"params\['a'\] has shape \(3, 2\)$"),
    ],
)
def test_what_to_type(shape: Any, of_gradient: Any, said: str) -> None:
    params = {"a": np.ones(shape), "b": np.ones(2)}
    with pytest.raises(ValueError, match=said):
        fastgc.check_gradients(
            lambda p: np.sum(p["a"]), lambda p: {"a": np.ones(of_gradient), "b": np.zeros(2)}, params
        )


def test_nothing_where_other_shapes_differ_too() -> None:
    params = {"a": np.ones(3), "b": np.ones(2)}
    with pytest.raises(ValueError, match=r"params\['b'\] has shape \(2,\)$"):
        fastgc.check_gradients(lambda p: p["a"].sum(), {"a": np.ones((3, 1)), "b": np.ones(3)}, params)
