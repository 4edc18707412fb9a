"""A clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgc._progress import Progress


class Clock:
    """Seconds that pass when they are added; each look takes a microsecond."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1e-6
        return self.seconds


def ends(clock: Clock, monkeypatch: pytest.MonkeyPatch, check: Callable[[], Any]) -> list[tuple[float, float]]:
    """When each estimate of the end was made, and what it was, as shares of the time that the check took."""
    told: list[tuple[float, float]] = []
    advance = Progress.advance

    def noted(self: Progress, entries: int) -> None:
        advance(self, entries)
        told.append((clock.seconds, clock.seconds + self.seconds_left))

    monkeypatch.setattr(Progress, "advance", noted)
    clock.seconds = 0.0
    check()
    return [(now / clock.seconds, end / clock.seconds) for now, end in told]
