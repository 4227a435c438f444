"""pMF, the one-step generator of pixels of runs 1 to 3 and others (Table 3): pixel MeanFlow's transformer.

Its parts are named as in the authors' checkpoints, so that a checkpoint is read key by key.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Turns = tuple[Tensor, Tensor]


def turns(grid: tuple[int, int], channels: int, device: torch.device | str | None = None) -> Turns:
    """Cosines and sines by which each cell's queries and keys are turned: rotary positions in two dimensions.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of cells.
    channels : int
        Of one head; half of them are turned by the row and half by the column, so a multiple of 4.

    Returns
    -------
    (float32 [cells, channels / 2], float32 [cells, channels / 2])
        For each pair of neighbouring channels; cells row by row.
    """
    if channels % 4:
        raise ValueError(f"heads of {channels} channels cannot be turned by row and column; a multiple of 4 can")
    rates = 10_000.0 ** (-torch.arange(0, channels // 2, 2, device=device, dtype=torch.float32) / (channels // 2))
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32)[:, None] * rates for n in grid)
    by_row = rows[:, None].expand(-1, len(columns), -1)
    by_column = columns[None].expand(len(rows), -1, -1)
    angles = torch.cat((by_row, by_column), dim=-1).flatten(0, 1)
    return angles.cos(), angles.sin()


def turn(x: Tensor, by: Turns) -> Tensor:
    """Queries or keys [..., tokens, channels], those of the cells turned; the cells are the last of the tokens."""
    cos, sin = by
    prefix, cells = x[..., : -len(cos), :], x[..., -len(cos) :, :]
    even, odd = cells[..., 0::2], cells[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    return torch.cat((prefix, turned.to(x.dtype)), dim=-2)


def linear(inputs: int, outputs: int, bias: bool = False, gain: float = 1.0) -> nn.Linear:
    """A linear layer whose weights begin with a standard deviation of gain / sqrt(inputs), and its biases at 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def norm(width: int) -> nn.RMSNorm:
    return nn.RMSNorm(width, eps=1e-6)


#: Weights of the blocks begin at this over sqrt(inputs).
GAIN = 0.32


class Attention(nn.Module):
    """Attention of every token to every token; queries and keys are normalized per head, then turned."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linear(width, width, gain=GAIN) for _ in range(4))
        self.q_norm, self.k_norm = norm(width // heads), norm(width // heads)

    def forward(self, x: Tensor, by: Turns) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turn(self.q_norm(q), by), turn(self.k_norm(k), by)
        return self.out_proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x); what enters w2 is m_t."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1, self.w3, self.w2 = (
            linear(*shape, gain=GAIN) for shape in ((width, hidden), (width, hidden), (hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """A transformer block: attention and MLP, each after a norm and added to the stream times a vector of its own.

    The vectors begin at 0, so that a new network passes its input on.

    Parameters
    ----------
    width : int
        Of the residual stream.
    heads : int
        Of attention; each has width / heads channels, a multiple of 4.
    mlp_width : int
        Neurons.
    """

    def __init__(self, width: int, heads: int, mlp_width: int):
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn = Attention(width, heads)
        self.mlp = SwiGLU(width, mlp_width)
        self.attn_scale, self.mlp_scale = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x: Tensor, by: Turns) -> Tensor:
        """[B, tokens, width] -> the same; `by` are the `turns` of the cells, which are the last of the tokens."""
        x = x + self.attn(self.norm1(x), by) * self.attn_scale
        return x + self.mlp(self.norm2(x)) * self.mlp_scale


class PatchEmbedder(nn.Module):
    """Patches of pixels through a bottleneck to the width of the stream."""

    def __init__(self, patch_size: int, bottleneck: int, width: int):
        super().__init__()
        self.proj1 = nn.Conv2d(3, bottleneck, patch_size, stride=patch_size)
        self.proj2 = nn.Conv2d(bottleneck, width, 1)
        for layer in (self.proj1, self.proj2):
            inputs, outputs = layer.weight[0].numel(), layer.weight.shape[0]
            limit = math.sqrt(6 / (inputs + outputs))
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.zeros_(layer.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, cells, width], row by row."""
        return self.proj2(self.proj1(pixels)).flatten(2).transpose(1, 2)


