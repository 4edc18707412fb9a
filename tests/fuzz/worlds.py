"""Random calls of other doors than those for plain functions: jitted losses, workers, PyTorch, JAX, SciPy, and more."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.fuzz import jitted

# Twins of a good call must give the same report: other numbers of threads and of workers.
THREADS = ("threads=1", "threads=2", "threads=3")
WORKERS = ("workers=1", "workers=pool", "workers=pool.map")

MISCHIEF = [
    "raise Planned('x')", "raise KeyboardInterrupt", "raise SystemExit(3)", "raise MemoryError", "raise StopIteration",
    "raise RecursionError('deep')", "raise FloatingPointError", "return None", "return 'a'", "return math.nan",
    "return math.inf", "return 1j", "return [1.0, 2.0]", "return np.ones(2)", "return {}", "return loss",
    "np.seterr(all='raise')", "warnings.warn('planned')", "np.float64(1e308) * 10",
    "fastgc.numerical_gradient(np.sin, 1.0)", "np.random.normal()",
]  # fmt: skip
SAMPLES = ["samples=1", "samples='all'", "samples=0", "samples={}", "probes=0", "probes='a'", "seed=5", "seed=-1",
           "rtol=1e-3", "rtol='a'", "step=1e-5", "step=np.nan", "stencil='five_point'", "stencil='forward'",
           "stencil=[]", "points=2", "points='a'", "precision='single'", "precision='native'", "tensors='none'",
           "tensors='*'", "time_budget=1e-9", "bounds=3", "crosscheck=True", "bounds=(0.0, 9.0)",
           "progress=3"]  # fmt: skip


def options(rng: random.Random, choices: list[str], hostile: bool) -> str:
    """Some of the options, each once."""
    chosen = rng.sample(choices, rng.choice([0, 1, 1, 2])) if hostile else []
    return "".join(f", {each}" for each in {each.partition("=")[0]: each for each in chosen}.values())


def mischief(rng: random.Random, hostile: bool) -> list[str]:
    """What a function does at one of its calls, if anything."""
    if not hostile or rng.random() < 0.4:
        return []
    when = rng.choice(["calls == 1", "calls == 2", f"calls == {rng.randrange(3, 60)}", "calls > 2", "True"])
    return ["    global calls", "    calls += 1", f"    if {when}: {rng.choice(MISCHIEF)}"]


def compiled(rng: random.Random, program: Any, hostile: bool) -> None:
    """A jitted loss, in threads."""
    name = rng.choice(jitted.ROUGH) if hostile and rng.random() < 0.6 else rng.choice(sorted(jitted.SMOOTH))
    size = rng.choice([1, 2, 60, 2000])
    array = f"np.linspace(0.5, 2.5, {size})"
    odd = [array, array, array + ".astype('f4')", array + ".astype('f2')", array + "[::-1]", array + ".astype('>f8')",
           array + "[:0]", array + ".astype('c16')", array + ".astype('i8')", f"frozen({array})"]  # fmt: skip
    program.lines += [
        "from tests.fuzz import jitted",
        f"a0 = {rng.choice(odd) if hostile else array}",
        "a1 = np.linspace(1.0, 2.0, 3)",
        f"args = {'(a1,)' if name in ('with_args', 'scratching') else '()'}",
        f"params = {'dict(w=a0, b=a1)' if name == 'of_dict' else 'a0'}",
        f"loss, right = jitted.{name}, jitted.{'slopes_of_dict' if name == 'of_dict' else 'slopes'}",
        "def gradients(params, *args):",
        *mischief(rng, hostile and rng.random() < 0.3),
        f"    return mapped(lambda g: {2.5 if program.wrong else 1.0} * g, right(params, *args))",
    ]
    engine = rng.choice(["'numba'", "'numba'", "'auto'", "'python'"])
    fewer = [each for each in SAMPLES if not each.startswith(("points", "crosscheck"))] + ["in_place=True", "threads=2"]
    program.good = not hostile
    program.twins = THREADS
    doors = ["check_gradients"] * 5 + ["numerical_gradient", "taylor_test", "benchmark", "check_jacobian"]
    program.door = rng.choice(doors) if hostile else "check_gradients"
    given = options(rng, fewer, hostile)
    call = {
        "check_gradients": f"(loss, gradients, params, args=args, engine={engine}{given}, **more)",
        "numerical_gradient": f"(loss, params, args=args, engine={engine})",
        "taylor_test": "(loss, gradients, params, args=args)",
        "benchmark": "(loss, gradients, params, args=args)",
        "check_jacobian": f"(jitted.slopes, lambda x: np.eye(x.size), a0, engine={engine})",
    }[program.door]
    program.lines.append(f"call = lambda **more: fastgc.{program.door}{call}")


def workers(rng: random.Random, program: Any, hostile: bool) -> None:
    """A Python loss in threads of a pool, and now and then in processes."""
    program.lines += [
        "from concurrent.futures import ThreadPoolExecutor",
        "from fastgc._evaluation import pieces",
        "pieces._WORTHWHILE = 0.0  # everything is shared out",
        "a0 = np.linspace(0.5, 2.0, 40)",
        "pool = ThreadPoolExecutor(2, 'fuzzed')",
        "def loss(x):",
        *mischief(rng, hostile),
        "    return float(np.sum(np.sin(x) * x))",
        "def gradients(x):",
        f"    return {2.5 if program.wrong else 1.0} * (np.sin(x) + x * np.cos(x))",
    ]
    odd = ["workers=map", "workers=0", "workers=-1", "workers='a'", "workers=np.ones(2)", "workers=ThreadPoolExecutor",
           "workers=lambda f, items: []", "workers=lambda f, items: [3 for each in items]", "workers=None",
           "workers=lambda f, items: 3", "workers=1.5", "workers=2"]  # fmt: skip
    program.good, program.twins = not hostile, WORKERS
    if not hostile and rng.random() < 0.2:
        program.twins = ("workers=1", "workers=2")
    chosen = rng.choice([*odd, *WORKERS]) if hostile else program.twins[0]
    more = f"{chosen}{options(rng, SAMPLES, hostile)}"
    door = rng.choice(["check_gradients"] * 3 + ["numerical_gradient", "check_jacobian"]) if hostile else ""
    program.door = door or "check_gradients"
    call = {
        "check_gradients": f"(loss, gradients, a0, **{{**dict({more}), **more}})",
        "numerical_gradient": f"(loss, a0, {chosen})",
        "check_jacobian": f"(lambda x: loss(x) * x, gradients, a0, {chosen})",
    }[program.door]
    program.lines += ["def call(**more):", "    with pool:", f"        return fastgc.{program.door}{call}"]
    program.lines += ["def renew():", "    global pool", "    pool = ThreadPoolExecutor(2, 'fuzzed')"]


TORCH = """
import torch
class Odd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x) * x
    @staticmethod
    def backward(ctx, g):
        global backwards
        backwards += 1
        x, = ctx.saved_tensors
        found = g * (torch.sin(x) + x * torch.cos(x)) * {factor}
{backward}
        return found
