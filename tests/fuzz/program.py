"""A random call as a small program: its text is drawn, so that a failing seed can be printed and run by itself."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.fuzz.worlds import WORLDS

PRELUDE = '''
import math, os, random, signal, sys, tempfile, warnings
import numpy as np
import fastgc

class Planned(Exception):
    """What the functions below raise on purpose."""

class Bare(np.ndarray):
    __array_ufunc__ = None

class Mine(np.ndarray):
    pass

class Attributes(dict):
    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__ = self

class Pair(list):
    def __init__(self, first, second):
        super().__init__([first, second])

def leaves(value):
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]

def mapped(function, value):
    if isinstance(value, dict):
        return {key: mapped(function, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(function, each) for each in value]
    return function(np.asarray(value))

calls = 0
'''

SMOOTH = {  # the value of an entry, and its derivative
    "square": ("x * x", "2 * x"),
    "sine": ("np.sin(x)", "np.cos(x)"),
    "cube": ("x**3", "3 * x**2"),
    "linear": ("3 * x", "np.full(x.shape, 3.0)"),
}
ROUGH = {
    "magnitude": ("np.abs(x)", "np.sign(x)"),
    "logarithm": ("np.log(x)", "1 / x"),
    "exponential": ("np.exp(700 * x)", "700 * np.exp(700 * x)"),
    "stairs": ("np.floor(4 * x)", "np.zeros(x.shape)"),
    "single": ("np.float32(x) ** 2", "2 * x"),
    "constant": ("np.ones(x.shape)", "np.zeros(x.shape)"),
    "tiny": ("1e-200 * x * x", "2e-200 * x"),
    "noise": ("x + 1e-3 * np.random.standard_normal(x.shape)", "np.ones(x.shape)"),
}
VALUES = ["np.linspace(0.5, 2.0, {n})", "np.arange({n}) * 1.0", "np.full({n}, 1e308)", "np.full({n}, 1e-300)",
          "np.zeros({n})", "np.linspace(-3.0, 1.0, {n})", "np.full({n}, np.nan)", "np.full({n}, -np.inf)"]  # fmt: skip
GOOD_VALUES = 1  # of these, how many are entries of ordinary size
SHAPES = ["()", "(1,)", "(3,)", "(0,)", "(2, 3)", "(1, 2, 2)", "(2, 0)", "(60,)", "(20000,)"]
DTYPES = ["f8", "f8", "f8", "f8", "f4", "f2", ">f8", "g", "i8", "c16", "?", "O", "U3"]
LAYOUTS = ["{}", "{}", "{}", "np.asfortranarray({})", "{}[..., ::-1]", "frozen({})",
           "np.broadcast_to({}, (2, *{}.shape))",
           "np.ma.array({}, mask=False)", "np.ma.array({}, mask=True)", "np.atleast_2d({}).view(np.matrix)",
           "{}.view(Mine)", "{}.view(Bare)", "mapped_to_disk({})", "{}.tolist()", "series({})",
           "tensor({})"]  # fmt: skip
PLAIN_LAYOUTS = 5
LAYOUT_HELPERS = """
def frozen(array):
    array = np.array(array)
    array.flags.writeable = False
    return array

def series(array):
    import pandas

    return pandas.Series(np.asarray(array).ravel())

def tensor(array, grad=False):
    import torch

    return torch.tensor(np.asarray(array, float), requires_grad=grad)

def mapped_to_disk(array):
    array = np.asarray(array)
    if not array.size:
        return array
    with tempfile.TemporaryFile() as file:
        found = np.memmap(file, array.dtype, "w+", shape=array.shape or (1,))
    found[...] = array
    return found