class NumberEmbedder(nn.Module):
    """A number as 128 cosines and 128 sines of it, then an MLP to the width of the stream."""

    WAVES = 128

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(linear(2 * self.WAVES, width, bias=True), nn.SiLU(), linear(width, width, bias=True))

    def forward(self, number: Tensor) -> Tensor:
        """[B] -> [B, width]"""
        rates = 10_000.0 ** (-torch.arange(self.WAVES, device=number.device, dtype=torch.float32) / self.WAVES)
        angles = number[:, None] * rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(waves.to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """A vector for each class, and one more for no class."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=1 / math.sqrt(width))

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class FinalLayer(nn.Module):
    """A norm and a linear layer, which begins at 0."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm = norm(width)
        self.linear = nn.Linear(width, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


#: Prefix tokens by what they say, in their order.
PREFIX = {"class": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}


class PixelMeanFlow(nn.Module):
    """pMF's network: noise, class and guidance in, an image out.

    Parameters
    ----------
    image_size, patch_size : int
        Pixels on a side.
    width, heads, mlp_width : int
        Of each block.
    shared, heads_of_u : int
        Blocks of the common trunk, and those after it that lead to the image. (A second set of the latter serves training
        alone and is left out.)
    bottleneck : int
        Channels between the two halves of the patch embedding.
    classes : int
        The number after the last class stands for no class.
    """

    def __init__(
        self, image_size: int, patch_size: int, width: int, heads: int, mlp_width: int, shared: int, heads_of_u: int,
        bottleneck: int, classes: int,
    ):  # fmt: skip
        super().__init__()
        rows = image_size // patch_size
        self.image_size, self.patch_size, self.grid = image_size, patch_size, (rows, rows)
        self.prefix, self.classes, self.head_width = sum(PREFIX.values()), classes, width // heads
        self.x_embedder = PatchEmbedder(patch_size, bottleneck, width)
        self.h_embedder, self.omega_embedder, self.cfg_t_start_embedder, self.cfg_t_end_embedder = (
            NumberEmbedder(width) for _ in range(4)
        )
        self.y_embedder = LabelEmbedder(classes, width)
        for name, tokens in PREFIX.items():
            learned = torch.randn(1, tokens, width) / math.sqrt(width)
            self.register_parameter(f"{name}_tokens", nn.Parameter(learned))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.prefix + rows * rows, width))
        self.shared_blocks = nn.ModuleList(Block(width, heads, mlp_width) for _ in range(shared))
        self.u_heads = nn.ModuleList(Block(width, heads, mlp_width) for _ in range(heads_of_u))
        self.u_final_layer = FinalLayer(width, 3 * patch_size**2)

    @property
    def blocks(self) -> list[Block]:
        """In order of depth."""
        return [*self.shared_blocks, *self.u_heads]

    def forward(self, noisy: Tensor, h: Tensor, omega: Tensor, t_min: Tensor, t_max: Tensor, labels: Tensor) -> Tensor:
        """The image that the network sees behind a noisy one, x; the flow's mean velocity is (noisy - x) / max(t, .05).

        Parameters
        ----------
        noisy : [B, 3, image_size, image_size]
        h : [B]
            The step's length in time, t - r.
        omega, t_min, t_max : [B]
            Strength of the guidance by class, and the times between which it holds.
        labels : int64 [B]

        Returns
        -------
        [B, 3, image_size, image_size]
        """
        said = {
            "class": self.y_embedder(labels),
            "omega": self.omega_embedder(1 - 1 / omega),
            "t_min": self.cfg_t_start_embedder(t_min),
            "t_max": self.cfg_t_end_embedder(t_max),
            "time": self.h_embedder(h),
        }
        prefix = [getattr(self, f"{name}_tokens") + said[name][:, None] for name in PREFIX]
        x = torch.cat((*prefix, self.x_embedder(noisy)), dim=1) + self.pos_embed
        by = turns(self.grid, self.head_width, x.device)
        for block in self.blocks:
            x = block(x, by)
        return unpatched(self.u_final_layer(x[:, self.prefix :]), self.grid)


def unpatched(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, cells, patch * patch * 3], pixels row by row and colours last -> an image [B, 3, H, W]."""
    size = math.isqrt(cells.shape[-1] // 3)
    patches = cells.unflatten(2, (size, size, 3)).unflatten(1, grid)  # B, row, column, row in it, column in it, colour
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
