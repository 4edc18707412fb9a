"""Losses in single precision that have no value beside some of their inputs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from fastgc.torch import check_module  # noqa: E402


@pytest.mark.parametrize("seed", range(4))
def test_labels_at_the_edge_of_the_domain_are_right(seed: int) -> None:
    """All labels leave the domain together in nearly every direction: noise is measured along one that does not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((4, 5), generator=generator) * 0.8 + 0.1
    y = torch.randint(0, 2, (4, 5), generator=generator).float()
    report = check_module(torch.nn.BCELoss(), (x, y), precision="native")
    assert report.passed, str(report)
