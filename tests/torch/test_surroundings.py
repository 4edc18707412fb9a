"""What a module finds when it is called, and what vmap has rules for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from fastgc.torch._rules import has_rules  # noqa: E402
from fastgc.torch._surroundings import Surroundings  # noqa: E402

CPU = torch.device("cpu")


def surroundings(seed: int | None = None, **options: Any) -> Surroundings:
    return Surroundings([CPU], seed, **({"double": True} | options))


# --- random numbers ---


def test_every_call_begins_with_the_state_of_the_seed_and_others_see_nothing_of_it() -> None:
    enter = surroundings(7)
    torch.manual_seed(1)
    outside = torch.get_rng_state()
    found = []
    for _ in range(2):
        with enter():
            found.append(torch.rand(4))
        assert torch.equal(torch.get_rng_state(), outside)
    torch.manual_seed(7)
    expected = torch.rand(4, dtype=torch.float64)
    assert all(torch.equal(each, expected) for each in found)


def test_without_a_seed_calls_go_on_where_the_last_one_ended() -> None:
    torch.manual_seed(1)
    enter, outside = surroundings(double=False), torch.get_rng_state()
    found = []
    for _ in range(2):
        with enter():
            found.append(torch.rand(2))
        assert torch.equal(torch.get_rng_state(), outside)
    assert torch.equal(torch.cat(found), torch.rand(4))


def test_an_exception_puts_the_state_back_too() -> None:
    enter, outside = surroundings(7), torch.get_rng_state()

    @enter()
    def interrupted() -> None:
        torch.rand(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(torch.get_rng_state(), outside)
    assert torch.zeros(1).dtype == torch.float32


def test_one_may_be_entered_inside_another() -> None:
    outer, inner = surroundings(1), surroundings(2)
    outside = torch.get_rng_state()
    with outer():
        first = torch.rand(1)
        with inner():
            other = torch.rand(1)
        second = torch.rand(1)
    assert len({first.item(), other.item(), second.item()}) == 3
    assert torch.equal(torch.get_rng_state(), outside)


def test_states_of_other_devices_are_exchanged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    device, states = torch.device("cuda:1"), {torch.device("cuda:1"): torch.tensor([1])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    enter = Surroundings([CPU, device], None, double=False)
    with enter():
        states[device] = torch.tensor([2])
    assert states[device].item() == 1
    with enter():
        assert states[device].item() == 2
    assert states[device].item() == 1


def test_what_no_call_has_used_is_done_without() -> None:
    enter = surroundings()
    with enter():
        torch.ones(2, dtype=torch.float64).sum()
    enter.keep_what_was_used()
    with enter():
        assert torch.zeros(1).dtype == torch.float32
    drawing = surroundings(double=False)
    with drawing():
        torch.rand(1)
    drawing.keep_what_was_used()
    outside = torch.get_rng_state()
    with drawing():
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), outside)


# --- rules of vmap ---

MATRIX = torch.eye(4, dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": torch.tanh,
    "product": lambda x: x @ MATRIX,
    "softmax": lambda x: torch.softmax(x, -1),
    "norm": lambda x: torch.nn.functional.layer_norm(x, (4,)),
    "cross-entropy": lambda x: torch.nn.functional.binary_cross_entropy_with_logits(x, x.detach() * 0 + 0.5),
    "constant": lambda x: x * torch.tensor(0.5),
    "conjugate": lambda x: (x + 0j).conj().real,
    "histogram": torch.histc,
    "renorm": lambda x: torch.renorm(x[None], 2, 0, 1.0),
    "divergence": lambda x: torch.nn.functional.kl_div(x, x.detach() * 0 + 0.5, reduction="sum"),
    "margin": lambda x: torch.nn.functional.margin_ranking_loss(x, x * 2, torch.ones(4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_has_rules_where_it_does_not_warn(name: str) -> None:
    function, x = FUNCTIONS[name], torch.linspace(0.1, 1.0, 4, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.func.vmap(function)(torch.stack([x, 2 * x]))
    assert has_rules(lambda: function(x)) == (not any("performance drop" in str(each.message) for each in heard))


def test_what_raises_has_no_rules() -> None:
    assert not has_rules(lambda: torch.ones(2) @ torch.ones(3))
