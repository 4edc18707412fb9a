"""A notebook that ends its cells with a report, a sweep, and their plots shows pictures."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import numpy as np
import fastgc
report = fastgc.check_gradients(lambda p: float(p @ p), lambda p: 3 * p, np.ones(9))
jacobian = fastgc.check_jacobian(np.sin, lambda x: np.diag(np.cos(x)), np.linspace(0.1, 1, 5))
sweep = fastgc.step_sweep(np.sin, np.cos, 1.0)
test = fastgc.taylor_test(lambda x: float(x @ x), lambda x: 2 * x, np.ones(3))
"""
SHOWN = ["report", "jacobian", "sweep", "test"]
PLOTTED = ["report.plot()", "jacobian.plot('map')", "sweep.plot()", "test.plot()"]


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[Any]]:
    """What each cell shows."""
    cells = [SETUP, *SHOWN, *PLOTTED]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    # The kernel's own warnings, of its event loop and debugger, are not those of the package.
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return {cell.source: cell.outputs for cell in notebook.cells}


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("cell", SHOWN)
def test_a_result_shows_itself_as_a_picture_and_as_text(cell: str, outputs: dict[str, list[Any]]) -> None:
    (shown,) = outputs[cell]
    assert "<svg" in shown.data["text/html"] and "<script" not in shown.data["text/html"]
    assert shown.data["text/plain"].startswith(("FAIL", "PASS", "forward"))


@pytest.mark.parametrize("cell", PLOTTED)
def test_a_plot_is_shown_without_further_ado(cell: str, outputs: dict[str, list[Any]]) -> None:
    images = [each for each in outputs[cell] if "image/png" in each.get("data", {})]
    assert len(images) == 1
