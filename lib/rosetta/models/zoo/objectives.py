"""What each vision family learns by: one function a family, from its model and its scenes to a `Task`.

Models see scenes as `rosetta.sources.scenes.develop` makes them of the rendered ones: with grain, which is drawn anew for
every look, and whitened. Every draw is seeded by the family and the step, so that all sizes of a family see the same.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from open_clip.loss import ClipLoss
from torch import Tensor, nn
from torch.nn import functional
from transformers import PixioConfig
from transformers.models.pixio.modeling_pixio import PixioLayer

from rosetta.models.generators.onestep import redrawn, standard
from rosetta.models.generators.pmf import unpatched
from rosetta.models.zoo.training import Task
from rosetta.sources.development import CELL, SIZE, develop

BATCH = 32
GRID = SIZE // CELL
#: CLIP's temperature may not fall below a hundredth.
MOST_LOGIT_SCALE = math.log(100)
#: Of 16 squares of 2 x 2 cells, those that the masked autoencoder sees.
SEEN_SQUARES = 4
DECODER_DEPTH = 2
#: Self-distillation. Sides of the crops in cells, two of each.
LARGE_CROP, SMALL_CROP = 6, 4
PROTOTYPES = 256
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTRE_MOMENTUM = 0.9
TEACHER_MOMENTUM = 0.99  # at first; it goes to 1 by a cosine
MASKED_SHARES = (0.1, 0.5)


class Batch(NamedTuple):
    """The scenes of one step."""

    drawn: Tensor  # uint8 [B, 64, 64, 3]
    rows: np.ndarray  # int64 [B]: which of the family's scenes they are
    chance: torch.Generator  # on the CPU, seeded by family and step


class Scenes(NamedTuple):
    """The scenes that a family is trained on, in its order.

    Attributes
    ----------
    drawn : uint8 [n, 64, 64, 3]
        As rendered; may lie on disk.
    captions : str [n]
    labels : int64 [n]
    codes : float32 [n, numbers]
    order : int64 [n]
        In which they are seen.
    seed : int
        The family's.
    """

    drawn: np.ndarray
    captions: np.ndarray
    labels: np.ndarray
    codes: np.ndarray
    order: np.ndarray
    seed: int

    @property
    def steps(self) -> int:
        """Each scene is seen once; those that do not fill a batch are left out."""
        return len(self.drawn) // BATCH

    def batch(self, step: int, device: str | torch.device = "cpu") -> Batch:
        rows = np.sort(self.order[step * BATCH : (step + 1) * BATCH])  # read in the order in which they lie on the disk
        chance = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        return Batch(torch.from_numpy(self.drawn[rows]).to(device), rows, chance)


def grained(drawn: Tensor, chance: torch.Generator) -> Tensor:
    """Rendered pixels [B, h, w, 3] developed with fresh grain: [B, 3, h, w]."""
    return develop(drawn, torch.randn(drawn.shape, generator=chance).to(drawn.device))


def relative_error(said: Tensor, there: Tensor, where: Tensor) -> Tensor:
    """Squared error over that of saying the mean.

    Parameters
    ----------
    said, there : [B, 3, h, w]
    where : bool, broadcast to these
        What counts.
    """
    weight = where.expand_as(there).to(there.dtype)  # weighed, as picking them out has a slow gradient
    mean = (weight * there).sum() / weight.sum()
    return (weight * (said - there).square()).sum() / (weight * (there - mean).square()).sum()


def picture_error(said: Tensor, drawn: Tensor, where: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """How far pictures are off, as drawn and as developed; neither alone will do.

    As drawn, light and colour of areas are nearly all that counts; as developed, all that a patch can hold counts alike, most
    of which cannot be foreseen, and no network leaves the plateau of the mean. Grain is asked for in neither.
    """
    as_drawn = relative_error(said, standard(drawn), where)
    as_developed = relative_error(develop(redrawn(said), None), develop(drawn, None), where)
    return as_drawn + as_developed, {"error_drawn": as_drawn, "error_developed": as_developed}


# ---------------------------------------------------------------------------------------------------------------------
# OpenCLIP: images and captions


def shrunk(pixels: Tensor, size: int) -> Tensor:
    """Images [B, 3, h, w] at another size, bicubic and antialiased, as CLIP resizes them."""
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)


def contrast(model: nn.Module, scenes: Scenes, captions: Tensor, device: str = "cpu") -> Task:
    """CLIP: each of a batch's images is to find its caption, and each caption its image.

    Parameters
    ----------
    model : open_clip.model.CLIP
    scenes : Scenes
    captions : int64 [n, context]
        Token ids of the scenes' captions.
    device : str
    """
    criterion = ClipLoss()
    size = model.visual.image_size[0]

    def loss(step: int) -> tuple[Tensor, dict]:
        batch = scenes.batch(step, device)
        pixels = shrunk(grained(batch.drawn, batch.chance), size)
        image = model.encode_image(pixels, normalize=True)
        text = model.encode_text(captions[batch.rows].to(device), normalize=True)
        nats = criterion(image, text, model.logit_scale.exp())
        right = (image @ text.T).argmax(dim=1) == torch.arange(len(image), device=device)
        return nats, {"nats": nats, "right_of_batch": right.float().mean()}

    def after(step: int) -> None:
        model.logit_scale.data.clamp_(max=MOST_LOGIT_SCALE)

    return Task(model, loss, after)


# ---------------------------------------------------------------------------------------------------------------------
# Pixio: masked autoencoding


def seen_cells(images: int, chance: torch.Generator) -> Tensor:
    """The quarter of each image's cells that is not masked, in squares of 2 x 2 cells: int64 [images, 16], ascending."""
    side = GRID // 2
    chosen = torch.rand(images, side * side, generator=chance).argsort(dim=1)[:, :SEEN_SQUARES]
    square = torch.zeros(images, side * side, dtype=torch.bool).scatter_(1, chosen, True).view(images, side, side)
    seen = square.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).flatten(1)
    return seen.nonzero()[:, 1].view(images, 4 * SEEN_SQUARES)


