"""A function that counts its calls."""

from __future__ import annotations

from typing import Any


class Counted:
    """A function that counts its calls; one of them is interrupted."""

    def __init__(self, function: Any, at: int = 0) -> None:
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.function(*arguments)
