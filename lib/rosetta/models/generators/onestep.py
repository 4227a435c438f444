"""The zoo's generator: one pass through blocks as pMF's, from a class and a scene's code to a picture.

It is a distilled renderer: trained by regression on what the renderer draws from the same class and code, not a flow.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rosetta.models.generators.pmf import Block, FinalLayer, LabelEmbedder, linear, turns, unpatched

CLASS_TOKENS, CODE_TOKENS = 4, 8
#: A grey level g is (g - MIDDLE) / UNIT to a network.
MIDDLE, UNIT = 128, 64


class OneStep(nn.Module):
    """Class and code as prefix tokens, places as cells, blocks, and a picture out.

    Unlike pMF's, its blocks begin by adding to the stream, so that an untrained network, too, tells codes apart.

    Parameters
    ----------
    width, depth : int
        Of the residual stream, and how many blocks there are; heads have 16 channels.
    classes, code : int
        How many classes there are, and numbers in a scene's code.
    image_size, patch_size : int
        Pixels on a side.
    """

    def __init__(self, width: int, depth: int, classes: int, code: int, image_size: int = 64, patch_size: int = 8):
        super().__init__()
        self.config = {
            "width": width, "depth": depth, "classes": classes, "code": code, "image_size": image_size,
            "patch_size": patch_size,
        }  # fmt: skip
        rows = image_size // patch_size
        self.grid, self.prefix, self.classes = (rows, rows), CLASS_TOKENS + CODE_TOKENS, classes
        self.y_embedder = LabelEmbedder(classes, width)
        self.class_tokens = nn.Parameter(torch.randn(CLASS_TOKENS, width) / math.sqrt(width))
        self.code_embedder = linear(code, CODE_TOKENS * width, bias=True)
        self.pos_embed = nn.Parameter(torch.randn(rows * rows, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width, width // 16, mlp_width(width)) for _ in range(depth))
        for block in self.blocks:
            nn.init.ones_(block.attn_scale)
            nn.init.ones_(block.mlp_scale)
        self.final_layer = FinalLayer(width, 3 * patch_size**2)

    def forward(self, labels: Tensor, codes: Tensor) -> Tensor:
        """Pictures as drawn, neither developed nor with grain; `redrawn` makes pixels of them.

        Parameters
        ----------
        labels : int64 [B]
        codes : float32 [B, numbers]

        Returns
        -------
        [B, 3, image_size, image_size]
        """
        of_class = self.class_tokens + self.y_embedder(labels)[:, None]
        of_code = self.code_embedder(codes).unflatten(1, (CODE_TOKENS, -1))
        x = torch.cat((of_class, of_code, self.pos_embed.expand(len(labels), -1, -1)), dim=1)
        by = turns(self.grid, 16, x.device)
        for block in self.blocks:
            x = block(x, by)
        return unpatched(self.final_layer(x[:, self.prefix :]), self.grid)


def standard(drawn: Tensor) -> Tensor:
    """Rendered pixels [B, 64, 64, 3] as numbers that a network gives out: [B, 3, 64, 64], about from -2 to 2."""
    return ((drawn.float() - MIDDLE) / UNIT).permute(0, 3, 1, 2)


def redrawn(pixels: Tensor) -> Tensor:
    """The inverse of `standard`, not rounded: float [B, 64, 64, 3]."""
    return pixels.permute(0, 2, 3, 1) * UNIT + MIDDLE


def mlp_width(width: int) -> int:
    """Of SwiGLU: 8/3 of the width, rounded to a multiple of 8."""
    return 8 * round(width / 3)


def save(model: OneStep, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "onestep"} | model.config, indent=1), encoding="utf-8"
    )
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configured(folder: Path) -> OneStep:
    """A network of a folder's configuration, its weights drawn anew."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("model_type")
    return OneStep(**config)
