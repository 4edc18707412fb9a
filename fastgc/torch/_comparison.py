"""The derivatives that PyTorch computes for a function, compared with its differences: what `gradcheck` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch._vmap_internals import _vmap  # which PyTorch's own check uses: `torch.func.vmap` has no rule for make_dual
from torch.autograd import forward_ad
from torch.autograd.gradcheck import GradcheckError

from fastgc._derivatives.displaced import displaced_leaves
from fastgc._evaluation.evaluator import Ray
from fastgc._evaluation.floating_point import own_errstate
from fastgc._gradient.noisy import TRIED, all_hidden
from fastgc._jacobian.columns import plan
from fastgc._jacobian.entries import Checked, JacobianAlong, JacobianAtPoint, open_jacobian
from fastgc._jacobian.operator import Operator, matrix_operator, vjp_operator
from fastgc._jacobian.points import find
from fastgc._jacobian.projections import Projections
from fastgc._jacobian.report import About, JacobianReport, details, jacobian_report
from fastgc._parameters.arrays import Floats
from fastgc._parameters.streams import stream
from fastgc._progress import Progress
from fastgc._words import FAIL, UNDECIDED, Columns
from fastgc.torch._backward import check_batched, check_linearity, check_undefined, refuse_other_batch
from fastgc.torch._certificate import Changes, certified_backward, certified_forward, first_changes
from fastgc.torch._flat import Packing, Tensors
from fastgc.torch._memory import placed
from fastgc.torch._opened import Opened
from fastgc.torch._outputs import tensors
from fastgc.torch._referee import refereed
from fastgc.torch._surroundings import forward_mode

# In fast mode: inputs checked one by one, and random projections of the whole Jacobian. One projection misses an error
# above twice its uncertainty with a probability of 3/4 at most (see `fastgc._jacobian.projections`), eight with 1/10.
_FAST_INPUTS, _FAST_PROJECTIONS = 8, 8
_NOISY = "func is not deterministic: a second call gave other outputs (dropout? random numbers? seed them in func)"
_LISTED_PAIRS = 10  # of an output and an input, in a message: as many as one line holds


@dataclass(frozen=True)
class Criteria:
    """The options that say what is checked, and how closely."""

    step: float | None
    atol: float
    rtol: float
    nondeterminism: float
    fast: bool
    allow_undecided: bool
    forward: bool
    backward: bool
    undefined: bool
    batched_backward: bool
    batched_forward: bool


# --- the checks ---


@own_errstate()
def failure(call: Opened, criteria: Criteria) -> GradcheckError | None:
    """What is wrong, or undecided where that is not allowed."""
    try:
        changes = first_changes(call, criteria.step, criteria.atol) if criteria.step and _certifiable(call) else None
        if criteria.forward:
            _check_forward(call, criteria, changes)
        if criteria.backward:
            _check_backward(call, criteria, changes)
    except GradcheckError as error:
        return error
    return None


def _certifiable(call: Opened) -> bool:
    return call.gives_double and not call.noisy and min(call.shape) > 0


def _check_forward(call: Opened, criteria: Criteria, changes: Changes | None) -> None:
    if changes is None or not certified_forward(changes, criteria.atol, partial(_pushed, call)):
        _compare(call, _forward_operator(call), criteria, None, " (forward mode)")
    if criteria.batched_forward:
        _check_batched_forward(call)


def _check_backward(call: Opened, criteria: Criteria, changes: Changes | None) -> None:
    if not call.has_backward:
        _compare(call, matrix_operator(np.zeros(call.shape)), criteria, None)
        return
    if changes is None or not _certified(call, criteria, changes):
        _compare(call, _backward_operator(call, criteria), criteria, partial(_backward_beside, call, criteria))
    check_linearity(call.backward, call.in_double, criteria.atol)
    if criteria.batched_backward:
        check_batched(call.backward)
    if criteria.undefined:
        check_undefined(call.here, call.leaves)


def _certified(call: Opened, criteria: Criteria, changes: Changes) -> bool:
    """Whether a few backward passes show that all entries are right, and are the same when they are run again."""
    return certified_backward(call, changes, criteria.atol) and call.backward.repeats(criteria.nondeterminism)


def _forward_operator(call: Opened) -> Operator:
    """The Jacobian by forward mode, a column for each number of the inputs."""
    columns = [_pushed(call, unit) for unit in np.eye(call.function.point.size)]
    return matrix_operator(np.stack(columns, axis=1) if columns else np.empty((call.function.base.size, 0)))


def _pushed(call: Opened, tangent: Floats) -> Floats:
    """J u by forward mode."""
    tangents = _tangents(call, _placed_leaves(call), Packing(call.leaves).members(tangent[None, :])[0])
    return np.asarray(Packing(call.here).joined(tangents)[0])


def _placed_leaves(call: Opened) -> Tensors:
    """Copies of the checked inputs."""
    return [placed(leaf.detach(), leaf).requires_grad_() for leaf in call.leaves]


def _tangents(call: Opened, leaves: Tensors, parts: Tensors) -> list[torch.Tensor]:
    """The tangents of the compared outputs for those of the inputs."""
    arguments = list(call.inputs)
    with forward_mode(), forward_ad.dual_level():
        for k, leaf, part in zip(call.checked, leaves, parts, strict=True):
            arguments[k] = forward_ad.make_dual(leaf, part)
        found = tensors(call.func(*arguments))
        tangents = [forward_ad.unpack_dual(found[k]).tangent for k in call.compared]
    return [torch.zeros_like(like) if each is None else each for each, like in zip(tangents, call.here, strict=True)]


def _check_batched_forward(call: Opened) -> None:
    """Forward mode must give the same in a batch as for one tangent after another."""
    drawn = stream(0, "tangent").standard_normal((3, call.function.point.size))

    def batch() -> Floats:
        leaves, parts = _placed_leaves(call), Packing(call.leaves).stacked(drawn)
        found = _vmap(lambda *each: tuple(_tangents(call, leaves, each)))(*parts)
        return Packing(call.here).joined(found, len(drawn))

    plain = np.stack([_pushed(call, tangent) for tangent in drawn])
    refuse_other_batch(batch, plain, call.backward.eps, "forward mode")


def _backward_operator(call: Opened, criteria: Criteria) -> Operator:
    """The Jacobian by backward mode, a row for each number of the outputs."""
    if criteria.fast:
        return vjp_operator(lambda v: call.backward.pulled(v[None, :])[0], *call.shape, np.dtype(np.float64))
    return matrix_operator(call.backward.jacobian(criteria.nondeterminism))


def _backward_beside(call: Opened, criteria: Criteria, rays: Sequence[Ray]) -> Operator:
    """The Jacobian by backward mode at inputs displaced along a direction."""
    numbers = np.concatenate([leaf.reshape(-1) for leaf in displaced_leaves(call.function.leaves, rays)])
    moved = [each.requires_grad_() for each in Packing(call.leaves).members(numbers[None])[0]]
    given = list(call.inputs)
    for k, each in zip(call.checked, moved, strict=True):
        given[k] = each
    found = tensors(call.func(*given))
    backward = call.backward.elsewhere([found[k] for k in call.compared], moved)
    return matrix_operator(backward.jacobian(criteria.nondeterminism))


def _compare(
    call: Opened, operator: Operator, criteria: Criteria, beside: JacobianAlong | None, mode: str = ""
) -> None:
    if not operator.shape[0] * operator.shape[1]:
        return
    jacobian = open_jacobian(call.function, operator, criteria.step, criteria.rtol, criteria.atol)
    jacobian = replace(jacobian, displaced=beside)
    checked, note = refereed(call, jacobian, _found(jacobian, TRIED, 0)) if call.noisy else (None, "")
    if checked is None or not all_hidden(checked.judgement):
        found = _found(jacobian, _FAST_INPUTS if criteria.fast else "all", _FAST_PROJECTIONS)
        checked, note = refereed(call, jacobian, found)
    verdict = checked.judgement.worst
    if verdict == FAIL or (verdict == UNDECIDED and not criteria.allow_undecided):
        raise GradcheckError(_message(call, jacobian, checked, verdict, mode, note))


def _found(jacobian: JacobianAtPoint, inputs: Columns, projections: int) -> Checked:
    groups, complete = plan(jacobian.operator, None, inputs, 0)
    with Progress(0, shown=False) as bar:
        checked, _, _ = find(jacobian, groups, 0 if complete else projections, 0, bar)
    return checked


def _message(call: Opened, jacobian: JacobianAtPoint, checked: Checked, verdict: str, mode: str, note: str) -> str:
    """The first pair of an output and an input with this verdict, in full, and the names of the others."""
    rows, columns = Packing(call.here), Packing(call.leaves)
    blocks = [
        (f"output {call.compared[k]} with respect to input {call.checked[j]}", block)
        for k in range(len(call.here))
        for j in range(len(call.leaves))
        for block in [_report_on_pair(call, jacobian, checked, rows, columns, k, j)]
        if block.verdict == verdict
    ]
    (name, first), others = blocks[0], [name for name, _ in blocks[1:]]
    head = "Jacobian mismatch for" if verdict == FAIL else "undecided: the Jacobian of"
    lines = [f"{head} {name}{mode}: {first.reason}", *details(first)]
    if any(each.is_complex() for each in (*call.leaves, *call.here)):
        lines.append("(complex numbers as pairs: the last index is 0 for the real and 1 for the imaginary part)")
    lines += [f"likewise {', '.join(others[:_LISTED_PAIRS])}"] if others else []
    notes = [_NOISY] * call.noisy + [*call.function.raised.notes("func")] + [note] * bool(note)
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _report_on_pair(
    call: Opened, jacobian: JacobianAtPoint, checked: Checked, rows: Packing, columns: Packing, k: int, j: int
) -> JacobianReport:
    """The report on the Jacobian of one output with respect to one input."""
    own, along = rows.slices[k], columns.slices[j]
    i, at = jacobian.places(checked.estimates.positions)
    mine = np.flatnonzero((i >= own.start) & (i < own.stop) & (at >= along.start) & (at < along.stop))
    part = checked.part(mine)
    local = (i[mine] - own.start) * (along.stop - along.start) + at[mine] - along.start
    part = replace(part, estimates=replace(part.estimates, positions=local))
    return jacobian_report(
        {0: part}, Projections(), About(rows.shapes[k], columns.shapes[j], 1, call.function.evaluations, 0.0, 0, ())
    )
