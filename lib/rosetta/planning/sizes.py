"""How large a profile's models are: by their architectures, where these are known on this machine, or by a rule."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from rosetta.matching.cost import Stage
from rosetta.models.generators.flow import PUBLISHED
from rosetta.models.load import ROOT, ModelSpec, configuration
from rosetta.models.mlps import find_mlps
from rosetta.models.vision import open_vision
from rosetta.studies.amounts import BEFORE_CELLS

#: By the rule, tokens of a vocabulary: between the 50,257 of GPT-2 and the 152,064 of Qwen2.5, whose embeddings it lacks.
VOCABULARY = 50_000
RULE = (
    f"hidden = hidden_size of the profile, or mlp_width / 4; parameters = layers x (4 hidden² + 2 hidden mlp_width, 3 where "
    f"hidden_size says that the MLP is no fourfold one, so gated) + 2 x {VOCABULARY:,} x hidden, the last not of models of images; "
    "sana's and flux's blocks as they were published"
)
#: Numbers that a forward pass moves through memory for each token, layer and unit of the residual stream, and that pooling
#: moves for each neuron and position; fitted to the zoo's four architectures on one core.
FORWARD_NUMBERS, POOL_NUMBERS = 68, 10


class Prompted(NamedTuple):
    """A generator that is conditioned on text, as it was published: parameters of its blocks, and of the text encoder and the
    autoencoder beside them; tokens of a prompt as the text encoder and as the blocks read it; steps."""

    blocks: int
    beside: int
    encoded: int
    read: int
    steps: int


#: Sana-Sprint 1.6B with gemma-2-2b, and FLUX.2-klein-4B with Qwen3-4B, as `generators.pipelines` runs them.
PROMPTED = {
    "sana": Prompted(1_610_000_000, 2_900_000_000, 500, 0, 1),
    "flux": Prompted(3_876_000_000, 4_100_000_000, 512, 512, 2),
}


class Size(NamedTuple):
    """What a model takes.

    Attributes
    ----------
    layers, neurons, hidden, vocabulary : int
        `neurons` in all layers; `hidden` is the width of the residual stream.
    blocks : int
        Parameters that are multiplied for every token: all but the embeddings.
    parameters : int
        All that are loaded.
    estimated : bool
        By `RULE`, the architecture not being known on this machine.
    tokens, steps : int
        Of a model of images: tokens of an image, and how often they go through the blocks.
    prompt : float
        FLOP of encoding the prompt of an image. What an autoencoder takes is not reckoned.
    """

    layers: int
    neurons: int
    hidden: int
    vocabulary: int
    blocks: int
    parameters: int
    estimated: bool
    tokens: int = 0
    steps: int = 1
    prompt: float = 0

    def reading(self, tokens: int, context: int, itemsize: int) -> Stage:
        """One reading of so many tokens: a forward pass, and the pooling of its activations."""
        flop = tokens * (
            2 * self.blocks + 2 * context * self.layers * self.hidden
        )  # each token attends to half of them
        numbers = tokens * (FORWARD_NUMBERS * self.layers * self.hidden + POOL_NUMBERS * self.neurons)
        return _read(flop, numbers, itemsize)

    def seeing(self, images: int, cells: int, itemsize: int) -> Stage:
        """One reading of so many images, of a canonical grid of so many cells: a forward pass in which each token attends to
        all of its image, and the resampling of its activations."""
        tokens = images * self.steps * self.tokens
        flop = tokens * (2 * self.blocks + 4 * self.tokens * self.layers * self.hidden) + images * self.prompt
        numbers = tokens * FORWARD_NUMBERS * self.layers * self.hidden + images * cells * POOL_NUMBERS * self.neurons
        return _read(flop, numbers, itemsize)


def _read(flop: float, numbers: float, itemsize: int) -> Stage:
    return Stage("read", **{"bfloat16" if itemsize == 2 else "float32": flop}, memory=itemsize * numbers)


def size(spec: ModelSpec) -> Size:
    """The size of a profile's model; no weights are read."""
    if spec.modality == "images":
        return by_structure(spec) if structure_is_known(spec) else by_rule(spec)
    file = configuration(spec)
    return by_configuration(file, spec.remote_code) if file else by_rule(spec)


def by_rule(spec: ModelSpec) -> Size:
    """By `RULE`: all that a profile says of a model is its layers and the width of its MLPs."""
    hidden = spec.hidden_size or max(1, spec.mlp_width // 4)
    products = 2 if 4 * hidden == spec.mlp_width or not spec.hidden_size else 3
    blocks = spec.layers * (4 * hidden**2 + products * hidden * spec.mlp_width)
    if spec.modality == "images":
        return _of_images(spec, hidden, blocks, BEFORE_CELLS, True)
    parameters = blocks + 2 * VOCABULARY * hidden
    return Size(spec.layers, spec.neurons, hidden, VOCABULARY, blocks, parameters, True)


def structure_is_known(spec: ModelSpec) -> bool:
    """Whether the architecture of a model of images is known on this machine: by its folder, or by its name or tag."""
    named = (spec.kind == "open_clip" and "/" not in spec.source) or (spec.kind == "pmf" and spec.tag in PUBLISHED)
    return named or (ROOT / spec.source).is_dir()


@cache
def by_structure(spec: ModelSpec) -> Size:
    """By the architecture of a model of images, made without memory."""
    vision = open_vision(spec, "meta")
    hidden = min(vision.mlps[0].projection.weight.shape[:2])
    return _of_images(spec, hidden, sum(p.numel() for p in vision.model.parameters()), vision.prefix, False)


def _of_images(spec: ModelSpec, hidden: int, blocks: int, before: int | None, estimated: bool) -> Size:
    """Of a model of images, so many tokens coming before the cells."""
    one = PROMPTED.get(spec.kind)
    if one is None:
        tokens = spec.grid**2 + before
        return Size(spec.layers, spec.neurons, hidden, 0, blocks, blocks, estimated, tokens)
    blocks = one.blocks if estimated else blocks
    tokens, prompt = spec.grid**2 + one.read, 2.0 * one.beside * one.encoded
    return Size(spec.layers, spec.neurons, hidden, 0, blocks, blocks + one.beside, estimated, tokens, one.steps, prompt)


@cache
def by_configuration(file: Path, remote_code: bool = False) -> Size:
    """By the architecture itself, made without memory."""
    config = transformers.AutoConfig.from_pretrained(file.parent, trust_remote_code=remote_code)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code)
    shared = {id(p): p.numel() for p in model.parameters()}
    embeddings = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
    }
    mlps, parameters = find_mlps(model), sum(shared.values())
    return Size(
        len(mlps), sum(mlp.neurons for mlp in mlps), config.hidden_size, config.vocab_size,
        parameters - sum(embeddings.values()), parameters, False,
    )  # fmt: skip
