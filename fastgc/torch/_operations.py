"""Which operation of a module is wrong: each call of a submodule or an autograd Function, tested by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from fastgc._arguments import brief
from fastgc._gradient.operation import NOT_FINITE, least_alike, operation_slopes
from fastgc._reports.operations import INSIDE, Operation, Slope
from fastgc._words import FAIL, UNDECIDED, worst_verdict
from fastgc.torch._calls import Call, Recorder
from fastgc.torch._replay import Replay
from fastgc.torch._subject import Subject

_ROOM = 1 << 28  # bytes of copies in one pass, 256 MiB: more of them are made in further passes


@dataclass(frozen=True)
class _Tested:
    """A call that was tested, without its tensors."""

    call: Call
    slopes: tuple[Slope, ...]
    evaluations: int
    reason: str = ""

    @property
    def failed(self) -> bool:
        return any(slope.verdict == FAIL for slope in self.slopes)


def operations_of(subject: Subject, seed: int, room: int = _ROOM) -> tuple[Operation, ...]:
    """Every operation that the gradient passes, in the order of their calls.

    Parameters
    ----------
    seed : int
        Of the directions.
    room : int
        Bytes of inputs and cotangents that may be kept; more of them take further passes through the module.
    """
    found = _sweep(subject, seed, room)
    if not any(each.failed for each in found.values()):
        some = least_alike({number: each.slopes for number, each in found.items()})
        found |= _sweep(subject, seed, room, some) if some else {}
    return tuple(_named(found))


def _sweep(subject: Subject, seed: int, room: int, strictly: Collection[int] = ()) -> dict[int, _Tested]:
    """The calls by their numbers; only some of them, in which differences far below the tolerance count."""
    found: dict[int, _Tested] = {}
    first: int | None = min(strictly, default=0)
    while first is not None:
        calls, first = _recorded(subject, first, room)
        for call in sorted(calls, key=lambda each: -each.number):  # what is inside a call comes before it
            if call.reached and (not strictly or call.number in strictly):
                found[call.number] = _tested(subject, call, seed, found, strictly=bool(strictly))
    return found


def _recorded(subject: Subject, first: int, room: int) -> tuple[list[Call], int | None]:
    """The calls from a number on, and the number of the first for which there was no room."""
    recorder = Recorder(subject.module, subject.surroundings, first, room)
    try:
        with torch.enable_grad(), subject.surroundings():
            with recorder():
                value = subject.value({})
            if not value.requires_grad:
                return [], None
            torch.autograd.grad(value, [*subject.tensors], allow_unused=True)
    finally:
        recorder.close()
    return recorder.calls, recorder.following


def _tested(subject: Subject, call: Call, seed: int, found: Mapping[int, _Tested], *, strictly: bool) -> _Tested:
    bare = replace(call, args=(), kwargs={}, buffers=[], cotangents=[], random=())
    if any(found[number].failed for number in call.inside if number in found):
        return _Tested(bare, (), 0, INSIDE)
    if not call.testable:
        return _Tested(bare, (), 0, NOT_FINITE)
    replay = Replay(call, subject.surroundings, seed)
    try:
        operation = replay.operation()
    except Exception as error:
        return _Tested(
            bare, (), replay.evaluations, f"it could not be called again ({brief(f'{type(error).__name__}: {error}')})"
        )
    slopes = operation_slopes(operation, strictly=strictly) if operation.arguments else []
    return _Tested(bare, tuple(slopes), replay.evaluations)


def _named(found: Mapping[int, _Tested]) -> Iterator[Operation]:
    """The operations; of those that are wrong, only those accused with nothing wrong inside."""
    counts: Counter[tuple[str, str]] = Counter()
    for _, each in sorted(found.items()):
        call = each.call
        counts[call.path, call.name] += 1
        around = any(found[number].failed for number in call.inside if number in found)
        reason = INSIDE if around else each.reason or "".join(slope.reason for slope in each.slopes[:1])
        verdict = UNDECIDED if around or each.reason else worst_verdict(slope.verdict for slope in each.slopes)
        rule = f"{call.name}.backward" if call.module is None else f"the backward pass of {call.name}"
        number = counts[call.path, call.name]
        yield Operation(call.path, call.name, rule, number, verdict, reason, each.slopes, each.evaluations)
