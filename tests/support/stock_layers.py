"""Stock layers of PyTorch at their standard initialisation, with inputs that a first batch might have.

Every module class of `torch.nn` stands in `LAYERS`, under its name and a word on the point, in `LEFT_OUT`, with the
reason, or in `WRONG`. All others are right: a check fails none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Make = Callable[[], tuple[nn.Module, Any]]  # the module and its inputs, both in float32

LEFT_OUT = {
    "Module": "computes nothing: the base of all",
    "Container": "computes nothing: the base of all, by its older name",
    "ModuleDict": "computes nothing: holds modules",
    "ModuleList": "computes nothing: holds modules",
    "ParameterDict": "computes nothing: holds parameters",
    "ParameterList": "computes nothing: holds parameters",
    "RNNBase": "computes nothing by itself: the base of RNN, LSTM and GRU",
    "RNNCellBase": "computes nothing: the base of the cells",
    "SyncBatchNorm": "takes tensors of accelerators only",
}


# --- inputs ---


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def image(rank: int, channels: int = 4, size: int = 6) -> torch.Tensor:
    """A batch of two images of this many axes."""
    return torch.randn((2, channels, *[size] * rank))


def classes(count: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, count, shape)


def signs(*shape: int) -> torch.Tensor:
    return torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)


def share(*shape: int) -> torch.Tensor:
    return torch.rand(shape) * 0.8 + 0.1


# --- layers made from a class and its arguments ---


def of(kind: str, *given: Any, x: Callable[[], Any], **named: Any) -> Make:
    """A layer of this class and its inputs."""
    return lambda: (getattr(nn, kind)(*given, **named), x())


def lazy(kind: str, *given: Any, x: Callable[[], Any]) -> Make:
    """A layer that has its shapes from its first input."""

    def make() -> tuple[nn.Module, Any]:
        layer, inputs = getattr(nn, kind)(*given), x()
        layer(inputs)
        return layer, inputs

    return make


def ranks(make: Callable[[int], Make], name: str, lowest: int = 1) -> Iterator[tuple[str, Make]]:
    """The same layer for signals, images and volumes."""
    return ((name.format(rank), make(rank)) for rank in range(lowest, 4))


ACTIVATIONS = (
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid",
    "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh",
    "Tanhshrink",
)  # fmt: skip
ABOUT_AXES = {
    "GLU": (1,),
    "Softmax": (1,),
    "Softmin": (1,),
    "LogSoftmax": (1,),
    "Threshold": (0.1, -1.0),
    "Flatten": (),
}


def _activations() -> Iterator[tuple[str, Make]]:
    for kind in ACTIVATIONS:
        yield kind, of(kind, x=lambda: normal(3, 8))
        yield f"{kind} at zero", of(kind, x=lambda: torch.zeros(3, 8))
    for kind, given in ABOUT_AXES.items():
        yield kind, of(kind, *given, x=lambda: normal(3, 8))
        yield f"{kind} at zero", of(kind, *given, x=lambda: torch.zeros(3, 8))
    yield "Softmax2d", of("Softmax2d", x=lambda: image(2))
    yield "Hardtanh at its corner", of("Hardtanh", x=lambda: torch.ones(3, 8))
    yield "ReLU6 at its corner", of("ReLU6", x=lambda: torch.full((3, 8), 6.0))
    yield "Softshrink at its corner", of("Softshrink", x=lambda: torch.full((3, 8), 0.5))
    yield "Hardsigmoid at its corner", of("Hardsigmoid", x=lambda: torch.full((3, 8), 3.0))


def _linear() -> Iterator[tuple[str, Make]]:
    yield "Linear", of("Linear", 6, 5, x=lambda: normal(4, 6))
    yield "Linear at zero", of("Linear", 6, 5, x=lambda: torch.zeros(4, 6))
    yield "LazyLinear", lazy("LazyLinear", 5, x=lambda: normal(4, 6))
    yield "Bilinear", of("Bilinear", 4, 5, 3, x=lambda: (normal(4, 4), normal(4, 5)))
    yield "Embedding", of("Embedding", 10, 4, x=lambda: classes(10, 3, 5))
    yield "Embedding with padding", of("Embedding", 10, 4, padding_idx=0, x=lambda: classes(10, 3, 5))
    yield "EmbeddingBag", of("EmbeddingBag", 10, 4, x=lambda: classes(10, 3, 5))
    yield "EmbeddingBag of largest", of("EmbeddingBag", 10, 4, mode="max", x=lambda: classes(10, 3, 5))


def _convolutions() -> Iterator[tuple[str, Make]]:
    yield from ranks(lambda r: of(f"Conv{r}d", 4, 3, 3, padding=1, x=lambda: image(r)), "Conv{}d")
    yield from ranks(lambda r: of(f"ConvTranspose{r}d", 4, 3, 3, stride=2, x=lambda: image(r, size=3)),
                     "ConvTranspose{}d")  # fmt: skip
    yield from ranks(lambda r: lazy(f"LazyConv{r}d", 3, 3, x=lambda: image(r)), "LazyConv{}d")
    yield from ranks(lambda r: lazy(f"LazyConvTranspose{r}d", 3, 3, x=lambda: image(r, size=3)),
                     "LazyConvTranspose{}d")  # fmt: skip
    yield "Conv2d of groups", of("Conv2d", 4, 8, 3, groups=4, dilation=2, x=lambda: image(2))
    yield "Unfold", of("Unfold", 2, x=lambda: image(2))
    yield "Fold", of("Fold", (4, 5), 2, x=lambda: normal(2, 12, 12))


def _pools() -> Iterator[tuple[str, Make]]:
    for word in ("Avg", "Max"):
        yield from ranks(lambda r, w=word: of(f"{w}Pool{r}d", 2, x=lambda: image(r)), word + "Pool{}d")
        yield from ranks(lambda r, w=word: of(f"Adaptive{w}Pool{r}d", 3, x=lambda: image(r, size=5)),
                         f"Adaptive{word}Pool{{}}d")  # fmt: skip
    yield from ranks(lambda r: of(f"MaxPool{r}d", 2, x=lambda: torch.zeros(2, 4, *[6] * r)), "MaxPool{}d of ties")
    yield from ranks(lambda r: of(f"LPPool{r}d", 2, 2, x=lambda: image(r)), "LPPool{}d")
    yield from ranks(_fractional, "FractionalMaxPool{}d", 2)
    yield from ranks(_unpooled, "MaxUnpool{}d")


def _fractional(rank: int) -> Make:
    samples = torch.full((2, 4, rank), 0.3)
    return of(f"FractionalMaxPool{rank}d", 2, output_size=3, _random_samples=samples, x=lambda: image(rank))


def _unpooled(rank: int) -> Make:
    def make() -> tuple[nn.Module, Any]:
        values, places = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)(image(rank))
        return getattr(nn, f"MaxUnpool{rank}d")(2), (values, places)

    return make


def _normalised() -> Iterator[tuple[str, Make]]:
    for kind in ("BatchNorm", "InstanceNorm"):
        yield from ranks(lambda r, k=kind: of(f"{k}{r}d", 4, x=lambda: image(r)), kind + "{}d")
        yield from ranks(lambda r, k=kind: lazy(f"Lazy{k}{r}d", x=lambda: image(r)), f"Lazy{kind}{{}}d")
    yield "BatchNorm1d of constants", of("BatchNorm1d", 4, x=lambda: torch.ones(5, 4))
    yield "BatchNorm2d in eval", lambda: (nn.BatchNorm2d(4).eval(), image(2))
    yield "LayerNorm", of("LayerNorm", 8, x=lambda: normal(3, 8))
    yield "LayerNorm of constants", of("LayerNorm", 8, x=lambda: torch.ones(3, 8))
    yield "RMSNorm", of("RMSNorm", 8, x=lambda: normal(3, 8))
    yield "GroupNorm", of("GroupNorm", 2, 4, x=lambda: image(2))
    yield "LocalResponseNorm", of("LocalResponseNorm", 2, x=lambda: image(2))


def _recurrent() -> Iterator[tuple[str, Make]]:
    for kind in ("RNN", "LSTM", "GRU"):
        yield kind, of(kind, 4, 5, 2, x=lambda: normal(6, 2, 4))
        yield f"{kind} both ways", of(kind, 4, 5, bidirectional=True, batch_first=True, x=lambda: normal(2, 6, 4))
    yield "RNN of rectifiers", of("RNN", 4, 5, nonlinearity="relu", x=lambda: normal(6, 2, 4))
    yield "RNNCell", of("RNNCell", 4, 5, x=lambda: (normal(3, 4), torch.zeros(3, 5)))
    yield "GRUCell", of("GRUCell", 4, 5, x=lambda: (normal(3, 4), torch.zeros(3, 5)))
    yield "LSTMCell", of("LSTMCell", 4, 5, x=lambda: (normal(3, 4), (torch.zeros(3, 5), torch.zeros(3, 5))))


def _attention() -> Iterator[tuple[str, Make]]:
    def layer(kind: str, **named: Any) -> nn.Module:
        return getattr(nn, kind)(8, 2, 16, dropout=0.0, batch_first=True, **named)

    def sequences() -> torch.Tensor:
        return normal(2, 5, 8)

    yield "MultiheadAttention", of("MultiheadAttention", 8, 2, x=lambda: (normal(5, 2, 8),) * 3)
    yield "TransformerEncoderLayer", lambda: (layer("TransformerEncoderLayer"), sequences())
    yield "TransformerEncoderLayer with its norm first", lambda: (
        layer("TransformerEncoderLayer", norm_first=True), sequences())  # fmt: skip
    yield "TransformerDecoderLayer", lambda: (layer("TransformerDecoderLayer"), (sequences(), sequences()))
    yield "TransformerEncoder", lambda: (nn.TransformerEncoder(layer("TransformerEncoderLayer"), 2), sequences())
    yield "TransformerDecoder", lambda: (
        nn.TransformerDecoder(layer("TransformerDecoderLayer"), 2), (sequences(), sequences()))  # fmt: skip
    yield "Transformer", lambda: (
        nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True), (sequences(), sequences()))  # fmt: skip


def _shapes() -> Iterator[tuple[str, Make]]:
    for kind in ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad"):
        yield from ranks(lambda r, k=kind: of(f"{k}{r}d", 1, x=lambda: image(r, 2, 4)), kind + "{}d")
    yield from ranks(lambda r: of(f"ConstantPad{r}d", 1, 0.5, x=lambda: image(r, 2, 4)), "ConstantPad{}d")
    yield "PixelShuffle", of("PixelShuffle", 2, x=lambda: image(2))
    yield "PixelUnshuffle", of("PixelUnshuffle", 2, x=lambda: image(2))
    yield "ChannelShuffle", of("ChannelShuffle", 2, x=lambda: image(2))
    yield "Unflatten", of("Unflatten", 1, (2, 4), x=lambda: normal(3, 8))
    yield "UpsamplingNearest2d", of("UpsamplingNearest2d", scale_factor=2, x=lambda: image(2))
    yield "UpsamplingBilinear2d", of("UpsamplingBilinear2d", scale_factor=2, x=lambda: image(2))
    for mode in ("nearest", "bilinear", "bicubic"):
        yield f"Upsample {mode}", of("Upsample", scale_factor=1.5, mode=mode, x=lambda: image(2))
    yield "Sequential", lambda: (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), normal(4, 6))
    yield "DataParallel", lambda: (nn.DataParallel(nn.Linear(6, 5)), normal(4, 6))


def _dropouts() -> Iterator[tuple[str, Make]]:
    """In training: checked with seeded random numbers."""
    for kind in ("Dropout", "AlphaDropout"):
        yield kind, of(kind, x=lambda: normal(3, 8))
    yield from ranks(lambda r: of(f"Dropout{r}d", x=lambda: image(r)), "Dropout{}d")
    yield "FeatureAlphaDropout", of("FeatureAlphaDropout", x=lambda: image(2))


# --- losses, which take two or three arguments ---


class Alignment(nn.Module):
    """A CTC loss of logits: its gradient supposes that a logarithm of a softmax comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CTCLoss()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        lengths = torch.tensor([9, 8]), torch.tensor([3, 2])
        return self.loss(logits.log_softmax(2), labels, *lengths)


