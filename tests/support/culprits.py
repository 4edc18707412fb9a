"""Networks with one wrong operation each, and their right twins: MLP, CNN, LSTM, transformer, U-Net, flow, graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

Pair = tuple[nn.Module, Any]  # a network and its inputs


# --- autograd Functions: with ``wrong`` their backward is wrong, on purpose ---


class Gelu(torch.autograd.Function):
    """Wrong by a factor of 2."""

    @staticmethod
    def forward(ctx: Any, x: Any, wrong: bool) -> Any:
        ctx.save_for_backward(x)
        ctx.factor = 2.0 if wrong else 1.0
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        density = torch.exp(-x * x / 2) / (2 * math.pi) ** 0.5
        return ctx.factor * g * (0.5 * (1 + torch.erf(x / 2**0.5)) + x * density), None


gelu = Gelu.apply  # kept at import, as many programs do


class Tanh(torch.autograd.Function):
    """In the newer style, with a context that is set up afterwards; wrong in the sign of one term."""

    @staticmethod
    def forward(x: Any, wrong: bool) -> Any:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)
        ctx.sign = 1.0 if inputs[1] else -1.0

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved_tensors
        return g * (1 + ctx.sign * y * y), None


class Linear(torch.autograd.Function):
    """Wrong in one entry of the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any, wrong: bool) -> Any:
        ctx.save_for_backward(x, w)
        ctx.factor = 1.5 if wrong else 1.0
        return x @ w.T + b

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        dw = torch.einsum("...i,...j->ij", g, x)
        dw[-1, -1] *= ctx.factor
        return g @ w, dw, g.reshape(-1, g.shape[-1]).sum(0), None


class Softmax(torch.autograd.Function):
    """Wrong: it forgets that the outputs add up to 1."""

    @staticmethod
    def forward(ctx: Any, x: Any, wrong: bool) -> Any:
        y = torch.softmax(x, -1)
        ctx.save_for_backward(y)
        ctx.wrong = wrong
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved_tensors
        inner = 0.0 if ctx.wrong else (g * y).sum(-1, keepdim=True)
        return y * (g - inner), None


class Normalise(torch.autograd.Function):
    """A layer normalisation; wrong: the derivative by way of the variance is forgotten."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any, wrong: bool) -> Any:
        scale = (x.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt()
        y = (x - x.mean(-1, keepdim=True)) * scale
        ctx.save_for_backward(y, scale, w)
        ctx.wrong = wrong
        return y * w + b

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        y, scale, w = ctx.saved_tensors
        gw = g * w
        gx = gw - gw.mean(-1, keepdim=True)
        if not ctx.wrong:
            gx = gx - y * (gw * y).mean(-1, keepdim=True)
        flat = g.reshape(-1, g.shape[-1])
        return gx * scale, (flat * y.reshape(flat.shape)).sum(0), flat.sum(0), None


class Convolve(torch.autograd.Function):
    """Wrong: the kernel's gradient is flipped."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, wrong: bool) -> Any:
        ctx.save_for_backward(x, w)
        ctx.wrong = wrong
        return F.conv2d(x, w, padding=1)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, w, g, padding=1)
        dw = torch.nn.grad.conv2d_weight(x, w.shape, g, padding=1)
        return dx, dw.flip(-1) if ctx.wrong else dw, None


class Pool(torch.autograd.Function):
    """Means of squares of 2 by 2; wrong: not divided by 4."""

    @staticmethod
    def forward(ctx: Any, x: Any, wrong: bool) -> Any:
        ctx.share = 1.0 if wrong else 0.25
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return ctx.share * F.interpolate(g, scale_factor=2), None


class Clip(torch.autograd.Function):
    """Writes to its input; wrong: the gradient passes where the value was clipped."""

    @staticmethod
    def forward(ctx: Any, x: Any, wrong: bool) -> Any:
        ctx.save_for_backward(x.abs() < 0.3)
        ctx.wrong = wrong
        ctx.mark_dirty(x)
        return x.clamp_(-0.3, 0.3)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return g if ctx.wrong else g * inside, None


