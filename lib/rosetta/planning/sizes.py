"""How large a profile's models are: by their configurations, where these are on disk, or by a rule."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from rosetta.matching.cost import Stage
from rosetta.models.load import ModelSpec, configuration
from rosetta.models.mlps import find_mlps

#: By the rule, tokens of a vocabulary: between the 50,257 of GPT-2 and the 152,064 of Qwen2.5, whose embeddings it lacks.
VOCABULARY = 50_000
RULE = (
    f"hidden = hidden_size of the profile, or mlp_width / 4; parameters = layers x (4 hidden² + 2 hidden mlp_width, 3 where "
    f"hidden_size says that the MLP is no fourfold one, so gated) + 2 x {VOCABULARY:,} x hidden"
)
#: Numbers that a forward pass moves through memory for each token, layer and unit of the residual stream, and that pooling
#: moves for each neuron and position; fitted to the zoo's four architectures on one core.
FORWARD_NUMBERS, POOL_NUMBERS = 68, 10


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
        By `RULE`, there being no configuration on disk.
    """

    layers: int
    neurons: int
    hidden: int
    vocabulary: int
    blocks: int
    parameters: int
    estimated: bool

    def reading(self, tokens: int, context: int, itemsize: int) -> Stage:
        """One reading of so many tokens: a forward pass, and the pooling of its activations."""
        flop = tokens * (
            2 * self.blocks + 2 * context * self.layers * self.hidden
        )  # each token attends to half of them
        numbers = tokens * (FORWARD_NUMBERS * self.layers * self.hidden + POOL_NUMBERS * self.neurons)
        kind = "bfloat16" if itemsize == 2 else "float32"
        return Stage("read", **{kind: flop}, memory=itemsize * numbers)


def size(spec: ModelSpec) -> Size:
    """The size of a profile's model; no weights are read."""
    file = configuration(spec)
    return by_configuration(file, spec.remote_code) if file else by_rule(spec)


def by_rule(spec: ModelSpec) -> Size:
    """By `RULE`: all that a profile says of a model is its layers and the width of its MLPs."""
    hidden = spec.hidden_size or max(1, spec.mlp_width // 4)
    products = 2 if 4 * hidden == spec.mlp_width or not spec.hidden_size else 3
    blocks = spec.layers * (4 * hidden**2 + products * hidden * spec.mlp_width)
    parameters = blocks + 2 * VOCABULARY * hidden
    return Size(spec.layers, spec.neurons, hidden, VOCABULARY, blocks, parameters, True)


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