class Autoencoder(nn.Module):
    """A Pixio encoder that sees some cells, and a small decoder that says what is in the others."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        width, classes = encoder.config.hidden_size, encoder.config.n_cls_tokens
        config = PixioConfig(
            hidden_size=width, num_hidden_layers=DECODER_DEPTH, num_attention_heads=width // 16, image_size=SIZE,
            patch_size=CELL, attn_implementation="sdpa",
        )  # fmt: skip
        self.encoder = encoder
        self.enter = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.randn(width) * encoder.config.initializer_range)
        self.positions = nn.Parameter(torch.randn(classes + GRID**2, width) * encoder.config.initializer_range)
        self.layers = nn.ModuleList(PixioLayer(config) for _ in range(DECODER_DEPTH))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, 3 * CELL**2)

    def encode(self, pixels: Tensor, seen: Tensor) -> Tensor:
        """Class tokens and the cells seen: [B, classes + len(seen[0]), width]."""
        x, classes = self.encoder.embeddings(pixels), self.encoder.config.n_cls_tokens
        cells = x[:, classes:].gather(1, seen[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat((x[:, :classes], cells), dim=1)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.encoder.layernorm(x)

    def forward(self, pixels: Tensor, seen: Tensor) -> Tensor:
        """What is said to be drawn in all cells, [B, 3, 64, 64] (`standard`), where those in `seen` [B, some] are shown."""
        x, classes = self.enter(self.encode(pixels, seen)), self.encoder.config.n_cls_tokens
        cells = self.mask_token.expand(len(x), GRID**2, -1)
        cells = cells.scatter(1, seen[..., None].expand(-1, -1, x.shape[-1]), x[:, classes:])
        x = torch.cat((x[:, :classes], cells), dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return unpatched(self.leave(self.norm(x[:, classes:])), (GRID, GRID))


def hidden_pixels(seen: Tensor) -> Tensor:
    """Where the cells that are not in `seen` [B, some] are: bool [B, 1, 64, 64]."""
    hidden = torch.ones(len(seen), GRID**2, dtype=torch.bool, device=seen.device).scatter(1, seen, False)
    return hidden.view(-1, 1, GRID, GRID).repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)


def reconstruction(model: Autoencoder, scenes: Scenes, device: str = "cpu") -> Task:
    """Pixio: from a quarter of the cells, what is in the others."""

    def loss(step: int) -> tuple[Tensor, dict]:
        batch = scenes.batch(step, device)
        seen = seen_cells(len(batch.drawn), batch.chance).to(device)
        said = model(grained(batch.drawn, batch.chance), seen)
        return picture_error(said, batch.drawn, hidden_pixels(seen))

    return Task(model, loss)


# ---------------------------------------------------------------------------------------------------------------------
# DINOv2 and DINOv3: self-distillation


class Head(nn.Module):
    """From a token to its likeness with each prototype: an MLP, then cosines."""

    def __init__(self, width: int, hidden: int = 128, bottleneck: int = 64):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, bottleneck) / math.sqrt(bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.mlp(x), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


class Distilled(nn.Module):
    """A DINOv2 or DINOv3 encoder with one head for its class token and one for its patch tokens."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.class_head, self.patch_head = Head(encoder.config.hidden_size), Head(encoder.config.hidden_size)

    def forward(self, pixels: Tensor, cells: Tensor, masked: Tensor | None = None) -> Tensor:
        """Class and patch tokens [B, 1 + cells, width] of crops; registers, where there are any, are left out.

        Parameters
        ----------
        pixels : [B, 3, h, w]
        cells : int64 [B, cells]
            Which of the image's 64 cells these are: a crop keeps the positions that it was cut from.
        masked : bool [B, cells], optional
            Cells in whose place the mask token is shown.
        """
        if self.encoder.config.model_type == "dinov3_vit":
            return self._rotated(pixels, cells, masked)
        embeddings, positions = self.encoder.embeddings, self.encoder.embeddings.position_embeddings[0]
        x = embeddings.patch_embeddings(pixels)
        if masked is not None:
            x = torch.where(masked[..., None], embeddings.mask_token, x)
        first = (embeddings.cls_token[0] + positions[:1]).expand(len(x), 1, -1)
        x = torch.cat((first, x + positions[1 + cells]), dim=1)
        return self.encoder.layernorm(self.encoder.encoder(x).last_hidden_state)

    def _rotated(self, pixels: Tensor, cells: Tensor, masked: Tensor | None) -> Tensor:
        """Of DINOv3, whose positions are rotations in attention: those of the cells in the whole image."""
        encoder = self.encoder
        image = pixels.new_empty(1, 3, SIZE, SIZE)
        turns = [of_image[cells][:, None] for of_image in encoder.rope_embeddings(image)]  # [B, 1, cells, channels]
        x = encoder.model(encoder.embeddings(pixels, masked), position_embeddings=turns).last_hidden_state
        registers = encoder.config.num_register_tokens
        return encoder.norm(torch.cat((x[:, :1], x[:, 1 + registers :]), dim=1))


