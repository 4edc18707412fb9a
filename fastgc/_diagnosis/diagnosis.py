"""A kind of bug that explains wrong entries, and what the diagnoses of several tensors or points say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastgc._arguments import brief, listed
from fastgc._public import public
from fastgc._verdicts.judgement import FAIL, PASS
from fastgc._words import Kind

_SAME = 1e-4  # relative difference below which two factors are the same


@dataclass(frozen=True)
class Evidence:
    """What a diagnosis rests on.

    Attributes
    ----------
    entries, wrong : measured entries of the tensor, and how many of them are wrong
    extra : how many of them were measured for the diagnosis
    deviation : the largest distance of an entry from the pattern, in units of its tolerance and uncertainty
    """

    entries: int
    wrong: int
    extra: int
    deviation: float


@public
@dataclass(frozen=True, repr=False)
class Diagnosis:
    """A kind of bug that explains a tensor's wrong entries.

    Attributes
    ----------
    kind : "sign" | "factor" | "zero" | "scale_precision" | "transpose" | "permutation" | "swapped" | "missing_term" |
        "stale" | "broadcast" | "sparse" | "unstructured" (enough wrong entries to show a pattern, and none does)
    message : one line for people
    factor : analytic / numerical, or the coefficient of a missing term, or None
    axis : along which entries are exchanged, reordered, spread or wrong, or None
    indices : of few wrong entries; with an axis, of the wrong lines along it, each a tuple of one
    evidence : the `Evidence`
    alternatives : messages of other patterns that explain the entries as well
    """

    kind: Kind
    message: str
    factor: float | None
    axis: int | None
    indices: tuple[tuple[int, ...], ...]
    evidence: Evidence
    alternatives: tuple[str, ...]

    def __repr__(self) -> str:
        return brief(f"<Diagnosis {self.kind}: {self.message}") + ">"


@dataclass(frozen=True)
class Explanation:
    """What failing tensors are consistent with.

    Attributes
    ----------
    diagnoses : by tensor with wrong entries (None: the numbers establish none)
    evaluations : that were made elsewhere, at the parameters of an earlier moment
    notes : what a reader should know of these
    """

    diagnoses: Mapping[int, Diagnosis | None]
    evaluations: int
    notes: tuple[str, ...]


def agreed(diagnoses: Sequence[Diagnosis | None]) -> Diagnosis | None:
    """The diagnosis at the first of several points where a tensor fails, if those at the others are the same."""
    first = diagnoses[0] if diagnoses else None
    if first is None or any(other is None or not _alike(first, other) for other in diagnoses):
        return None
    return first


# --- tensors together ---


def compared(verdicts: Mapping[str, str], diagnoses: Mapping[str, Diagnosis | None]) -> Iterator[str]:
    """Which tensors are right and which are wrong, in the order of the parameters, and what the wrong ones share."""
    wrong = [name for name, verdict in verdicts.items() if verdict == FAIL]
    right = [name for name, verdict in verdicts.items() if verdict == PASS]
    if not wrong or len(verdicts) < 2:
        return
    known = [each for name in wrong if (each := diagnoses[name]) is not None and each.factor]
    shared = len(wrong) > 1 and len(known) == len(wrong) and all(_alike(known[0], other) for other in known)
    if shared and len(wrong) == len(verdicts):
        yield f"all {len(wrong)} tensors are wrong by the same {_shared(known[0])}"
        return
    names = listed(wrong, quote=False)
    if shared:
        yield f"{_are(right)}{names} are wrong by the same {_shared(known[0])}: look at what {names} share"
    elif right:
        yield f"{_are(right)}{names} {'is' if len(wrong) == 1 else 'are'} wrong"


def _are(right: Sequence[str]) -> str:
    return f"{listed(right, quote=False)} {'is' if len(right) == 1 else 'are'} right, " if right else ""


def _alike(one: Diagnosis, other: Diagnosis) -> bool:
    first, second = one.factor or 0.0, other.factor or 0.0
    return (one.kind, one.axis) == (other.kind, other.axis) and abs(first - second) <= _SAME * abs(first)


def _shared(diagnosis: Diagnosis) -> str:
    """What tensors have in common, with what it usually comes from."""
    factor = f"{diagnosis.factor:.4g}"
    if diagnosis.kind == "missing_term":
        return f"term: {diagnosis.message.removeprefix('consistent with ')}"
    if diagnosis.kind == "sign":
        return "sign: the gradient is of the negative loss"
    length = diagnosis.message.partition("N, ")[2]
    hint = f": the loss is a mean where the gradient is of a sum, or the reverse: {length}" if length else ""
    return f"factor {factor}{hint}"
