"""A few ladders that were climbed, kept for pictures of errors by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastgc._derivatives.ladder import Ladder
from fastgc._parameters.arrays import Positions
from fastgc._parameters.sampling import DEFAULT_SAMPLES

MOST_KEPT = 512  # ladders in all: a kilobyte each, less than the code that draws them


class KeptLadders:
    """The first ladders of each climb, by the position of the entry: all of a tensor that fails."""

    def __init__(self) -> None:
        self._ladders: dict[int, Ladder] = {}

    def __bool__(self) -> bool:
        return bool(self._ladders)

    def keep(self, positions: Positions, ladders: Sequence[Ladder], before: int = 0) -> None:
        """Keep copies of some of them; a later one of an entry takes the place of an earlier one.

        ``before`` ladders of the same climb came before these.
        """
        if len(self._ladders) < MOST_KEPT:
            some = zip(positions[: max(0, DEFAULT_SAMPLES - before)].tolist(), ladders, strict=False)
            # Copies, because a ladder is a view of the values of all entries that climbed with it.
            self._ladders |= {position: ladder.part(np.arange(ladder.above.size)) for position, ladder in some}

    def among(self, positions: Positions) -> dict[int, Ladder]:
        """The kept ladders of these entries, by their number in ``positions``."""
        if not self._ladders:
            return {}
        numbers: Sequence[int] = range(positions.size)
        if positions.size > MOST_KEPT:
            numbers = np.isin(positions, list(self._ladders)).nonzero()[0].tolist()
            positions = positions[numbers]
        pairs = zip(numbers, positions.tolist(), strict=True)
        return {number: self._ladders[position] for number, position in pairs if position in self._ladders}