backwards = 0
a0 = {tensor}
"""
TENSORS = ["torch.linspace(0.5, 2, 6, dtype=torch.double).reshape(2, 3)", "torch.linspace(0.5, 2, 6).reshape(2, 3)",
           "torch.ones(2, 3).half()", "torch.ones(2, 3, dtype=torch.cdouble)", "torch.ones(2, 3, dtype=torch.long)",
           "torch.ones(0, 3, dtype=torch.double)", "torch.full((2, 3), math.nan, dtype=torch.double)",
           "torch.full((2, 3), 1e308, dtype=torch.double)", "torch.ones(1, dtype=torch.double).expand(2, 3)",
           "torch.ones(3, 2, dtype=torch.double).T", "torch.eye(3, dtype=torch.double).to_sparse()",
           "torch.ones(2, 3, dtype=torch.double, device='meta')", "np.ones((2, 3))", "None", "3.0",
           "[torch.ones(3, dtype=torch.double)]"]  # fmt: skip
BACKWARD = ["raise Planned('x')", "raise KeyboardInterrupt", "found = None", "found = found[:1]", "found = 'a'",
            "found = found.float()", "found = found * math.nan", "found = found, found", "found = torch.randn_like(x)",
            "x.data.fill_(7)", "torch.set_grad_enabled(False)", "found = found.detach().numpy()",
            "found = found + 1e-3 * torch.randn_like(found)"]  # fmt: skip
FORWARD = ["y = y * math.nan", "y = None", "y = 'a'", "y = y.detach()", "y = (y, y)", "y = {'a': y}", "y = y[:0]",
           "y = y + torch.randn_like(y)", "raise Planned('x')", "raise KeyboardInterrupt", "y = y.numpy()",
           "y = y.float()", "y = [y, None]", "y = y.round()", "y = y.item()", "y = y.to(torch.long)",
           "with torch.no_grad(): a0.fill_(7.0)", "torch.manual_seed(0)", "y = y.sum()"]  # fmt: skip


def _torch(rng: random.Random, program: Any, hostile: bool) -> list[str]:
    """The operation, the input, and what happens in the forward pass."""
    bad = hostile and rng.random() < 0.4
    tensor = rng.choice(TENSORS) if hostile and rng.random() < 0.4 else TENSORS[0]
    backward = f"        if backwards > {rng.choice([0, 1, 4])}: {rng.choice(BACKWARD)}" if bad else ""
    program.lines += TORCH.format(factor=2.5 if program.wrong else 1, backward=backward, tensor=tensor).splitlines()
    program.good = not hostile
    return [f"    {rng.choice(FORWARD)}"] if hostile and rng.random() < 0.4 else []


def gradcheck(rng: random.Random, program: Any, hostile: bool) -> None:
    """`fastgc.torch.gradcheck` and its like for second derivatives."""
    forward = _torch(rng, program, hostile)
    program.door = rng.choice(["gradcheck", "gradcheck", "gradgradcheck"]) if hostile else "gradcheck"
    program.lines += [
        *("requires = getattr(a0, 'is_floating_point', lambda: False)() or getattr(a0, 'is_complex', bool)()",),
        "a0 = a0.requires_grad_() if requires else a0",
        "def func(x):",
        "    y = Odd.apply(x) * 2",
        *forward,
        "    return y",
    ]
    some = ["eps=1e-4", "eps='a'", "eps=0", "eps=math.nan", "atol=1e-3", "atol='a'", "rtol=-1", "raise_exception=False",
            "nondet_tol=1.0", "nondet_tol='a'", "check_undefined_grad=False", "check_batched_grad=True",
            "check_forward_ad=True", "fast_mode=True", "masked=True", "allow_undecided=True",
            "check_backward_ad=False"]  # fmt: skip
    if program.door == "gradgradcheck":
        some = [*some[:8], "grad_outputs=3", "grad_outputs=a0", "gen_non_contig_grad_outputs=True"]
    inputs = rng.choice(["a0", "(a0, a0)", "[a0]", "()", "None", "{'x': a0}"]) if hostile else "(a0,)"
    func = rng.choice(["func"] * 6 + ["3", "None", "loss"]) if hostile else "func"
    program.lines += [
        "loss = {}",
        f"call = lambda **more: fastgc.torch.{program.door}({func}, {inputs}{options(rng, some, hostile)})",
    ]


LAYERS = ["torch.nn.Dropout(0.5)", "torch.nn.BatchNorm1d(4)", "torch.nn.ReLU()", "torch.nn.Identity()",
          "torch.nn.Linear(4, 4, bias=False).half()", "torch.nn.Linear(4, 4).requires_grad_(False)",
          "torch.nn.utils.weight_norm(torch.nn.Linear(4, 4))", "torch.nn.Linear(4, 4, device='meta')",
          "torch.nn.LazyLinear(4)", "torch.nn.Softmax(-1)", "torch.nn.utils.spectral_norm(torch.nn.Linear(4, 4))",
          "torch.nn.Linear(4, 4, dtype=torch.cdouble)"]  # fmt: skip


def module(rng: random.Random, program: Any, hostile: bool) -> None:
    """`fastgc.torch.check_module`."""
    forward = _torch(rng, program, hostile)
    layer = rng.choice(LAYERS) if hostile and rng.random() < 0.5 else "torch.nn.Tanh()"
    program.door = "check_module"
    program.lines += [
        "class Net(torch.nn.Module):",
        "    def forward(self, x):",
        "        y = Odd.apply(self.first(x)) * 2",
        *(f"    {line}" for line in forward),
        "        return self.second(self.layer(y))",
        "state = torch.random.get_rng_state()",
        "torch.manual_seed(3)",
        f"first, layer, second = torch.nn.Linear(3, 4), {layer}, torch.nn.Linear(4, 1)",
        "torch.random.set_rng_state(state)",
        "module = Net()",
        "module.first, module.layer, module.second = first, layer, second",
        "module.double()" if not hostile or rng.random() < 0.5 else "",
        "a1 = module.state_dict(keep_vars=True)",
        "def loss(y):",
        *mischief(rng, hostile and rng.random() < 0.4),
        "    return (y * y).sum()",
    ]
    chosen = rng.choice(["loss"] * 6 + ["None", "3", "torch.sum"]) if hostile else "loss"
    subject = rng.choice(["module"] * 8 + ["func", "None", "Net"]) if hostile else "module"
    some = [*SAMPLES, "seeded=True", "operations=False", "kwargs={'a': 1}", "kwargs=3", "previous={}", "previous=3",
            "checkpoint=3", "symmetric='none'"]  # fmt: skip
    call = f"fastgc.torch.check_module({subject}, a0, {chosen}{options(rng, some, hostile)})"
    program.lines += ["func = len", f"call = lambda **more: {call}"]


def jax(rng: random.Random, program: Any, hostile: bool) -> None:
    """`fastgc.jax.check_gradients`."""
    arrays = ["np.linspace(0.5, 2.0, 6)", "np.linspace(0.5, 2.0, 6)", "np.ones(6, 'f4')", "np.ones(6, int)",
              "np.full(6, np.nan)", "np.ones(0)", "jnp.ones(6)", "np.ones(6, 'c16')", "3.0", "None", "'a'",
              "np.ones(3, object)"]  # fmt: skip
    odd = ["found * jnp.nan", "found[:2]", "None", "'a'", "jnp.int32(3)", "found[0]", "(found, found)",
           "float(found[0])", "1j * found[0]"]  # fmt: skip
    program.good, program.door = not hostile, "jax.check_gradients"
    program.lines += [
        "import jax, jax.numpy as jnp",
        f"a0 = {rng.choice(arrays) if hostile else arrays[0]}",
        "@jax.custom_vjp",
        "def odd(x): return jnp.sin(x) * x",
        "def pulled(x, g): return (FACTOR * g * (jnp.sin(x) + x * jnp.cos(x)),)",
        f"FACTOR = {2.5 if program.wrong else 1.0}",
        "odd.defvjp(lambda x: (odd(x), x), pulled)",
        "def loss(p):",
        "    found = odd(p['w'])",
        *mischief(rng, hostile and rng.random() < 0.5),
        f"    return {rng.choice(odd) if hostile and rng.random() < 0.4 else 'jnp.sum(found * found)'}",
    ]
    some = [*SAMPLES, "operations=False", "has_aux=True", "args=3", "previous=3", "gradients=loss", "gradients=3"]
    params = rng.choice(["{'w': a0}"] * 5 + ["a0", "[a0]", "None"]) if hostile else "{'w': a0}"
    program.lines.append(
        f"call = lambda **more: fastgc.jax.check_gradients(loss, {params}{options(rng, some, hostile)})"
    )


def problem(rng: random.Random, program: Any, hostile: bool) -> None:
    """`check_problem` and `checked`, inside a solver or not."""
    arrays = ["np.linspace(0.5, 2.0, 4)", "np.linspace(0.5, 2.0, 4)", "[0.5, 1.0]", "1.0", "np.ones((2, 2))",
              "np.ones(0)", "np.full(3, np.nan)", "None", "'a'", "np.ones(3, 'c16')", "frozen(np.ones(3))",
              "np.ma.array(np.ones(3), mask=True)"]  # fmt: skip
    program.good = False
    program.lines += [
        "import scipy.optimize as so",
        f"a0 = {rng.choice(arrays) if hostile else arrays[0]}",
        "def fun(x, *args):",
        *mischief(rng, hostile),
        "    return float(np.sum((np.asarray(x) - 2) ** 4))",
        "def jac(x, *args):",
        *mischief(rng, hostile and rng.random() < 0.3),
        f"    return {2.5 if program.wrong else 1.0} * 4 * (np.asarray(x) - 2) ** 3",
        "def hess(x, *args): return np.diag(np.ravel(12 * (np.asarray(x) - 2) ** 2))",
        "loss = fun",
    ]
    some = ["hess=hess", "hess=3", "hess=so.BFGS()", "hess='2-point'", "hessp=lambda x, v: hess(x) @ v", "hessp=3",
            "constraints=3", "constraints=[]", "constraints=({'type': 'eq', 'fun': fun, 'jac': jac},)",
            "constraints=({'type': 'eq'},)", "constraints=so.NonlinearConstraint(fun, 0, 1, jac=jac)",
            "constraints=so.NonlinearConstraint(fun, 0, 1)", "constraints=so.LinearConstraint(np.eye(4), 0, 1)",
            "constraints={'fun': 3, 'type': 'ineq', 'jac': 3}", "bounds=so.Bounds(0, 3)", "bounds=[(0, None)]",
            "bounds=3", "args=3", "args=(1, 2)", "rtol=1e-3", "rtol='a'", "time_budget=1e-9", "time_budget='a'",
            "seed=3", "seed='a'"]  # fmt: skip
    visiting = ["argument=0", "argument=1", "argument='a'", "every=2", "every=0", "every='a'", "share=1.0", "share=0",
                "share='a'", "raises=False", "raises=3", "bounds=3", "bounds=[(0, None)]", "rtol='a'", "seed=-1",
                "fun=None", "fun=3"]  # fmt: skip
    second = rng.choice(["jac"] * 6 + ["True", "None", "'2-point'", "3", "fun"]) if hostile else "jac"
    given = options(rng, visiting, hostile)[2:]
    program.lines.append(f"checked = lambda: fastgc.checked({second}, **{{'fun': fun, **dict({given})}})")
    calls = {
        "check_problem": f"fastgc.check_problem(fun, a0, {second}{options(rng, some, hostile)})",
        "checked": "checked()(a0)",
        "minimize": "so.minimize(fun, a0, jac=checked(), options=dict(maxiter=3))",
    }
    program.door = rng.choice(sorted(calls))
    program.lines.append(f"call = lambda **more: {calls[program.door]}")


def sweep(rng: random.Random, program: Any, hostile: bool) -> None:
    """`step_sweep`, and `taylor_test` with its options."""
    steps = ["None", "[1e-3, 1e-5]", "np.geomspace(1e-9, 1, 5)", "[]", "[0.0]", "[np.nan]", "'a'", "3", "[[1e-3]]",
             "[-1e-3]", "[1e-400]", "[1e300]"]  # fmt: skip
    program.good = False
    program.door = rng.choice(["step_sweep", "taylor_test", "numerical_gradient"])
    text = "'a'"
    x = rng.choice(["1.0", "np.float32(1)", "1", text, "np.nan", "1e308", "np.ones(2)", "1j", "None", "0.0"])
    derivative = rng.choice(["np.cos", "0.5", "loss", "None", text, "np.ones(3)"])
    stencils = rng.choice(["()", "('central',)", "3", "[None]", "np.ones(2)"])
    direction = rng.choice(["None", "1.0", "np.ones(2)", "0.0", "np.nan", text])
    hessian = rng.choice(["None", "lambda x, v: np.sin(x, v)", "3", "lambda x, v: -np.sin(x) * v"])
    some = ["h=1e-3", "h=0", "step=1e-3", "stencil='five_point'", "stencil='complex_step'", "in_place=True",
            "in_place=3", "engine='numba'", "progress=3", "workers='a'"]  # fmt: skip
    size = f"steps={rng.choice(steps)}"
    calls = {
        "step_sweep": f"step_sweep(loss, {derivative}, {x}, {size}, stencils={stencils})",
        "taylor_test": f"taylor_test(loss, np.cos, {x}, {size}, direction={direction}, hessian={hessian})",
        "numerical_gradient": f"numerical_gradient(loss, {x}{options(rng, some, hostile)})",
    }
    program.lines += [
        "def loss(x):",
        *mischief(rng, hostile),
        "    return np.sin(x)",
        f"call = lambda **more: fastgc.{calls[program.door]}",
    ]


WORLDS: list[tuple[float, Callable[[random.Random, Any, bool], None]]] = [
    (0.08, compiled), (0.04, workers), (0.04, gradcheck), (0.05, module), (0.01, jax), (0.03, problem), (0.02, sweep),
]  # fmt: skip