class Cell(torch.autograd.Function):
    """The elementwise part of an LSTM, with two outputs; wrong: the forget gate is left out."""

    @staticmethod
    def forward(ctx: Any, gates: Any, c: Any, wrong: bool) -> Any:
        i, f, o = torch.sigmoid(gates[..., :-1]).unbind(-1)
        a = torch.tanh(gates[..., -1])
        new = f * c + i * a
        ctx.save_for_backward(i, f, o, a, c, new)
        ctx.wrong = wrong
        return o * torch.tanh(new), new

    @staticmethod
    def backward(ctx: Any, gh: Any, gc: Any) -> Any:
        i, f, o, a, c, new = ctx.saved_tensors
        t = torch.tanh(new)
        gn = gc + gh * o * (1 - t * t)
        parts = [gn * a * i * (1 - i), gn * c * f * (1 - f), gh * t * o * (1 - o), gn * i * (1 - a * a)]
        return torch.stack(parts, -1), gn if ctx.wrong else gn * f, None


class Scores(torch.autograd.Function):
    """Queries times keys; wrong: the keys' gradient is not scaled."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, wrong: bool) -> Any:
        ctx.save_for_backward(q, k)
        ctx.wrong = wrong
        return q @ k.mT / q.shape[-1] ** 0.5

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        q, k = ctx.saved_tensors
        share = q.shape[-1] ** -0.5
        return share * (g @ k), (1.0 if ctx.wrong else share) * (g.mT @ q), None


class Couple(torch.autograd.Function):
    """An affine coupling and its log-determinant; wrong: the latter's gradient is left out."""

    @staticmethod
    def forward(ctx: Any, x: Any, s: Any, t: Any, wrong: bool) -> Any:
        ctx.save_for_backward(x, s)
        ctx.wrong = wrong
        return x * torch.exp(s) + t, s.sum(-1)

    @staticmethod
    def backward(ctx: Any, gy: Any, gdet: Any) -> Any:
        x, s = ctx.saved_tensors
        gs = gy * x * torch.exp(s)
        return gy * torch.exp(s), gs if ctx.wrong else gs + gdet[..., None], gy, None


class Gather(torch.autograd.Function):
    """Means of the neighbours' features; wrong: sums are passed back."""

    @staticmethod
    def forward(ctx: Any, x: Any, edges: Any, wrong: bool) -> Any:
        degree = torch.bincount(edges[1], minlength=len(x)).clamp(min=1).to(x)[:, None]
        ctx.save_for_backward(edges, degree)
        ctx.wrong = wrong
        return torch.zeros_like(x).index_add_(0, edges[1], x[edges[0]]) / degree

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        edges, degree = ctx.saved_tensors
        share = g if ctx.wrong else g / degree
        return torch.zeros_like(g).index_add_(0, edges[0], share[edges[1]]), None, None


class Half(torch.autograd.Function):
    """Wrong: half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g / 2


def halved(output: Any) -> Any:
    """A loss that is wrong by itself."""
    floating = [each for each in tree_leaves(output) if each.is_floating_point()]
    return Half.apply(sum(torch.sin(each + 0.1 * k).square().sum() for k, each in enumerate(floating)))


# --- modules: with ``wrong`` their gradient is wrong, on purpose ---


class Act(nn.Module):
    def __init__(self, function: Callable[..., Any], wrong: bool = False) -> None:
        super().__init__()
        self.function, self.wrong = function, wrong

    def forward(self, x: Any) -> Any:
        return self.function(x, self.wrong)


class Dense(nn.Module):
    def __init__(self, n: int, m: int, wrong: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(m, n) / n**0.5), nn.Parameter(torch.randn(m) / 4)
        self.wrong = wrong

    def forward(self, x: Any) -> Any:
        return Linear.apply(x, self.weight, self.bias, self.wrong)


class Norm(nn.Module):
    def __init__(self, n: int, wrong: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.wrong = nn.Parameter(1 + torch.randn(n) / 4), nn.Parameter(torch.randn(n)), wrong

    def forward(self, x: Any) -> Any:
        return Normalise.apply(x, self.weight, self.bias, self.wrong)


class RmsNorm(nn.Module):
    """Without a Function; wrong: the root mean square is detached."""

    def __init__(self, n: int, wrong: bool = False) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(1 + torch.randn(n) / 4), wrong

    def forward(self, x: Any) -> Any:
        scale = (x * x).mean(-1, keepdim=True).sqrt()
        return x / (scale.detach() if self.wrong else scale) * self.weight


class Gain(nn.Module):
    """Wrong: the parameter's gradient is left out, as with ``.data``."""

    def __init__(self, n: int, wrong: bool = False) -> None:
        super().__init__()
        self.gain, self.wrong = nn.Parameter(torch.randn(n)), wrong

    def forward(self, x: Any) -> Any:
        gain = self.gain.detach() if self.wrong else self.gain
        return x * gain + torch.tanh(self.gain)


