"""Operations of torch.nn.functional and torch.linalg with inputs, and ways to make their backward wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, linalg

Make = Callable[[torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operation:
    """A function of tensors, and makers of its inputs, all of which require grad."""

    name: str
    function: Callable[..., Any]
    makers: tuple[Make, ...]

    def inputs(self) -> Iterator[tuple[Tensor, ...]]:
        """Several inputs, the same in every run."""
        for k, make in enumerate(self.makers):
            generator = torch.Generator().manual_seed(1000 + k)
            yield tuple(each.detach().requires_grad_() for each in make(generator))


# --- inputs ---


def normal(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Make:
    return lambda g: tuple(torch.randn(shape, generator=g, dtype=dtype) for shape in shapes)


def positive(*shapes: tuple[int, ...]) -> Make:
    return lambda g: tuple(torch.rand(shape, generator=g, dtype=torch.float64) * 2 + 0.2 for shape in shapes)


def unit(*shapes: tuple[int, ...]) -> Make:
    return lambda g: tuple(torch.rand(shape, generator=g, dtype=torch.float64) * 0.8 + 0.1 for shape in shapes)


def definite(n: int, *batch: int, dtype: torch.dtype = torch.float64) -> Make:
    def make(g: torch.Generator) -> tuple[Tensor, ...]:
        a = torch.randn((*batch, n, n), generator=g, dtype=dtype)
        return (a @ a.mH + n * torch.eye(n, dtype=dtype),)

    return make


def regular(n: int, *others: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Make:
    def make(g: torch.Generator) -> tuple[Tensor, ...]:
        a = torch.randn((n, n), generator=g, dtype=dtype) + n * torch.eye(n, dtype=dtype)
        return (a, *(torch.randn(shape, generator=g, dtype=dtype) for shape in others))

    return make


COMPLEX = torch.complex128
FLAT = (normal((5,)), normal((2, 3)), normal(()))
IMAGE1 = (normal((1, 2, 8)), normal((2, 2, 7)))
IMAGE2 = (normal((1, 2, 5, 6)), normal((2, 1, 6, 5)))
IMAGE3 = (normal((1, 1, 4, 4, 5)), normal((1, 2, 4, 4, 4)))
MATRIX = (normal((3, 5)), normal((4, 3)))
PAIR = (normal((4, 3), (4, 3)), normal((2, 5), (2, 5)))
SQUARE = (regular(3), regular(4))
HERMITIAN = (definite(3), definite(4))


def sym(a: Tensor) -> Tensor:
    return (a + a.mH) / 2


def labels(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0]) % x.shape[1]


def signs(x: Tensor) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(x.numel()) % 2).reshape(x.shape).to(torch.float64)


def const(*shape: int) -> Tensor:
    """Fixed numbers that are no argument under test."""
    return torch.linspace(-0.9, 1.1, max(1, torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)


def op(name: str, function: Callable[..., Any], *makers: Make) -> Operation:
    return Operation(name, function, makers)


ELEMENTWISE = [
    op(f"F.{name}", getattr(F, name), *FLAT)
    for name in (
        "relu", "relu6", "elu", "selu", "celu", "leaky_relu", "rrelu", "gelu", "logsigmoid", "hardshrink", "tanhshrink",
        "softsign", "softplus", "softshrink", "tanh", "sigmoid", "hardsigmoid", "silu", "mish", "hardswish", "hardtanh",
    )
]  # fmt: skip

ACTIVATIONS = [
    op("F.gelu tanh", lambda x: F.gelu(x, approximate="tanh"), *FLAT),
    op("F.threshold", lambda x: F.threshold(x, 0.1, 20.0), *FLAT),
    op("F.softplus beta", lambda x: F.softplus(x, beta=3.0, threshold=2.0), *FLAT),
    op("F.prelu", F.prelu, normal((2, 3, 4), (3,)), normal((4, 2), (1,))),
    op("F.glu", F.glu, normal((6,)), normal((2, 4))),
    op("F.softmin", lambda x: F.softmin(x, -1), *MATRIX),
    op("F.softmax", lambda x: F.softmax(x, -1), *MATRIX),
    op("F.softmax dim 0", lambda x: F.softmax(x, 0), *MATRIX),
    op("F.log_softmax", lambda x: F.log_softmax(x, -1), *MATRIX),
    op("F.normalize", lambda x: F.normalize(x, dim=-1), *MATRIX),
    op("F.normalize p=1", lambda x: F.normalize(x, p=1.0, dim=0), *MATRIX),
    op("F.dropout eval", lambda x: F.dropout(x, 0.5, training=False), *FLAT),
    op("F.alpha_dropout eval", lambda x: F.alpha_dropout(x, 0.5, training=False), *FLAT),
    op("F.feature_alpha_dropout eval", lambda x: F.feature_alpha_dropout(x, 0.5, training=False), *MATRIX),
    op("F.dropout1d eval", lambda x: F.dropout1d(x, 0.5, training=False), *IMAGE1),
    op("F.dropout2d eval", lambda x: F.dropout2d(x, 0.5, training=False), *IMAGE2),
    op("F.dropout3d eval", lambda x: F.dropout3d(x, 0.5, training=False), *IMAGE3),
]

NORMS = [
    op("F.layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b), normal((3, 4), (4,), (4,))),
    op("F.layer_norm plain", lambda x: F.layer_norm(x, x.shape[1:]), *MATRIX),
    op("F.rms_norm", lambda x, w: F.rms_norm(x, (4,), w), normal((3, 4), (4,)), normal((2, 2, 4), (4,))),
    op("F.group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), normal((2, 4, 3), (4,), (4,))),
    op("F.instance_norm", lambda x: F.instance_norm(x), normal((2, 3, 5)), normal((1, 2, 3, 3))),
    op("F.batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), normal((5, 3), (3,), (3,))),
    op("F.batch_norm eval", lambda x: F.batch_norm(x, const(x.shape[1]), const(x.shape[1]) ** 2 + 0.5), *MATRIX),
    op("F.local_response_norm", lambda x: F.local_response_norm(x, 2), normal((1, 4, 5)), normal((2, 3, 4))),
    op("F.cosine_similarity", F.cosine_similarity, *PAIR),
    op("F.pairwise_distance", F.pairwise_distance, *PAIR),
    op("F.pdist", F.pdist, normal((4, 3)), normal((3, 2))),
]

CONVOLUTIONS = [
    op("F.conv1d", F.conv1d, normal((1, 2, 7), (3, 2, 3), (3,)), normal((2, 1, 5), (2, 1, 2), (2,))),
    op("F.conv2d", F.conv2d, normal((1, 2, 5, 5), (2, 2, 3, 3), (2,))),
    op("F.conv2d strided", lambda x, w: F.conv2d(x, w, stride=2, padding=1), normal((1, 1, 4, 5), (2, 1, 3, 3))),
    op("F.conv2d grouped", lambda x, w: F.conv2d(x, w, groups=2, dilation=2), normal((1, 2, 5, 5), (2, 1, 2, 2))),
    op("F.conv3d", F.conv3d, normal((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), (2,))),
    op("F.conv_transpose1d", F.conv_transpose1d, normal((1, 2, 4), (2, 2, 3), (2,))),
    op("F.conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, stride=2), normal((1, 2, 3, 3), (2, 1, 2, 3))),
    op("F.conv_transpose3d", F.conv_transpose3d, normal((1, 1, 2, 3, 2), (1, 2, 2, 2, 2), (2,))),
    op("F.conv_tbc", lambda x, w, b: torch.conv_tbc(x, w, b), normal((4, 2, 3), (2, 3, 2), (2,))),
    op("F.unfold", lambda x: F.unfold(x, 2), *IMAGE2),
    op("F.fold", lambda x: F.fold(x, (4, 5), 2), normal((1, 4, 12)), normal((2, 4, 12))),
    op("F.linear", F.linear, normal((3, 4), (2, 4), (2,)), normal((4,), (3, 4), (3,))),
    op("F.linear square", lambda x, w: F.linear(x, w), normal((2, 3), (3, 3))),
    op("F.bilinear", F.bilinear, normal((2, 3), (2, 2), (2, 3, 2), (2,))),
    op("F.embedding", lambda w: F.embedding(torch.tensor([0, 2, 2, 1]), w), *MATRIX),
    op("F.embedding_bag", lambda w: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), w), *MATRIX),
    op("F.embedding_bag sum", lambda w: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), w, mode="sum"), *MATRIX),
    op("F.embedding_bag max", lambda w: F.embedding_bag(torch.tensor([[0, 2], [2, 1]]), w, mode="max"), *MATRIX),
]

POOLS = [
    op("F.avg_pool1d", lambda x: F.avg_pool1d(x, 2), *IMAGE1),
    op("F.avg_pool2d", lambda x: F.avg_pool2d(x, 2, padding=1), *IMAGE2),
    op("F.avg_pool3d", lambda x: F.avg_pool3d(x, 2), *IMAGE3),
    op("F.max_pool1d", lambda x: F.max_pool1d(x, 2), *IMAGE1),
    op("F.max_pool2d", lambda x: F.max_pool2d(x, 3, stride=1), *IMAGE2),
    op("F.max_pool3d", lambda x: F.max_pool3d(x, 2), *IMAGE3),
    op("F.lp_pool1d", lambda x: F.lp_pool1d(x, 2, 2), *IMAGE1),
    op("F.lp_pool2d", lambda x: F.lp_pool2d(x, 2, 2), *IMAGE2),
    op("F.lp_pool3d", lambda x: F.lp_pool3d(x, 2, 2), *IMAGE3),
    op("F.adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 3), *IMAGE1),
    op("F.adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 2), *IMAGE2),
    op("F.adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 2), *IMAGE3),
    op("F.adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x, 3), *IMAGE1),
    op("F.adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 2), *IMAGE2),
    op("F.adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, 2), *IMAGE3),
    op(
        "F.fractional_max_pool2d",
        lambda x: F.fractional_max_pool2d(x, 2, 3, _random_samples=torch.full((*x.shape[:2], 2), 0.4).double()),
        *IMAGE2,
    ),
    op("F.max_unpool1d", lambda x: F.max_unpool1d(x, torch.tensor([[[1, 2], [0, 3]]]), 2), normal((1, 2, 2))),
    op("F.max_unpool2d", lambda x: F.max_unpool2d(x, torch.tensor([[[[0, 3], [8, 15]]]]), 2), normal((1, 1, 2, 2))),
]

LOSSES = [
    op("F.binary_cross_entropy", lambda p: F.binary_cross_entropy(p, (signs(p) + 1) / 2), unit((5,)), unit((2, 3))),
    op("F.bce_with_logits", lambda x: F.binary_cross_entropy_with_logits(x, (signs(x) + 1) / 2), *FLAT[:2]),
    op("F.bce both", F.binary_cross_entropy, unit((4,), (4,)), unit((2, 2), (2, 2))),
    op("F.poisson_nll_loss", F.poisson_nll_loss, normal((4,), (4,)), normal((2, 3), (2, 3))),
    op("F.cosine_embedding_loss", lambda a, b: F.cosine_embedding_loss(a, b, signs(a[:, 0]), margin=-0.5), *PAIR),
    op("F.cross_entropy", lambda x: F.cross_entropy(x, labels(x)), *MATRIX),
    op("F.cross_entropy smoothed", lambda x: F.cross_entropy(x, labels(x), label_smoothing=0.1), *MATRIX),
    op("F.cross_entropy soft", lambda x, t: F.cross_entropy(x, t.softmax(-1)), *PAIR),
    op(
        "F.ctc_loss",
        lambda x: F.ctc_loss(x.log_softmax(-1), torch.tensor([[1, 2]]), (5,), (2,), reduction="sum"),
        normal((5, 1, 3)),
        normal((5, 1, 4)),
    ),
    op("F.gaussian_nll_loss", lambda x, v: F.gaussian_nll_loss(x, const(*x.shape), v), positive((5,), (5,))),
    op("F.hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x, signs(x)), *FLAT[:2]),
    op("F.kl_div", lambda x, t: F.kl_div(x.log_softmax(-1), t.softmax(-1), reduction="sum"), *PAIR),
    op("F.l1_loss", F.l1_loss, *PAIR),
    op("F.mse_loss", F.mse_loss, *PAIR),
    op("F.mse_loss none", lambda a, b: F.mse_loss(a, b, reduction="none"), *PAIR),
    op("F.margin_ranking_loss", lambda a, b: F.margin_ranking_loss(a, b, signs(a), margin=0.3), *PAIR),
    op(
        "F.multilabel_margin_loss",
        lambda x: F.multilabel_margin_loss(x, torch.tensor([[1, 0, -1], [2, -1, 0]])),
        normal((2, 3)),
    ),
    op("F.multilabel_soft_margin_loss", lambda x: F.multilabel_soft_margin_loss(x, (signs(x) + 1) / 2), *MATRIX),
    op("F.multi_margin_loss", lambda x: F.multi_margin_loss(x, labels(x)), *MATRIX),
    op("F.nll_loss", lambda x: F.nll_loss(x, labels(x)), *MATRIX),
    op("F.huber_loss", F.huber_loss, *PAIR),
    op("F.smooth_l1_loss", lambda a, b: F.smooth_l1_loss(a, b, beta=0.7), *PAIR),
    op("F.soft_margin_loss", lambda x: F.soft_margin_loss(x, signs(x)), *FLAT[:2]),
    op("F.triplet_margin_loss", F.triplet_margin_loss, normal((3, 4), (3, 4), (3, 4))),
    op(
        "F.triplet_margin_with_distance_loss",
        lambda a, p, n: F.triplet_margin_with_distance_loss(a, p, n, margin=5.0),
        normal((3, 4), (3, 4), (3, 4)),
    ),
]

IMAGES = [
    op("F.pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), normal((1, 4, 2, 3))),
    op("F.pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), normal((1, 1, 4, 4))),
    op("F.channel_shuffle", lambda x: F.channel_shuffle(x, 2), normal((1, 4, 2, 2))),
    op("F.pad", lambda x: F.pad(x, (1, 2, 0, 1)), *IMAGE2),
    op("F.pad reflect", lambda x: F.pad(x, (1, 2), mode="reflect"), *IMAGE1),
    op("F.pad replicate", lambda x: F.pad(x, (1, 2), mode="replicate"), *IMAGE1),
    op("F.pad circular", lambda x: F.pad(x, (1, 2), mode="circular"), *IMAGE1),
    op("F.interpolate nearest", lambda x: F.interpolate(x, size=(4, 7)), *IMAGE2),
    op("F.interpolate linear", lambda x: F.interpolate(x, size=11, mode="linear"), *IMAGE1),
    op("F.interpolate bilinear", lambda x: F.interpolate(x, size=(4, 7), mode="bilinear"), *IMAGE2),
    op(
        "F.interpolate bicubic",
        lambda x: F.interpolate(x, size=(4, 7), mode="bicubic"),
        normal((1, 1, 3, 4)),
        normal((2, 1, 6, 5)),
    ),
    op("F.interpolate trilinear", lambda x: F.interpolate(x, size=(3, 5, 4), mode="trilinear"), *IMAGE3),
    op("F.interpolate area", lambda x: F.interpolate(x, size=(3, 4), mode="area"), *IMAGE2),
    op(
        "F.grid_sample",
        lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False),
        normal((1, 2, 4, 4), (1, 2, 3, 2)),
    ),
    op(
        "F.grid_sample bicubic",
        lambda x, g: F.grid_sample(x, 0.7 * g.tanh(), mode="bicubic", align_corners=True),
        normal((1, 1, 5, 5), (1, 2, 2, 2)),
    ),
    op(
        "F.grid_sample nearest",
        lambda x: F.grid_sample(x, const(1, 2, 3, 2), mode="nearest", align_corners=False),
        normal((1, 1, 4, 4)),
    ),
    op("F.affine_grid", lambda t: F.affine_grid(t, [1, 1, 3, 4], align_corners=False), normal((1, 2, 3))),
    op("F.scaled_dot_product_attention", F.scaled_dot_product_attention, normal((2, 3, 4), (2, 3, 4), (2, 3, 4))),
    op(
        "F.scaled_dot_product_attention causal",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        normal((1, 3, 2), (1, 3, 2), (1, 3, 2)),
    ),
    op("F.relu to 0 and 1", lambda x: F.relu(x).clamp(max=1.0), *FLAT),
]

LINALG = [
    op("linalg.norm", linalg.norm, normal((5,)), normal((3, 4))),
    op("linalg.vector_norm", linalg.vector_norm, *FLAT[:2]),
    op("linalg.vector_norm 1", lambda x: linalg.vector_norm(x, 1), *FLAT[:2]),
    op("linalg.vector_norm 3.5", lambda x: linalg.vector_norm(x, 3.5), *FLAT[:2]),
    op("linalg.vector_norm inf", lambda x: linalg.vector_norm(x, float("inf")), *FLAT[:2]),
    op("linalg.vector_norm complex", linalg.vector_norm, normal((4,), dtype=COMPLEX)),
    op("linalg.matrix_norm", linalg.matrix_norm, *MATRIX),
    op("linalg.matrix_norm nuc", lambda a: linalg.matrix_norm(a, "nuc"), *MATRIX),
    op("linalg.matrix_norm 2", lambda a: linalg.matrix_norm(a, 2), *MATRIX),
    op("linalg.matrix_norm -2", lambda a: linalg.matrix_norm(a, -2), *MATRIX),
    op("linalg.matrix_norm 1", lambda a: linalg.matrix_norm(a, 1), *MATRIX),
    op("linalg.matrix_norm inf", lambda a: linalg.matrix_norm(a, float("inf")), *MATRIX),
    op("linalg.diagonal", linalg.diagonal, normal((3, 4)), normal((2, 3, 3))),
    op("linalg.det", linalg.det, *SQUARE, normal((3, 3)), normal((2, 3, 3)), normal((3, 3), dtype=COMPLEX)),
    op("linalg.slogdet", lambda a: linalg.slogdet(a)[1], *SQUARE, normal((3, 3))),
    op("linalg.cond", linalg.cond, *SQUARE),
    op("linalg.cond -2", lambda a: linalg.cond(a, -2), *SQUARE),
    op("linalg.cholesky", lambda a: linalg.cholesky(sym(a)), *HERMITIAN, definite(3, dtype=COMPLEX)),
    op("linalg.cholesky_ex", lambda a: linalg.cholesky_ex(sym(a))[0], *HERMITIAN),
    op("linalg.qr", lambda a: linalg.qr(a), *SQUARE, normal((5, 3))),
    op("linalg.eigh", lambda a: linalg.eigh(sym(a)), *HERMITIAN),
    op("linalg.eigvalsh", lambda a: linalg.eigvalsh(sym(a)), *HERMITIAN, definite(3, dtype=COMPLEX)),
    op("linalg.eig", lambda a: linalg.eig(a)[0], *SQUARE),
    op("linalg.eig abs", lambda a: linalg.eig(a)[1].abs(), *SQUARE),
    op("linalg.eigvals", linalg.eigvals, *SQUARE, regular(3, dtype=COMPLEX)),
    op("linalg.svd", lambda a: linalg.svd(a, full_matrices=False), normal((3, 3)), normal((4, 3))),
    op("linalg.svdvals", linalg.svdvals, *MATRIX, normal((3, 3), dtype=COMPLEX)),
    op("linalg.solve", linalg.solve, regular(3, (3, 2)), regular(4, (4,)), regular(3, (3, 1), dtype=COMPLEX)),
    op("linalg.solve left", lambda a, b: linalg.solve(a, b, left=False), regular(3, (2, 3))),
    op("linalg.solve_ex", lambda a, b: linalg.solve_ex(a, b)[0], regular(3, (3, 2))),
    op("linalg.solve_triangular", lambda a, b: linalg.solve_triangular(a, b, upper=True), regular(3, (3, 2))),
    op("linalg.lu_factor", lambda a: linalg.lu_factor(a)[0], *SQUARE),
    op("linalg.lu_factor_ex", lambda a: linalg.lu_factor_ex(a)[0], *SQUARE),
    op("linalg.lu", lambda a: linalg.lu(a)[1:], *SQUARE, normal((4, 3))),
    op("linalg.lu_solve", lambda a, b: linalg.lu_solve(*linalg.lu_factor(a), b), regular(3, (3, 2))),
    op("linalg.lstsq", lambda a, b: linalg.lstsq(a, b)[0], normal((5, 3), (5, 2))),
    op("linalg.inv", linalg.inv, *SQUARE, regular(3, dtype=COMPLEX)),
    op("linalg.inv_ex", lambda a: linalg.inv_ex(a)[0], *SQUARE),
    op("linalg.pinv", linalg.pinv, *MATRIX),
    op("linalg.pinv hermitian", lambda a: linalg.pinv(sym(a), hermitian=True), *HERMITIAN),
    op("linalg.matrix_exp", linalg.matrix_exp, normal((3, 3)), normal((2, 2, 2))),
    op("linalg.matrix_power 3", lambda a: linalg.matrix_power(a, 3), normal((3, 3))),
    op("linalg.matrix_power -2", lambda a: linalg.matrix_power(a, -2), *SQUARE),
    op("linalg.cross", linalg.cross, normal((3,), (3,)), normal((2, 3), (2, 3))),
    op("linalg.matmul", linalg.matmul, normal((3, 3), (3, 3)), normal((2, 2, 3), (3, 2))),
    op("linalg.vecdot", linalg.vecdot, *PAIR, normal((3,), (3,), dtype=COMPLEX)),
    op("linalg.multi_dot", lambda *a: linalg.multi_dot(a), normal((2, 3), (3, 3), (3, 2))),
    op("linalg.householder_product", linalg.householder_product, normal((4, 2), (2,))),
    op("linalg.tensorinv", lambda a: linalg.tensorinv(a, ind=1), lambda g: (regular(4)(g)[0].reshape(4, 2, 2),)),
    op("linalg.tensorsolve", linalg.tensorsolve, lambda g: (regular(4)(g)[0].reshape(2, 2, 4), const(2, 2) + 1)),
    op("linalg.vander", lambda x: linalg.vander(x, N=4), normal((3,)), normal((2, 2))),
]

OPERATIONS = [*ELEMENTWISE, *ACTIVATIONS, *NORMS, *CONVOLUTIONS, *POOLS, *LOSSES, *IMAGES, *LINALG]


# --- wrong backwards ---

Spoil = Callable[[list[Tensor | None]], list[Tensor | None]]


class _Spoiled(torch.autograd.Function):
    """A function whose backward is its own, spoiled."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], spoil: Spoil, *inputs: Tensor) -> Any:
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_(each.requires_grad) for each in inputs]
            outputs = function(*leaves)
        ctx.leaves, ctx.spoil = leaves, spoil
        ctx.outputs = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
        found = tuple(each.detach() for each in ctx.outputs)
        return found if isinstance(outputs, (tuple, list)) else found[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        kept = [(o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if o.requires_grad]
        outputs, weights = zip(*kept, strict=True)
        found = torch.autograd.grad(outputs, ctx.leaves, weights, retain_graph=True, allow_unused=True)
        return (None, None, *ctx.spoil(list(found)))


def spoiled(function: Callable[..., Any], spoil: Spoil) -> Callable[..., Any]:
    return lambda *inputs: _Spoiled.apply(function, spoil, *inputs)


def scaled(gradients: list[Tensor | None]) -> list[Tensor | None]:
    return [None if each is None else 1.01 * each for each in gradients]


def one_off(place: int) -> Spoil:
    """The gradient of one entry of the first input is half of what it should be."""

    def spoil(gradients: list[Tensor | None]) -> list[Tensor | None]:
        first = gradients[0]
        assert first is not None
        factor = torch.ones(first.numel(), dtype=first.dtype)
        factor[place] = 0.5
        return [first * factor.reshape(first.shape), *gradients[1:]]

    return spoil


def transposed(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradient of every square input is its transpose."""
    return [
        each.mT if each is not None and each.ndim >= 2 and each.shape[-1] == each.shape[-2] else each
        for each in gradients
    ]


SPOILS: dict[str, Callable[[tuple[Tensor, ...]], Spoil]] = {
    "scaled by 1.01": lambda inputs: scaled,
    "one entry off": lambda inputs: one_off(inputs[0].numel() // 2),
    "transposed": lambda inputs: transposed,
}


def jacobian(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Tensor:
    """The analytic Jacobian by backward mode, all outputs and inputs together, complex numbers as pairs."""
    outputs = function(*inputs)
    rows = []
    for each in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
        if not each.requires_grad:
            continue
        units = [1.0, 1.0j] if each.is_complex() else [1.0]
        for place in range(each.numel()):
            for one in units:
                weight = torch.zeros(each.numel(), dtype=each.dtype)
                weight[place] = one
                found = torch.autograd.grad(
                    each, inputs, weight.reshape(each.shape), retain_graph=True, allow_unused=True
                )
                parts = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
                real = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in parts]
                rows.append(torch.cat([g.reshape(-1) for g in real]))
    return torch.stack(rows)


class Deaf(torch.autograd.Function):
    """The second input gets None."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        return 2 * x, 3 * y

    @staticmethod
    def backward(ctx: Any, g: Any, h: Any) -> Any:
        return 2 * g, None
