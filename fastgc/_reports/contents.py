"""What a report shows, whatever shows it: the text, a page, a picture, a comment on a pull request."""

from __future__ import annotations

from dataclasses import dataclass

from fastgc._reports.entries import Entries, Entry
from fastgc._reports.environment import Environment
from fastgc._words import Verdict


@dataclass(frozen=True)
class EntryLadder:
    """The difference quotients of one entry at a ladder of steps.

    Attributes
    ----------
    index, point : of the entry
    analytic, numerical : its derivatives
    steps : of the parameter, from the largest
    forward, backward, central : the quotients at these steps
    noise : bound on the round-off and noise of the central ones
    """

    index: tuple[int, ...]
    point: int
    analytic: float
    numerical: float
    steps: tuple[float, ...]
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    central: tuple[float, ...]
    noise: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """A tensor, or the Jacobian.

    Attributes
    ----------
    matrix, axes : rows and columns of its map, and what they are
    remark : the kind of bug, or why the verdict is what it is, in a line
    errors : the largest of an entry, and that of the whole tensor
    advice : what to do next, "" for nothing
    evidence, limits : lines: what the remark rests on; what the check could have missed
    ladder : of one entry, if it was kept
    """

    name: str
    shape: tuple[int, ...]
    matrix: tuple[int, int]
    axes: tuple[str, str]
    checked: int
    size: int
    verdict: Verdict
    remark: str
    errors: tuple[str, str]
    advice: str
    evidence: tuple[str, ...]
    limits: tuple[str, ...]
    entries: Entries
    wrong_entries: Entries
    worst: Entry | None
    ladder: EntryLadder | None


@dataclass(frozen=True)
class Contents:
    """A report.

    Attributes
    ----------
    outcome : what was found, in a line
    facts : what was done: entries, evaluations, seconds
    operations : which operation of a network is wrong, in lines
    parts : worst first
    limits, notes : what all of the check could have missed, and other remarks
    environment : what it was made with
    """

    verdict: Verdict
    outcome: str
    facts: tuple[str, ...]
    parts: tuple[Part, ...]
    limits: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Environment
    operations: tuple[str, ...] = ()

    def part(self, name: str | None, *, by_step: bool = False) -> Part:
        """The one of that name, by default the worst; ``by_step``: of those with a ladder, if there are any."""
        if not self.parts:
            raise ValueError("the report has no tensors, and nothing to draw")
        if name is None:
            return next((part for part in self.parts if by_step and part.ladder is not None), self.parts[0])
        found = [part for part in self.parts if part.name == name]
        if not found:
            from fastgc._arguments import listed

            raise ValueError(f"tensor is {name!r}; the report has {listed([part.name for part in self.parts])}")
        return found[0]

    @property
    def advice(self) -> str:
        """What to do next, for the worst part."""
        part = self.parts[0] if self.parts else None
        return f"{part.name}: {part.advice}" if part is not None and part.advice else ""
