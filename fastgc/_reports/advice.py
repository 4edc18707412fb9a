"""What a user does next, from the kind of bug or the reason of a verdict."""

from __future__ import annotations

from fastgc._diagnosis.diagnosis import Diagnosis
from fastgc._words import Kind

# For each kind of bug, where it usually is. The message of the diagnosis says what the numbers show.
_AFTER: dict[Kind, str] = {
    "sign": "turn the sign of its gradient, or of the term that has the wrong one",
    "factor": "look for a mean that should be a sum (or a sum, a mean), or a factor of the loss that was left out",
    "affine": "look for a factor and a constant that the loss does not have",
    "log_parameter": "differentiate by the parameter, not by its logarithm: apply the chain rule once",
    "zero": "see that its gradient is computed and stored: a detached branch, or a result that is never added",
    "clipped": "take the clipping or the mask off the gradient, or put it into the loss",
    "scale_precision": "compute it in double precision, or allow for the coarser format by rtol",
    "transpose": "exchange its axes: a factor of the product is transposed",
    "symmetric": "count mirrored entries as the loss does, or name the tensor in `symmetric`",
    "permutation": "bring its entries into the order of the parameters",
    "swapped": "look where the gradients are put into their places: two are exchanged",
    "missing_term": "look for a term of the loss that its gradient lacks (or the loss): weight decay, a second path",
    "stale": "compute the gradient at the current parameters",
    "broadcast": "look at the axis that is summed, averaged or repeated",
    "sparse": "look at the code that writes these entries: bounds of loops, repeated indices, borders",
}
_OPEN = {  # a word of the reason, and what helps
    "(interrupted)": "let it run to its end: with checkpoint=PATH a second call goes on where the first one stopped",
    "not reached": "give it more time (time_budget), or check fewer entries (samples)",
    "pass a function": "pass the gradient as a function, so that it can be asked at displaced points",
    "kink": "check at another point, away from the kink",
    "stairs": "check a loss without rounding: finite differences cannot see slopes of stairs",
    "jumps": "check at another point, away from the jump",
    "not finite": "move the parameters away from where the loss is not defined, or give bounds",
    "overflow": "scale the loss down",
    "float32": "let the loss compute in double precision",
    "noise": "make the loss repeatable (seeds, tighter solvers), or allow for its noise by rtol",
}
_FAILED = "compare this entry with the formula: no single kind of bug explains the numbers"
_UNKNOWN = "check at another point, or with another step"


def advice(verdict: str, reason: str, diagnosis: Diagnosis | None) -> str:
    """What to do about a tensor, "" if it passed."""
    if verdict == "pass":
        return ""
    if verdict == "undecided":
        return next((text for word, text in _OPEN.items() if word in reason), _UNKNOWN)
    return _AFTER.get(diagnosis.kind, _FAILED) if diagnosis else _FAILED
