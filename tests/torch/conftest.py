"""PyTorch in processes that share the cores."""

from __future__ import annotations

import importlib.util
import os

if "PYTEST_XDIST_WORKER" in os.environ and importlib.util.find_spec("torch"):
    import torch

    # As many threads as cores in every process wait for each other: a test of 2 s takes 49.
    torch.set_num_threads(1)