"""
NAMES = ["w", "b", "layer.0", "ü", "a b", "", "*", "[0]", "\x1b[31m", "x\ny", "\ud800", "n" * 300, "None", "\u202e"]
RAISED = ["Planned('x')", "KeyboardInterrupt()", "SystemExit(3)", "MemoryError()", "RecursionError('deep')",
          "StopIteration()", "GeneratorExit()", "ZeroDivisionError()", "FloatingPointError()", "AssertionError()",
          "fastgc.GradientMismatch('x')", "np.linalg.LinAlgError('s')"]  # fmt: skip
NONSENSE = ["None", "'a'", "[1.0, 2.0]", "[[1.0], [2.0, 3.0]]", "math.nan", "math.inf", "1j", "np.ones(2)",
            "np.array(2.0)", "True", "10**400", "{}", "loss", "np.ma.masked", "np.datetime64('2020')", "b'1'",
            "[]"]  # fmt: skip
DONE = ["np.seterr(all='raise')", "warnings.warn('planned')", "warnings.simplefilter('ignore')",
        "[each.fill(7) for each in leaves(params) if isinstance(each, np.ndarray) and each.flags.writeable]",
        "fastgc.numerical_gradient(np.sin, 1.0)",
        "fastgc.check_gradients(lambda x: x @ x, lambda x: 2 * x, np.ones(2))", "np.float64(1e308) * 10"]  # fmt: skip
ARGS = ["()", "()", "()", "(np.ones(3),)", "(np.ones(3, 'f4'), 'text')", "(None, [1, 2])", "({'a': np.ones(2)},)",
        "(np.zeros(2, [('a', 'f8'), ('b', 'i4')]),)", "(np.array(['a'], np.dtypes.StringDType()),)",
        "(np.zeros(2, 'V0'),)",
        "(np.array(['a', None], object),)", "(np.datetime64('2020'), np.array('2020', 'M8[D]'))", "[1]",
        "np.ones(2)", "None", "(endless,)", "(np.ones((0, 3)),)", "(np.zeros(1, [('a', 'O')])[0],)",
        "(np.ma.array([1.0], mask=[True]),)",
        "(np.ones(2, 'f4').view(Bare),)", "(open,)", "(np.zeros(2, 'S0'),)", "(np.random.default_rng(0),)"]  # fmt: skip
OPTIONS = {
    "samples": ["1", "'all'", "3", "0", "{'*': 2}", "np.ones(2)", "-1", "{}", "'some'"],
    "probes": ["0", "1", "3", "2.0", "np.ones(2)"],
    "stencil": ["'forward'", "'backward'", "'five_point'", "'complex_step'", "[]", "None", "np.ones(2)", "{}"],
    "step": ["1e-5", "1e-300", "1e300", "0", "np.nan", "np.ones(2)", "'a'"],
    "rtol": ["1e-3", "0", "{'*': 1e-3}", "np.inf", "[1]", "1j"],
    "atol": ["1e-3", "{'none': 1}", "np.ones(2)"],
    "precision": ["'native'", "'single'", "np.ones(2)", "None"],
    "engine": ["'python'", "'auto'", "'cuda'", "np.ones(2)", "[]"],
    "threads": ["1", "2", "0", "1.5"],
    "vectorized": ["True", "np.ones(2)", "'yes'", "None"],
    "points": ["2", "0", "np.ones(2)", "'a'"],
    "in_place": ["True", "np.ones(2)", "None", "[]"],
    "crosscheck": ["False", "np.ones(2)"],
    "time_budget": ["1e-9", "10.0", "0", "'a'"],
    "seed": ["1", "2**70", "-1", "'a'", "np.int64(3)"],
    "progress": ["np.ones(2)", "None", "'a'"],
    "previous": ["params", "None", "3", "{}"],
    "bounds": ["{'*': (0, None)}", "[(None, None)]", "3", "(0.0, 1.0)", "{'none': (0, 1)}", "{'*': (2, 1)}"],
    "symmetric": ["'*'", "3", "'none'", "[]"],
    "tensors": ["'*'", "'none'", "[]", "3", "['w']"],
    "checkpoint": ["3", "''", "'/nowhere/at/all'"],
}  # fmt: skip
JACOBIAN_OPTIONS = {
    "columns": ["1", "'all'", "0", "np.ones(2)", "'some'"],
    "sparsity": ["np.ones((2, 2))", "3", "'a'", "np.ma.ones((3, 3))"],
    "probes": ["0", "np.ones(2)"],
    "stencil": ["'complex_step'", "[]"],
    "bounds": ["{'x': (0, None)}", "3"],
    "points": ["2", "None"],
    "time_budget": ["1e-9", "np.ones(1)"],
    "args": ["(np.ones(2),)", "endless"],
    "progress": ["[]"],
}  # fmt: skip
SETTINGS = ["", "", "", "np.seterr(all='raise')", "np.seterr(all='ignore')", "np.seterr(over='raise', under='warn')"]


@dataclass
class Program:
    """The text of a call, and what its outcome may be.

    Attributes
    ----------
    good : whether nothing hostile was drawn: the verdict must then be right
    wrong : whether the gradient is wrong by a factor
    poisoned : whether the gradient has NaN in it, so that it must not pass
    draws : whether the loss draws from ``np.random``, so that its state and the report may change
    twins : options with which a good call must give the same report
    """

    seed: int
    lines: list[str] = field(default_factory=list)
    good: bool = True
    wrong: bool = False
    poisoned: bool = False
    draws: bool = False
    twins: tuple[str, ...] = ("",)
    door: str = "check_gradients"

    @property
    def text(self) -> str:
        """The program, which makes the call at its end."""
        return PRELUDE + LAYOUT_HELPERS + "\n".join(self.lines) + "\n"


def drawn(seed: int) -> Program:
    """The program of a seed."""
    rng, program = random.Random(seed), Program(seed)
    hostile = rng.random() < 0.75
    program.lines.append("endless = [1]; endless.append(endless)")
    left = rng.random()
    for share, draw in WORLDS:
        left -= share
        if left < 0:
            program.wrong = rng.random() < 0.3
            draw(rng, program, hostile)
            return program
    _draw_params(rng, program, hostile)
    program.lines.append(f"args = {_picked(rng, program, ARGS, 3, hostile)}")
    _draw_functions(rng, program, hostile)
    program.lines.append(rng.choice(SETTINGS) if hostile else "")
    _draw_call(rng, program, hostile)
    return program


def _picked(rng: random.Random, program: Program, choices: list[str], harmless: int, hostile: bool) -> str:
    """One of the choices, of which the first ones are harmless; one time in seven any of them."""
    if hostile and rng.random() < 0.15:
        number = rng.randrange(len(choices))
        program.good &= number < harmless
        return choices[number]
    return choices[rng.randrange(harmless)]


def _array(rng: random.Random, program: Program, hostile: bool) -> str:
    shape = _picked(rng, program, SHAPES, 7, hostile)
    dtype = _picked(rng, program, DTYPES, 4, hostile)
    values = _picked(rng, program, VALUES, GOOD_VALUES, hostile)
    flat = values.format(n=f"math.prod({shape})")
    text = f"np.asarray({flat}).reshape({shape}).astype({dtype!r})"
    layout = _picked(rng, program, LAYOUTS, PLAIN_LAYOUTS, hostile)
    return layout.format(text, text)


def _draw_params(rng: random.Random, program: Program, hostile: bool) -> None:
    count = rng.choice([1, 1, 2, 3])
    for i in range(count):
        program.lines.append(f"a{i} = {_array(rng, program, hostile)}")
    names = rng.sample(NAMES[:2] + NAMES[2:5], count) if not hostile else rng.sample(NAMES, count)
    items = ", ".join(f"{name!r}: a{i}" for i, name in enumerate(names))
    row = ", ".join(f"a{i}" for i in range(count))
    forms = [f"{{{items}}}", f"[{row}]", "a0", f"{{'outer': {{{items}}}}}", f"Attributes(**{{{items}}})"]
    odd = ["Pair(a0, a0)", "endless", "{'a': endless}", "{}", "None", "3.0", "{'a': 2.0}", "{1: a0}", "[1.0, 2.0]",
           "[[]]",            "{'a': a0, 'b': a0}", "(a0, [a0])"]  # fmt: skip
    program.lines.append(f"params = {_picked(rng, program, forms + odd, len(forms), hostile)}")


def _draw_functions(rng: random.Random, program: Program, hostile: bool) -> None:
    kinds = SMOOTH if not hostile or rng.random() < 0.6 else ROUGH
    kind = rng.choice(sorted(kinds))
    program.good &= kind in SMOOTH
    program.draws |= kind == "noise"
    value, slope = kinds[kind]
    program.wrong = rng.random() < 0.3
    factor = "2.5 * " if program.wrong else ""
    program.lines += [
        "def loss(params, *args):",
        "    global calls",
        "    calls += 1",
        *(_mischief(rng, program) if hostile else []),
        f"    return float(sum(np.sum({value}) for x in map(np.asarray, leaves(params))))",
        "def gradients(params, *args):",
        *(_mischief(rng, program) if hostile and rng.random() < 0.3 else []),
        f"    found = mapped(lambda x: np.asarray({factor}({slope})), params)",
        f"    return {_returned(rng, program, hostile)}",
    ]


def _mischief(rng: random.Random, program: Program) -> list[str]:
    """What a function does at one of its calls, if anything."""
    if rng.random() < 0.6:
        return []
    program.good = False
    when = rng.choice(["calls == 1", "calls == 2", f"calls == {rng.randrange(3, 60)}", "calls > 2", "True"])
    what = rng.choice([f"raise {rng.choice(RAISED)}", f"return {rng.choice(NONSENSE)}", rng.choice(DONE)])
    return [f"    if {when}: {what}"]


def _returned(rng: random.Random, program: Program, hostile: bool) -> str:
    odd = ["mapped(lambda g: g * np.nan, found)", "mapped(lambda g: np.ma.array(g, mask=True), found)",
           "mapped(lambda g: np.asmatrix(g) if g.ndim < 3 else g, found)", "params", "None", "[found]", "leaves(found)",
           "mapped(lambda g: g.view(Bare), found)", "mapped(lambda g: g[..., None], found)", "endless", "'text'",
           "mapped(tensor, found)",
           "mapped(lambda g: tensor(g, True), found)",
           "mapped(lambda g: g.astype('f4'), found)", "mapped(lambda g: g.astype('>f8'), found)", "found, found",
           "mapped(lambda g: g.tolist(), found)", "mapped(lambda g: g.astype(object), found)"]  # fmt: skip
    text = _picked(rng, program, ["found", *odd], 1, hostile)
    program.poisoned = "np.nan" in text or "mask=True" in text
    return text


def _draw_call(rng: random.Random, program: Program, hostile: bool) -> None:
    doors = {
        "check_gradients": "fastgc.check_gradients(loss, {g}, params, args=args{options}, **more)",
        "assert_gradients": "fastgc.assert_gradients(loss, {g}, params, args=args{options}, **more)",
        "numerical_gradient": "fastgc.numerical_gradient(loss, params, args=args)",
        "taylor_test": "fastgc.taylor_test(loss, gradients, params, args=args)",
        "check_jacobian": "fastgc.check_jacobian(lambda x: np.stack([x, loss(x) * x]), gradients, a0{more})",
        "check_hessian": "fastgc.check_hessian(loss, gradients, None, a0, hvp=lambda x, v: v{more})",
        # That of 20,000 parameters takes 8 s: half of the time of 300 calls.
        "numerical_jacobian": "fastgc.numerical_jacobian(gradients, a0[:60] if np.shape(a0) == (20000,) else a0)",
        "gradient_check": "fastgc.gradient_check(loss, gradients, a0)",
    }
    program.door = "check_gradients" if rng.random() < 0.7 or not hostile else rng.choice(sorted(doors))
    odd = ["gradients(params, *args)", "True", "3", "None", "params"]
    g = _picked(rng, program, ["gradients", *odd], 1, hostile)
    chosen = rng.sample(sorted(OPTIONS), rng.choice([0, 0, 1, 2, 3])) if hostile else []
    program.good &= not chosen and program.door == "check_gradients"
    options = "".join(f", {name}={rng.choice(OPTIONS[name])}" for name in chosen)
    fewer = rng.sample(sorted(JACOBIAN_OPTIONS), rng.choice([0, 0, 1, 2])) if hostile else []
    more = "".join(f", {name}={rng.choice(JACOBIAN_OPTIONS[name])}" for name in fewer)
    program.lines.append(f"call = lambda **more: {doors[program.door].format(g=g, options=options, more=more)}")
