"""Which values of a check of a gradient its checkpoint keeps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc
from tests.support.layouts import Array


class Counted:
    """A loss that counts its calls; one of them is interrupted."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.calls = at, 0

    def __call__(self, p: Array) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return np.sum(np.sin(p) * p)


def gradient(p: Array) -> Any:
    return (np.sin(p) + p * np.cos(p)) * np.where(np.arange(p.size) == 7, 1.01, 1)


@pytest.mark.parametrize("samples", ["all", 20])
def test_complex_values_are_kept_too(samples: Any, tmp_path: Path) -> None:
    check: Any = partial(
        fastgc.check_gradients, gradients=gradient, params=np.linspace(0.5, 2, 100), samples=samples,
        stencil="complex_step", crosscheck=False,
    )  # fmt: skip

    def contents(report: Any) -> Any:
        return repr([(name, column.tolist()) for name, column in report.tensors["params"].entries.columns.items()])

    whole = Counted()
    expected = check(whole)
    path, at = tmp_path / "values", whole.calls * 2 // 3
    with pytest.raises(fastgc.Interrupted):
        check(Counted(at), checkpoint=path)
    again = Counted()
    found = check(again, checkpoint=path)
    assert contents(found) == contents(expected) and found.evaluations == expected.evaluations
    assert again.calls < whole.calls - at / 3
    finished = Counted()
    assert contents(check(finished, checkpoint=path)) == contents(expected)
    assert finished.calls < 20