def _losses() -> Iterator[tuple[str, Make]]:
    def both(name: str, kind: str, x: Callable[[], torch.Tensor], y: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        def make() -> tuple[nn.Module, Any]:
            given = x()
            return getattr(nn, kind)(), (given, y(given))

        return name, make

    for kind in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"):
        yield both(kind, kind, lambda: normal(4, 5), torch.randn_like)
        yield both(f"{kind} at a perfect fit", kind, lambda: normal(4, 5), torch.clone)
    yield both("PoissonNLLLoss", "PoissonNLLLoss", lambda: normal(4, 5), lambda x: classes(5, *x.shape).float())
    yield both("PoissonNLLLoss at a perfect fit", "PoissonNLLLoss", lambda: normal(4, 5), torch.exp)
    yield both("BCELoss", "BCELoss", lambda: share(4, 5), lambda x: classes(2, *x.shape).float())
    yield both("BCELoss at a perfect fit", "BCELoss", lambda: share(4, 5), torch.clone)
    yield both("BCEWithLogitsLoss", "BCEWithLogitsLoss", lambda: normal(4, 5), lambda x: classes(2, *x.shape).float())
    yield both("BCEWithLogitsLoss at zero", "BCEWithLogitsLoss", lambda: torch.zeros(4, 5), torch.ones_like)
    yield both("BCEWithLogitsLoss at a perfect fit", "BCEWithLogitsLoss", lambda: normal(4, 5), torch.sigmoid)
    yield both("KLDivLoss", "KLDivLoss", lambda: normal(4, 5).log_softmax(1), lambda x: normal(*x.shape).softmax(1))
    yield both("KLDivLoss at a perfect fit", "KLDivLoss", lambda: normal(4, 5).log_softmax(1), torch.exp)
    yield both("CrossEntropyLoss", "CrossEntropyLoss", lambda: normal(4, 5), lambda x: classes(5, 4))
    yield both("CrossEntropyLoss at zero", "CrossEntropyLoss", lambda: torch.zeros(4, 5), lambda x: classes(5, 4))
    yield both("CrossEntropyLoss at a perfect fit", "CrossEntropyLoss", lambda: 50 * torch.eye(5)[:4],
               lambda x: torch.arange(4))  # fmt: skip
    yield both("CrossEntropyLoss of shares", "CrossEntropyLoss", lambda: normal(4, 5), lambda x: x.softmax(1))
    for kind, rank in (("NLLLoss", 0), ("NLLLoss2d", 2)):
        yield both(kind, kind, lambda r=rank: normal(4, 5, *[3] * r).log_softmax(1),
                   lambda x: classes(5, 4, *x.shape[2:]))  # fmt: skip
    yield both("HingeEmbeddingLoss", "HingeEmbeddingLoss", lambda: normal(4, 5), lambda x: signs(*x.shape))
    yield both("HingeEmbeddingLoss at its corner", "HingeEmbeddingLoss", lambda: torch.ones(4, 5),
               lambda x: -torch.ones_like(x))  # fmt: skip
    yield both("SoftMarginLoss", "SoftMarginLoss", lambda: normal(4, 5), lambda x: signs(*x.shape))
    yield both("MultiMarginLoss", "MultiMarginLoss", lambda: normal(4, 5), lambda x: classes(5, 4))
    yield both("MultiMarginLoss at zero", "MultiMarginLoss", lambda: torch.zeros(4, 5), lambda x: classes(5, 4))
    yield both("MultiMarginLoss at its corner", "MultiMarginLoss", lambda: torch.eye(5)[:4], lambda x: torch.arange(4))
    yield both("MultiLabelMarginLoss", "MultiLabelMarginLoss", lambda: normal(4, 5),
               lambda x: torch.tensor([[1, 3, -1, 0, 0]]).repeat(4, 1))  # fmt: skip
    yield both("MultiLabelSoftMarginLoss", "MultiLabelSoftMarginLoss", lambda: normal(4, 5),
               lambda x: classes(2, *x.shape).float())  # fmt: skip
    yield "GaussianNLLLoss", of("GaussianNLLLoss", x=lambda: (normal(4, 5), normal(4, 5), share(4, 5)))
    yield "GaussianNLLLoss at a perfect fit", of("GaussianNLLLoss", x=lambda: (torch.ones(4, 5),) * 3)
    yield "MarginRankingLoss", of("MarginRankingLoss", x=lambda: (normal(6), normal(6), signs(6)))
    yield (
        "MarginRankingLoss at equal ranks",
        of("MarginRankingLoss", x=lambda: (torch.ones(6), torch.ones(6), signs(6))),
    )
    yield "CosineEmbeddingLoss", of("CosineEmbeddingLoss", x=lambda: (normal(6, 4), normal(6, 4), signs(6)))
    yield "CosineEmbeddingLoss at a perfect fit", of(
        "CosineEmbeddingLoss", x=lambda: (*[normal(6, 4)] * 2, torch.ones(6)))  # fmt: skip
    for kind in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        yield kind, of(kind, x=lambda: (normal(6, 4), normal(6, 4), normal(6, 4)))
        yield f"{kind} at a perfect fit", of(kind, x=lambda: (*[normal(6, 4)] * 2, normal(6, 4)))
    for kind in ("CosineSimilarity", "PairwiseDistance"):
        yield kind, of(kind, x=lambda: (normal(6, 4), normal(6, 4)))
        yield f"{kind} at a perfect fit", of(kind, x=lambda: (*[normal(6, 4)] * 2,))
    yield "CTCLoss", lambda: (Alignment(), (normal(9, 2, 5), classes(4, 2, 3) + 1))
    yield "AdaptiveLogSoftmaxWithLoss", of("AdaptiveLogSoftmaxWithLoss", 6, 12, [4, 8],
                                           x=lambda: (normal(5, 6), torch.tensor([0, 3, 5, 9, 11])))  # fmt: skip
    if hasattr(nn, "LinearCrossEntropyLoss"):
        yield "LinearCrossEntropyLoss", of("LinearCrossEntropyLoss", 6, 5, x=lambda: (normal(4, 6), classes(5, 4)))


# --- the points at which networks begin ---


class Residual(nn.Module):
    """x + scale * branch(x), the scale zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.branch(x)


class ResidualNorm(nn.Module):
    """A block of a residual network whose last normalisation has weights of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4),
        )  # fmt: skip
        nn.init.zeros_(self.branch[4].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.branch(x))