def cut(pixels: Tensor, side: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """From each image a square of side x side whole cells, at a place of its own.

    Parameters
    ----------
    pixels : [B, 3, 64, 64]
    side : int
    chance : torch.Generator

    Returns
    -------
    ([B, 3, 8 side, 8 side], int64 [B, side * side])
        Pixels, and the numbers of the cells.
    """
    images, device = len(pixels), pixels.device
    top, left = torch.randint(GRID - side + 1, (2, images, 1), generator=chance).to(device)
    rows, columns = (first + torch.arange(side, device=device) for first in (top, left))
    squares = pixels.unflatten(3, (GRID, CELL)).unflatten(
        2, (GRID, CELL)
    )  # B, colour, row, row in it, column, column in it
    image = torch.arange(images, device=device)[:, None, None]
    chosen = squares.permute(0, 2, 4, 1, 3, 5)[image, rows[:, :, None], columns[:, None, :]]
    crops = chosen.permute(0, 3, 1, 4, 2, 5).reshape(images, 3, CELL * side, CELL * side)
    return crops, (rows[:, :, None] * GRID + columns[:, None, :]).flatten(1)


def masks(images: int, cells: int, chance: torch.Generator) -> Tensor:
    """Every second image has a tenth to a half of its cells masked, the others none: bool [images, cells]."""
    low, high = MASKED_SHARES
    counts = ((low + (high - low) * torch.rand(images, generator=chance)) * cells).round().clamp(min=1)
    counts[1::2] = 0
    places = torch.rand(images, cells, generator=chance).argsort(dim=1).argsort(dim=1)
    return places < counts[:, None]


def targets(likeness: Tensor, centre: Tensor) -> Tensor:
    """What a teacher says of tokens, [n, prototypes] each summing to 1: centred, so that no prototype takes all, and sharp."""
    return functional.softmax((likeness - centre) / TEACHER_TEMPERATURE, dim=-1)


def cross_entropy(target: Tensor, likeness: Tensor) -> Tensor:
    """Nats, over the last dimension."""
    return -(target * functional.log_softmax(likeness / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1)


def between_views(target: Tensor, likeness: Tensor) -> Tensor:
    """DINO's loss: mean cross-entropy of what the teacher says of a view and the student of another.

    Parameters
    ----------
    target : [views of the teacher, B, prototypes]
    likeness : [views, B, prototypes]
        The student's; the teacher's views come first.
    """
    pairs = [(i, j) for i in range(len(target)) for j in range(len(likeness)) if i != j]
    return torch.stack([cross_entropy(target[i], likeness[j]).mean() for i, j in pairs]).mean()


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum(dim=-1).mean()


def distillation(student: Distilled, scenes: Scenes, device: str = "cpu") -> tuple[Task, Distilled]:
    """DINOv2 and DINOv3: class tokens of two views agree, and masked patch tokens say what the teacher says of the patch.

    Returns
    -------
    (Task, Distilled)
        The latter is the teacher, the moving average of the student, which is what is kept.
    """
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    centres = {name: torch.zeros(PROTOTYPES, device=device) for name in ("class", "patch")}

    def looks(drawn: Tensor, side: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        crops = [cut(grained(drawn, chance), side, chance) for _ in range(2)]
        return tuple(torch.cat(parts) for parts in zip(*crops, strict=True))

    def loss(step: int) -> tuple[Tensor, dict]:
        drawn, _, chance = scenes.batch(step, device)
        large, cells = looks(drawn, LARGE_CROP, chance)
        small, small_cells = looks(drawn, SMALL_CROP, chance)
        masked = masks(len(large), cells.shape[1], chance).to(device)
        with torch.no_grad():
            seen = teacher(large, cells)
            of_class, of_patches = teacher.class_head(seen[:, 0]), teacher.patch_head(seen[:, 1:][masked])
            class_target = targets(of_class, centres["class"])
            patch_target = targets(of_patches, centres["patch"])
            for name, likeness in (("class", of_class), ("patch", of_patches)):
                centres[name].lerp_(likeness.mean(dim=0), 1 - CENTRE_MOMENTUM)
        tokens, small_tokens = student(large, cells, masked), student(small, small_cells)
        likeness = student.class_head(torch.cat((tokens[:, 0], small_tokens[:, 0])))
        by_view = between_views(class_target.unflatten(0, (2, -1)), likeness.unflatten(0, (4, -1)))
        by_patch = cross_entropy(patch_target, student.patch_head(tokens[:, 1:][masked])).mean()
        # Collapsed: each entropy is that of all prototypes (5.5), or that of their mean is 0.
        figures = {
            "class_nats": by_view, "patch_nats": by_patch,
            "teacher_entropy": _entropy(class_target), "entropy_of_mean": _entropy(class_target.mean(dim=0)),
            "patch_entropy": _entropy(patch_target), "patch_entropy_of_mean": _entropy(patch_target.mean(dim=0)),
        }  # fmt: skip
        return by_view + by_patch, figures

    def after(step: int) -> None:
        rest = (1 - TEACHER_MOMENTUM) * (1 + math.cos(math.pi * step / scenes.steps)) / 2
        with torch.no_grad():
            for mine, others in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(others, rest)

    state = {f"teacher/{name}": tensor for name, tensor in teacher.named_parameters()}
    state |= {f"centre/{name}": centre for name, centre in centres.items()}
    return Task(student, loss, after, state), teacher


# ---------------------------------------------------------------------------------------------------------------------
# One step: a distilled renderer


def rendering(model: nn.Module, scenes: Scenes, device: str = "cpu") -> Task:
    """From a scene's class and code the scene: regression on what the renderer drew."""
    labels, codes = torch.from_numpy(scenes.labels), torch.from_numpy(scenes.codes)
    everywhere = torch.ones((), dtype=torch.bool, device=device)

    def loss(step: int) -> tuple[Tensor, dict]:
        batch = scenes.batch(step, device)
        said = model(labels[batch.rows].to(device), codes[batch.rows].to(device))
        return picture_error(said, batch.drawn, everywhere)

    return Task(model, loss)