class Halved(nn.Module):
    """A hook on the output; wrong: it halves the gradient."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.share = 0.5 if wrong else 1.0

    def forward(self, x: Any) -> Any:
        y = torch.sin(x)
        if y.requires_grad:
            y.register_hook(lambda g: self.share * g)
        return y


class Residual(nn.Module):
    """Wrong: the branch sees a detached input, though all that it is made of is right."""

    def __init__(self, *branch: nn.Module, wrong: bool = False) -> None:
        super().__init__()
        self.branch, self.wrong = nn.Sequential(*branch), wrong

    def forward(self, x: Any) -> Any:
        return x + self.branch(x.detach() if self.wrong else x)


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False)


class Conv(nn.Module):
    def __init__(self, n: int, m: int, wrong: bool = False) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.randn(m, n, 3, 3) / 3 / n**0.5), wrong

    def forward(self, x: Any) -> Any:
        return Convolve.apply(x, self.weight, self.wrong)


# --- networks ---


def mlp(wrong: bool, place: str, widths: tuple[int, ...] = (4, 6, 6, 3)) -> Pair:
    layers: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(widths)):
        at = partial(_at, wrong, place, i)
        layers += [Dense(n, m, at("dense")), Act(gelu, at("gelu")), RmsNorm(m, at("rms")), Gain(m, at("gain"))]
        layers += [Halved(at("halved")), Residual(nn.Linear(m, m), nn.Tanh(), wrong=at("residual"))]
    return nn.Sequential(*layers), torch.randn(3, widths[0])


def _at(wrong: bool, place: str, number: int, name: str) -> bool:
    return wrong and place == f"{name}{number}"


class Cnn(nn.Module):
    def __init__(self, wrong: bool, place: str, depth: int, channels: int) -> None:
        super().__init__()
        sizes = [2, *[channels] * depth]
        self.stages = nn.ModuleList(
            nn.Sequential(
                Conv(sizes[i], sizes[i + 1], _at(wrong, place, i, "conv")),
                nn.BatchNorm2d(sizes[i + 1]),
                Act(Clip.apply, _at(wrong, place, i, "clip")),
                Act(Tanh.apply, _at(wrong, place, i, "tanh")),
            )
            for i in range(depth)
        )
        self.pool = Act(Pool.apply, _at(wrong, place, 0, "pool"))
        self.head = nn.LazyLinear(3)

    def forward(self, x: Any) -> Any:
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(x).flatten(1))


def cnn(wrong: bool, place: str, depth: int = 2, channels: int = 3) -> Pair:
    net, x = Cnn(wrong, place, depth, channels), torch.randn(2, 2, 4, 4)
    net(x)
    return net, x


class Lstm(nn.Module):
    """Steps in a loop; ``wrong`` may be the number of the one step that is wrong."""

    def __init__(self, wrong: bool, place: str, n: int, step: int | None) -> None:
        super().__init__()
        self.n, self.step = n, step
        self.gates = Dense(2 * n, 4 * n, _at(wrong, place, 0, "dense"))
        self.wrong = _at(wrong, place, 0, "cell")
        self.head = nn.Sequential(Act(Softmax.apply, _at(wrong, place, 0, "softmax")), Dense(n, 2))

    def forward(self, x: Any) -> dict[str, Any]:
        h = c = torch.zeros(x.shape[1], self.n, dtype=x.dtype)
        states = []
        for k, each in enumerate(x):
            gates = self.gates(torch.cat([each, h], -1)).unflatten(-1, (self.n, 4))
            h, c = Cell.apply(gates, c, self.wrong and self.step in (None, k))
            states.append(h)
        return {"last": self.head(h), "states": (torch.stack(states), [c])}


def lstm(wrong: bool, place: str, n: int = 3, steps: int = 4, step: int | None = None) -> Pair:
    return Lstm(wrong, place, n, step), (torch.randn(steps, 2, n),)


class Attention(nn.Module):
    def __init__(self, n: int, wrong: Callable[[str], bool]) -> None:
        super().__init__()
        self.project, self.out = Dense(n, 3 * n), Dense(n, n, wrong("out"))
        self.softmax = Act(Softmax.apply, wrong("softmax"))
        self.wrong = wrong("scores")

    def forward(self, x: Any, *, mask: Any) -> tuple[Any, Any]:
        q, k, v = self.project(x).chunk(3, -1)
        scores = Scores.apply(q, k, self.wrong).masked_fill(mask, -30.0)
        weights = self.softmax(scores)
        return self.out(weights @ v), weights


class Layer(nn.Module):
    def __init__(self, n: int, wrong: Callable[[str], bool]) -> None:
        super().__init__()
        self.norm, self.attention, self.drop = Norm(n, wrong("norm")), Attention(n, wrong), nn.Dropout(0.2)
        self.mlp = Residual(Norm(n), Dense(n, 2 * n), Act(gelu, wrong("gelu")), nn.Linear(2 * n, n))

    def forward(self, x: Any, mask: Any) -> Any:
        found, _ = self.attention(self.norm(x), mask=mask)
        return self.mlp(x + self.drop(found))


class Transformer(nn.Module):
    def __init__(self, wrong: bool, place: str, n: int, depth: int, saves: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, n)
        self.blocks = nn.ModuleList(Layer(n, partial(_at, wrong, place, i)) for i in range(depth))
        self.saves = saves

    def forward(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        mask = torch.ones(len(x[0]), len(x[0]), dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = checkpoint(block, x, mask, use_reentrant=False) if self.saves else block(x, mask)
        return x


def transformer(wrong: bool, place: str, n: int = 4, depth: int = 2, saves: bool = False) -> Pair:
    return Transformer(wrong, place, n, depth, saves).eval(), {"tokens": torch.randint(7, (2, 3))}


class Unet(nn.Module):
    def __init__(self, wrong: bool, place: str, channels: int) -> None:
        super().__init__()
        at, c = partial(_at, wrong, place, 0), channels
        self.down = nn.Sequential(Conv(1, c, at("down")), Act(gelu, at("gelu")))
        self.pool = Act(Pool.apply, at("pool"))
        self.middle = Residual(Conv(c, c, at("middle")), nn.GroupNorm(1, c), nn.SiLU(), wrong=at("residual"))
        self.up = nn.ConvTranspose2d(c, c, 2, stride=2)
        self.merge = Conv(2 * c, 1)

    def forward(self, x: Any) -> Any:
        skip = self.down(x)
        return self.merge(torch.cat([skip, self.up(self.middle(self.pool(skip)))], 1))


def unet(wrong: bool, place: str, channels: int = 2, size: int = 4) -> Pair:
    return Unet(wrong, place, channels), torch.randn(2, 1, size, size)


class Flow(nn.Module):
    def __init__(self, wrong: bool, place: str, n: int, depth: int) -> None:
        super().__init__()
        self.n, self.wrong = n, [_at(wrong, place, i, "couple") for i in range(depth)]
        self.nets = nn.ModuleList(
            nn.Sequential(Dense(n, 5, _at(wrong, place, i, "dense")), Act(Tanh.apply, _at(wrong, place, i, "tanh")),
                          RmsNorm(5, _at(wrong, place, i, "rms")), nn.Linear(5, 2 * n))
            for i in range(depth)
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        a, b = x.chunk(2, -1)
        total = torch.zeros(len(x), dtype=x.dtype)
        for net, wrong in zip(self.nets, self.wrong, strict=True):
            s, t = net(a).chunk(2, -1)
            b, determinant = Couple.apply(b, torch.tanh(s), t, wrong)
            total = total + determinant
            a, b = b, a
        return {"z": (a, b), "log_determinant": total}


def flow(wrong: bool, place: str, n: int = 2, depth: int = 3) -> Pair:
    return Flow(wrong, place, n, depth), torch.randn(4, 2 * n)


class Graph(nn.Module):
    def __init__(self, wrong: bool, place: str, n: int, depth: int) -> None:
        super().__init__()
        self.wrong = [_at(wrong, place, i, "gather") for i in range(depth)]
        self.updates = nn.ModuleList(
            nn.Sequential(Dense(2 * n, n, _at(wrong, place, i, "dense")), Act(gelu, _at(wrong, place, i, "gelu")))
            for i in range(depth)
        )
        self.gain = Gain(n, _at(wrong, place, 0, "gain"))

    def forward(self, batch: dict[str, Any]) -> Any:
        x, edges = batch["x"], batch["edges"]
        for update, wrong in zip(self.updates, self.wrong, strict=True):
            x = x + update(torch.cat([x, Gather.apply(x, edges, wrong)], -1))
        return self.gain(x)


def graph(wrong: bool, place: str, n: int = 3, depth: int = 2) -> Pair:
    return Graph(wrong, place, n, depth), ({"x": torch.randn(5, n), "edges": torch.randint(5, (2, 9))},)


# --- all ---


@dataclass(frozen=True)
class Culprit:
    """A network, and where it is wrong: the operation's path, its rule, and the argument."""

    build: Callable[..., Pair]
    place: str
    path: str
    rule: str
    argument: str
    options: dict[str, Any]
    seeded: bool = False

    def __str__(self) -> str:
        return f"{self.build.__name__}-{self.place}" + "".join(f"-{key}{value}" for key, value in self.options.items())

    def network(self, *, wrong: bool) -> Pair:
        """The wrong network, or its right twin."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net, inputs = self.build(wrong, self.place, **self.options)
            return net.train(self.seeded or net.training), inputs


def _c(build: Callable[..., Pair], place: str, path: str, rule: str, argument: str, **options: Any) -> Culprit:
    seeded = options.pop("seeded", False)
    if "." not in rule:
        rule = f"the backward pass of {rule}"
    return Culprit(build, place, path, rule, argument, options, seeded)


WIDE = (5, 9, 7, 8, 2)
CULPRITS = [
    _c(mlp, "gelu0", "1", "Gelu.backward", "input 0"),
    _c(mlp, "dense1", "6", "Linear.backward", "input 1"),
    _c(mlp, "rms1", "8", "RmsNorm", "input 0"),
    _c(mlp, "gain2", "15", "Gain", "parameter gain"),
    _c(mlp, "halved1", "10", "Halved", "input 0"),
    _c(mlp, "residual1", "11", "Residual", "input 0"),
    _c(mlp, "gelu3", "19", "Gelu.backward", "input 0", widths=WIDE),
    _c(cnn, "conv0", "stages.0.0", "Convolve.backward", "input 1"),
    _c(cnn, "conv1", "stages.1.0", "Convolve.backward", "input 1", channels=4),
    _c(cnn, "clip1", "stages.1.2", "Clip.backward", "input 0"),
    _c(cnn, "tanh0", "stages.0.3", "Tanh.backward", "input 0", depth=3),
    _c(cnn, "pool0", "pool", "Pool.backward", "input 0"),
    _c(cnn, "clip0", "stages.0.2", "Clip.backward", "input 0", channels=5, depth=1),
    _c(lstm, "cell0", "", "Cell.backward", "input 1"),
    _c(lstm, "cell0", "", "Cell.backward", "input 1", step=2),
    _c(lstm, "dense0", "gates", "Linear.backward", "input 1"),
    _c(lstm, "softmax0", "head.0", "Softmax.backward", "input 0"),
    _c(lstm, "cell0", "", "Cell.backward", "input 1", n=5, steps=7),
    _c(transformer, "norm0", "blocks.0.norm", "Normalise.backward", "input 0"),
    _c(transformer, "scores1", "blocks.1.attention", "Scores.backward", "input 1"),
    _c(transformer, "softmax0", "blocks.0.attention.softmax", "Softmax.backward", "input 0"),
    _c(transformer, "out1", "blocks.1.attention.out", "Linear.backward", "input 1"),
    _c(transformer, "gelu1", "blocks.1.mlp.branch.2", "Gelu.backward", "input 0", saves=True),
    _c(transformer, "scores0", "blocks.0.attention", "Scores.backward", "input 1", saves=True, n=6),
    _c(transformer, "norm2", "blocks.2.norm", "Normalise.backward", "input 0", depth=3, seeded=True),
    _c(unet, "down0", "down.0", "Convolve.backward", "input 1"),
    _c(unet, "gelu0", "down.1", "Gelu.backward", "input 0"),
    _c(unet, "pool0", "pool", "Pool.backward", "input 0", channels=3),
    _c(unet, "middle0", "middle.branch.0", "Convolve.backward", "input 1"),
    _c(unet, "residual0", "middle", "Residual", "input 0", channels=3, size=6),
    _c(flow, "couple0", "", "Couple.backward", "input 1"),
    _c(flow, "couple2", "", "Couple.backward", "input 1", n=3),
    _c(flow, "tanh1", "nets.1.1", "Tanh.backward", "input 0"),
    _c(flow, "rms2", "nets.2.2", "RmsNorm", "input 0", depth=4),
    _c(flow, "dense1", "nets.1.0", "Linear.backward", "input 1", n=3),
    _c(graph, "gather0", "", "Gather.backward", "input 0"),
    _c(graph, "gather1", "", "Gather.backward", "input 0", n=5, depth=3),
    _c(graph, "dense0", "updates.0.0", "Linear.backward", "input 1"),
    _c(graph, "gelu1", "updates.1.1", "Gelu.backward", "input 0"),
    _c(graph, "gain0", "gain", "Gain", "parameter gain", n=4),
]