class SpatialTransformer(nn.Module):
    """Warps its input by a map that is the identity at first."""

    def __init__(self, padding: str = "zeros", align: bool = False) -> None:
        super().__init__()
        self.to_map = nn.Linear(64, 6)
        nn.init.zeros_(self.to_map.weight)
        self.to_map.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.padding, self.align = padding, align

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.to_map(x.flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(maps, list(x.shape), align_corners=self.align)
        return F.grid_sample(x, grid, padding_mode=self.padding, align_corners=self.align)


class DeformableConv(nn.Module):
    """A convolution of 3 x 3 whose samples are displaced by offsets, zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(2, 18, 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)
        self.mix = nn.Linear(18, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        moved = self.offsets(x).view(n, 9, 2, height, width)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        taps = torch.tensor([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        places = torch.stack([columns, rows], -1) + taps[:, None, None, :].to(x)
        places = places + moved.movedim(2, -1)
        grid = (2 * places + 1) / torch.tensor([width, height]).to(x) - 1
        taken = F.grid_sample(x, grid.view(n, 9 * height, width, 2), align_corners=False)
        taken = taken.view(n, channels, 9, height, width).flatten(1, 2)
        return self.mix(taken.movedim(1, -1))


def zeroed(layer: nn.Module, *names: str) -> nn.Module:
    """The same layer, with these parameters zero."""
    for name, parameter in layer.named_parameters():
        if name.rpartition(".")[2] in names:
            nn.init.zeros_(parameter)
    return layer


def rectified() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class LowRank(nn.Module):
    """A layer with a correction of low rank, one factor of which is zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(5, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ self.down.T @ self.up.T


def _beginnings() -> Iterator[tuple[str, Make]]:
    yield "zero scale of a residual branch", lambda: (Residual(), normal(4, 6))
    yield "zero norm of a residual branch", lambda: (ResidualNorm(), image(2))
    yield "zero factor of a low-rank correction", lambda: (LowRank(), normal(4, 6))
    for padding in ("zeros", "border", "reflection"):
        for align in (False, True):
            yield f"identity warp, {padding}, corners {'aligned' if align else 'not aligned'}", (
                lambda p=padding, a=align: (SpatialTransformer(p, a), torch.randn(2, 1, 8, 8)))  # fmt: skip
    yield "zero offsets of a deformable convolution", lambda: (DeformableConv(), torch.randn(2, 2, 6, 6))
    yield "rectifiers at zero biases", lambda: (zeroed(rectified(), "bias"), normal(4, 6))
    yield "rectifiers at zero weights", lambda: (zeroed(rectified(), "bias", "weight"), normal(4, 6))
    yield "rectifiers at zero inputs and biases", lambda: (zeroed(rectified(), "bias"), torch.zeros(4, 6))
    yield "convolution with rectifiers at a blank image", lambda: (
        nn.Sequential(zeroed(nn.Conv2d(1, 3, 3), "bias"), nn.ReLU(), nn.MaxPool2d(2)),
        torch.zeros(2, 1, 6, 6))  # fmt: skip


WRONG: dict[str, Make] = {"CrossMapLRN2d": of("CrossMapLRN2d", 3, x=lambda: image(2))}

LAYERS: dict[str, Make] = dict(
    pair
    for part in (_activations, _linear, _convolutions, _pools, _normalised, _recurrent, _attention, _shapes, _dropouts,
                 _losses, _beginnings)
    for pair in part()
)  # fmt: skip


def layer_named(name: str) -> tuple[nn.Module, Any]:
    """The layer and its inputs, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LAYERS[name]()


def is_random(name: str) -> bool:
    """Whether it draws random numbers in training."""
    return "Dropout" in name or name.startswith("RReLU")
