"""A call in a check is like the user's own call, and leaves everything of the process as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from torch import nn  # noqa: E402

import fastgc.torch  # noqa: E402

SEEN: list[dict[str, Any]] = []


def surroundings() -> dict[str, Any]:
    """All that PyTorch has for the process or the thread."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype of autocast": torch.get_autocast_dtype("cpu"),
        "inference mode": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "anomalies": torch.is_anomaly_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mkldnn": torch.backends.mkldnn.enabled,
        "vmap randomness": torch._C._functorch.maybe_get_level(torch.zeros(())),
    }


OF_CALLS = {"gradients", "inference mode"}  # a check switches gradients on where it needs them, and off elsewhere


class Watched(nn.Module):
    """Notes what it finds."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        note = surroundings()
        note["input"] = seen(x)
        SEEN.append(note)
        return self.layer(x)


def seen(x: Any) -> dict[str, Any]:
    """What a function may see of a tensor besides its numbers."""
    return {
        "type": type(x),
        "shape": tuple(x.shape),
        "strides": x.stride(),
        "offset": x.storage_offset(),
        "contiguous": x.is_contiguous(),
        "channels last": x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last),
        "bytes of storage": x.untyped_storage().nbytes(),
        "alignment": x.untyped_storage().data_ptr() % 64,
        "dtype": x.dtype,
        "device": x.device,
        "hooks": bool(x._backward_hooks),
        "inference": x.is_inference(),
        "conjugate": x.is_conj() or x.is_neg(),
    }


def inputs() -> dict[str, Any]:
    torch.manual_seed(0)
    memory = torch.randn(64)
    return {
        "plain": torch.randn(2, 6),
        "transposed": torch.randn(6, 2).T,
        "a part, with an offset": memory[5:17].view(2, 6),
        "every other row": torch.randn(4, 6)[::2],
        "not aligned": memory[1:13].view(2, 6),
        "expanded in an axis of one": torch.randn(1, 6).expand(1, 6),
        "channels last": torch.randn(2, 6, 3, 3).to(memory_format=torch.channels_last),
    }


def layer_for(x: Any) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(6, 3) if x.dim() == 2 else nn.Conv2d(6, 2, 2)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


def notes_of(call: Callable[[], Any]) -> list[dict[str, Any]]:
    SEEN.clear()
    call()
    return [*SEEN]


@pytest.mark.parametrize("name", inputs())
def test_the_module_sees_the_tensor_that_its_user_passes(name: str) -> None:
    x = inputs()[name]
    module = Watched(layer_for(x))
    (own,) = notes_of(lambda: module(x))
    noted = notes_of(lambda: fastgc.torch.check_module(module, x, precision="native", samples=2, probes=1))
    single = [each for each in noted if each["input"]["type"] is torch.Tensor]
    assert len(single) > 2
    for each in single:
        assert each["input"] == own["input"]


@pytest.mark.parametrize("requires", [False, True])
def test_the_first_call_requires_gradients_and_the_users_tensor_stays(requires: bool) -> None:
    x = torch.randn(2, 6, requires_grad=requires)
    found: list[bool] = []
    module = nn.Linear(6, 3)
    module.register_forward_pre_hook(lambda module, given: found.append(given[0].requires_grad))
    fastgc.torch.check_module(module, x, samples=2)
    assert any(found)  # it is a checked input
    assert x.requires_grad == requires and x.grad is None and not x._backward_hooks


def test_integer_inputs_require_none() -> None:
    found: list[bool] = []
    module = nn.Embedding(5, 3)
    module.register_forward_pre_hook(lambda module, given: found.append(given[0].requires_grad))
    fastgc.torch.check_module(module, torch.tensor([1, 4]), samples=2)
    assert found and not any(found)


class Special(torch.Tensor):
    """A tensor of another class, which functions of PyTorch keep."""


def test_a_subclass_stays_one() -> None:
    class Typed(nn.Module):
        def forward(self, x: Any) -> Any:
            kinds.append(type(x))
            return x.tanh()

    kinds: list[type] = []
    x = torch.randn(2, 3).as_subclass(Special)
    assert fastgc.torch.check_module(Typed(), x, samples=2).passed
    assert set(kinds) == {Special}


def test_hooks_of_modules_are_called_as_in_the_users_own_call() -> None:
    module, called = nn.Linear(6, 3), []
    module.register_forward_hook(lambda module, given, output: called.append("after") or 2 * output)
    assert fastgc.torch.check_module(module, torch.randn(2, 6), samples=2).passed
    assert called
    assert [*module._forward_hooks] and not module._backward_hooks


# --- what holds for the process or the thread ---


@contextlib.contextmanager
def default_dtype() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def products() -> Any:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS: dict[str, Callable[[], Any]] = {
    "nothing": contextlib.nullcontext,
    "default dtype": default_dtype,
    "default device": lambda: torch.device("cpu"),
    "deterministic": deterministic,
    "threads": threads,
    "precision of products": products,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("precision", ["double", "native"])
def test_a_call_finds_the_settings_of_its_user_and_leaves_them(setting: str, precision: Any) -> None:
    with SETTINGS[setting]():
        x, module = torch.randn(2, 6), Watched(nn.Linear(6, 3))
        before = surroundings()
        (own,) = notes_of(lambda: module(x))
        noted = notes_of(
            lambda: fastgc.torch.check_module(module, x, precision=precision, samples=2, probes=1, operations=False)
        )
        assert surroundings() == before
    keys = own.keys() - OF_CALLS - {"input", "vmap randomness"}
    for each in noted:
        assert {key: each[key] for key in keys} == {key: own[key] for key in keys}


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "autocast"])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_same_for_gradcheck(setting: str) -> None:
    with SETTINGS[setting](), torch.inference_mode(False):
        x, noted = torch.randn(3, 2, dtype=torch.float64, requires_grad=True), []

        def function(x: Any) -> Any:
            noted.append(surroundings())
            return x.tanh()

        before = surroundings()
        function(x)
        own = noted.pop()
        with torch.enable_grad():
            assert fastgc.torch.gradcheck(function, (x,))
        assert surroundings() == before
    keys = own.keys() - OF_CALLS - {"vmap randomness"}
    for each in noted:
        assert {key: each[key] for key in keys} == {key: own[key] for key in keys}


def test_an_exception_leaves_the_settings_too() -> None:
    class Raising(nn.Module):
        def forward(self, x: Any) -> Any:
            raise KeyError("its own")

    before = surroundings()
    with pytest.raises(KeyError, match="its own"):
        fastgc.torch.check_module(Raising(), torch.randn(2, 6))
    assert surroundings() == before
