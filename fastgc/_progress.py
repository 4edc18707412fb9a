"""The progress bar of a check."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Progress:
    """A tqdm bar over entries with the current tensor and the failures so far. tqdm is imported only if it is shown."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar: Any = None
        self._failures = 0
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="entry", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def enter(self, tensor: str) -> None:
        """Show the tensor that is being checked."""
        if self._bar is not None:
            self._bar.set_description(tensor, refresh=False)

    def expect(self, seconds: float) -> None:
        """Show the time that the check is expected to take."""
        if self._bar is not None:
            self._bar.set_description(f"about {seconds:.1f} s")

    def advance(self, entries: int) -> None:
        """Count finished entries."""
        if self._bar is not None:
            self._bar.update(entries)

    def failed(self, entries: int) -> None:
        """Count entries that failed."""
        self._failures += entries
        if self._bar is not None:
            self._bar.set_postfix(failed=self._failures)
