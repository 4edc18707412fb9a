"""The random state and the default dtype of a module's calls, which no other thread sees.

PyTorch has one random state and one default dtype for the whole process. The state is exchanged for the time of a call,
one call at a time. The default dtype is left alone: a mode, of the kind that sets PyTorch's default device, makes the
new tensors of this thread float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType
from typing import TypeAlias

import torch
from torch.overrides import TorchFunctionMode

from fastgc._forks import Turns

Types: TypeAlias = Collection[type]  # what a mode of PyTorch is told of a call
Given: TypeAlias = tuple[object, ...]  # the positional arguments of a call
Named: TypeAlias = dict[str, object]  # the keyword arguments

forward_mode = Turns()  # PyTorch has one level of forward-mode derivatives, for the whole process


class Surroundings:
    """Entered around every call of a module.

    Parameters
    ----------
    devices : sequence of torch.device
        The devices whose random numbers the module may draw.
    seed : int or None
        Every call begins with the random state of this seed; None: with the state at the end of the call before.
    double : bool
        Whether new tensors are float64 where they would have the default dtype.
    """

    def __init__(self, devices: Sequence[torch.device], seed: int | None, *, double: bool) -> None:
        self._stream: _Stream | None = _Stream(devices, seed)
        self._mode: _DoubleByDefault | None = _DoubleByDefault() if double else None

    @contextlib.contextmanager
    def __call__(self, random: Sequence[torch.Tensor] = ()) -> Iterator[None]:
        """Surround a call, which begins with the random states of `random_states`, if they are given."""
        stream = contextlib.nullcontext() if self._stream is None else self._stream()
        with stream, self._mode or contextlib.nullcontext():
            if self._stream is not None and random:
                _put(self._stream.devices, random)
            yield

    def random_states(self) -> Sequence[torch.Tensor]:
        """The random states in the middle of a call; none where calls do not depend on them."""
        return () if self._stream is None else _states(self._stream.devices)

    def keep_what_was_used(self) -> None:
        """Drop what made no difference to the calls so far, since it costs time."""
        if self._stream is not None and not self._stream.used:
            self._stream = None
        if self._mode is not None and not self._mode.used:
            self._mode = None


# --- random numbers ---


class _Stream:
    """Random states that replace PyTorch's during a call, for one thread at a time.

    Attributes
    ----------
    devices : whose states these are
    used : whether a call changed them
    """

    _turns = Turns()

    def __init__(self, devices: Sequence[torch.device], seed: int | None) -> None:
        others = [each for each in devices if hasattr(getattr(torch, each.type, None), "get_rng_state")]
        self.devices = [torch.device("cpu"), *(each for each in others if each.type != "cpu")]
        self._seeded = seed is not None
        with self._turns():
            self._own = _states(self.devices) if seed is None else [_seeded(each, seed) for each in self.devices]
        self.used = self._seeded

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._turns():
            outer, before = _states(self.devices), self._own
            try:
                _put(self.devices, before)
                yield
            finally:
                try:
                    if not self._seeded:
                        self._own = _states(self.devices)
                        self.used = self.used or not all(map(torch.equal, before, self._own))
                finally:
                    _put(self.devices, outer)


def _states(devices: Sequence[torch.device]) -> list[torch.Tensor]:
    return [_generators(each).get_rng_state(*_numbered(each)) for each in devices]


def _put(devices: Sequence[torch.device], states: Sequence[torch.Tensor]) -> None:
    for device, state in zip(devices, states, strict=True):
        _generators(device).set_rng_state(state, *_numbered(device))


def _seeded(device: torch.device, seed: int) -> torch.Tensor:
    """The state after `torch.manual_seed`."""
    return torch.Generator(device).manual_seed(seed).get_state()


def _generators(device: torch.device) -> ModuleType:
    found: ModuleType = torch.random if device.type == "cpu" else getattr(torch, device.type)
    return found


def _numbered(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type in ("cpu", "mps") else (device,)  # these exist once


# --- the default dtype ---

_OF_DEFAULT_DTYPE = {  # unless they are given another
    torch.zeros, torch.ones, torch.empty, torch.empty_strided, torch.rand, torch.randn, torch.eye, torch.linspace,
    torch.logspace, torch.hann_window, torch.hamming_window, torch.blackman_window, torch.bartlett_window,
    torch.kaiser_window, torch.fft.fftfreq, torch.fft.rfftfreq,
}  # fmt: skip
_OF_NUMBERS = {torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.full, torch.arange, torch.range}
_TO_SINGLE = {torch.Tensor.float, torch.Tensor.cfloat, torch.Tensor.type}  # the caller asks for that dtype
_SCALARS = (type(None), bool, int, float, complex, str, slice, type(...))
_SETTINGS = (torch.device, torch.layout, torch.memory_format, torch.Generator)


class _DoubleByDefault(TorchFunctionMode):
    """Makes new tensors of this thread float64 where they would have the default dtype.

    Attributes
    ----------
    used : whether it changed the dtype of a tensor
    """

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self, func: Callable[..., object], types: Types, args: Given = (), kwargs: Named | None = None
    ) -> object:
        kwargs, default = kwargs or {}, torch.get_default_dtype()
        if func in _OF_DEFAULT_DTYPE and kwargs.get("dtype") is None and kwargs.get("out") is None:
            self.used = True
            return func(*args, **{**kwargs, "dtype": torch.float64})
        made = func(*args, **kwargs)
        if (
            not isinstance(made, torch.Tensor)
            or func in _TO_SINGLE
            or any(map(_settles_dtype, (*args, *kwargs.values())))
        ):
            return made
        double = {default: torch.float64, default.to_complex(): torch.complex128}.get(made.dtype, made.dtype)
        if double == made.dtype:
            return made
        self.used = True
        return func(*args, **{**kwargs, "dtype": double}) if func in _OF_NUMBERS else made.to(double)


def _settles_dtype(value: object) -> bool:
    """Whether an argument, and not the default, settles the dtype of the result. An unknown kind of argument may."""
    if isinstance(value, torch.Tensor):
        return bool(value.is_floating_point() or value.is_complex())
    if isinstance(value, (tuple, list)):
        return any(map(_settles_dtype, value))
    return not isinstance(value, (*_SCALARS, *_SETTINGS))
