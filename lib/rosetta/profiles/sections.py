"""What a profile may hold: its sections, each key with its type and, in words, what is allowed."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from rosetta.models.load import KINDS, ModelSpec
from rosetta.profiles.images import Images
from rosetta.profiles.judging import Judging
from rosetta.profiles.values import (
    AboveOne,
    Count,
    Counts,
    Exponent,
    Limit,
    Listed,
    Mapped,
    Names,
    Natural,
    Pair,
    Positive,
    Positives,
    PromptFile,
    Real,
    Revision,
    Section,
    Seeds,
    Several,
    Text,
    TwoOrMore,
    Words,
    by_kind,
    in_the_kit,
    safe,
)  # fmt: skip

#: One device of torch's.
DEVICE = "(cpu|cuda|mps)(:[0-9]+)?"


class Model(Section):
    """A model as the file describes it; the profile holds its `ModelSpec`.

    ``kind`` says what it is, a language model where it is left out; ``tag``, ``image_size``, ``grid`` and ``classes`` as `ModelSpec` has them.

    ``device`` is for this model alone; left out, it is the profile's. ``spread`` lays it out over all GPUs.
    ``hidden_size`` is the width of the residual stream, which `make plan` takes for a fourth of ``mlp_width`` where it is
    left out and no configuration is on this machine.
    """

    source: Text
    family: Annotated[Text, AfterValidator(safe)]
    layers: Count
    mlp_width: Count
    kind: Annotated[Literal[KINDS], Words(f"one of {', '.join(KINDS)}")] = "language"
    tag: Text = None
    image_size: Count = None
    grid: Count = None
    classes: Count = None
    revision: Revision = None
    remote_code: Annotated[bool, Words("true or false")] = False
    device: Annotated[str, Field(pattern=f"^(auto|spread|{DEVICE})$"), Words("auto, cpu, cuda, cuda:N or spread")] = (
        None
    )
    hidden_size: Count = None


def _specs(models: dict[str, Model]) -> dict[str, ModelSpec]:
    return {name: ModelSpec(name, **model.model_dump()) for name, model in models.items()}


class Point(Section):
    """A point of a curve, and its anchor where it states one."""

    # Any, as what is no name is no model either, which the profile says.
    models: Annotated[tuple[Any, ...], Listed, Words("a list of two or more different models")]
    anchor: Text = None


def _point(content: Any) -> Any:
    return content if isinstance(content, dict) else {"models": content}


Points = Annotated[Several[Annotated[Point, BeforeValidator(_point)]], Words("a list of points")]


class EnvironmentCorpus(Section):
    """The embedded corpus. A key that is left out, None here and below, is left to `rosetta.sources.text`."""

    split: Annotated[Literal["heldout", "train"], Words("heldout or train")] = None


class Files(Section):
    """Local files; paths are relative to the kit, like the models'. The rest is as `sources.from_files` has it."""

    paths: Annotated[Several[str], Words("a list of files"), AfterValidator(in_the_kit)]
    category: Text = None
    text: Text = None
    subset: Text = None


class Hub(Section):
    """A data set on the model hub; ``shuffle_buffer`` is for excerpts alone."""

    dataset: Text
    text: Text
    subset: Text
    split: Text = None
    data_files: Annotated[str | Several[str] | None, Words("a file, a list of files or null")] = None
    revision: Revision = None
    shuffle_buffer: Count = None


class EnvironmentPool(Section):
    """The functions in the sources of the environment's own packages."""


class CodeSearchNet(Section):
    """CodeSearchNet, from the hub or a folder."""

    source: Text
    languages: Names
    revision: Revision = None


class Matching(Section):
    """How neighbours are found (3.3): the pairs are the same, but for those that ``exact_share`` leaves out.

    ``auto`` takes the method that is expected to cost least (`rosetta.matching.cost`), and says which. ``rows`` are those of
    sketches. ``exact_share``: of the table of correlations, how much may be done exactly where sketches do not decide; if
    that is not enough, the neurons left open are in no pair, and MatchTables say how many those are.
    """

    method: Annotated[Literal["auto", "exact", "bfloat16", "sketch"], Words("auto, exact, bfloat16 or sketch")]
    rows: Count = 16_384
    exact_share: Annotated[Real, Field(ge=0, le=1), Words("a number from 0 to 1")] = 1.0


class Nulls(Section):
    """Seeds of the two nulls (three each in the paper), the quantile that calibrates the counts, and how much is permuted.

    ``permuted_tokens``: the permuted null is made over the positions of the first so many tokens (null: of all), for
    it is made exactly, at 2 n_a n_b FLOP a position. Its count depends on the number of positions, so the trained
    models are matched over the same ones as well, and its threshold is scaled (`rosetta.matching.threshold`).
    """

    untrained_seeds: Seeds
    permutation_seeds: Seeds
    permuted_tokens: Limit
    quantile: Annotated[Real, Field(gt=0, lt=1), Words("a number between 0 and 1")]


class Planted(Section):
    """Outliers planted at random positions: their shares, and sizes in standard deviations, one of each together."""

    shares: Annotated[Several[Annotated[Real, Field(gt=0, lt=1)]], Words("a list of numbers between 0 and 1")]
    sizes: Positives


class Outliers(Section):
    """Positions that are left out as they may drown the rest (`rosetta.matching.outliers`), for counts beside those over all.

    ``first``: so many, the first of each sequence; ``size``: those larger than this, in standard deviations, in either model,
    which costs two readings more; null: none. ``curves``: for every pair of the curves, and not for one pair's section only.
    """

    first: Limit
    size: Annotated[AboveOne | None, Words("null, or a finite number above 1")]
    curves: Annotated[bool, Words("true or false")]


class Positions(Section):
    """Which positions are compared (beyond the paper). ``t`` thins frequent spans wherever thinned counts are given, and
    ``outliers`` are left out.

    The rest is for one pair's figure in notebook 02: other t, budgets of positions (the largest is what memory must
    hold of both models) and planted outliers.
    """

    t: Positive
    outliers: Outliers
    pair: Pair
    shown: Positives
    budgets: Annotated[Several[Annotated[int, Field(ge=2)]], Words("a list of whole numbers of at least 2")]
    planted: Planted


class TokenSweep(Section):
    """Figure 33: one pair, matched over growing numbers of tokens.

    Each budget is ``nested`` in the next, a beginning of the same text, or has a ``separate`` sample of its own; the paper's "we
    sample at each data scale" can mean either. Sets from nested samples overlap more.
    """

    pair: Pair
    tokens: Counts
    sweep: Annotated[Literal["nested", "separate"], Words("nested or separate")] = "nested"


class TheoryGrid(Section):
    """A grid of simulations: exponents beta, sizes N = 2^e, and runs of each."""

    betas: Annotated[Several[AboveOne], Words("a list of finite numbers above 1")]
    size_exponents: Annotated[Several[Exponent], Words("a list of whole numbers from 0 to 20: N = 2^e")]
    runs: Count

    @property
    def sizes(self) -> tuple[int, ...]:
        """The neuron budgets N, the smallest first."""
        return tuple(2**e for e in sorted(self.size_exponents))


class Robustness(Section):
    """What D.7 varies, one at a time: kappa, gamma and M. Published tables have this order."""

    kappa: Positives
    gamma: Positives
    n_inputs: Annotated[Several[Annotated[int, Field(ge=2)]], Words("a list of whole numbers of at least 2")]


class Sensitivity(Section):
    """What the paper leaves open, one at a time. Published tables have this order."""

    background_size: Counts
    interference_norm: Annotated[Several[Annotated[Real, Field(ge=0)]], Words("a list of finite numbers of at least 0")]
    noise_floor: Positives
    background: Annotated[Several[Literal["all", "unassigned"]], Words("a list of 'all' and 'unassigned'")]


class Theory(Section):
    """The simulations of Figure 27, and those with one number varied at a time, on a smaller grid (D.7)."""

    grid: TheoryGrid
    seed: Natural
    inputs: TwoOrMore
    kappa: Positive
    gamma: Positive
    tau: Positive
    varied: TheoryGrid
    robustness: Robustness
    sensitivity: Sensitivity


class Contexts(Section):
    """Top-activating contexts (E.2): tokens of the stream that is searched, and contexts a neuron."""

    tokens: Count
    n: Count


class Baseline(Section):
    """The control of E.2: neurons of each random sample, and the samples' seeds."""

    neurons: Count
    seeds: Seeds


class Properties(Section):
    """Sections 5.1 and 5.2: the curve whose matches define each family's Rosetta Neurons, and what is measured of them."""

    rosetta: Annotated[Mapped[str], Words("a mapping of families to curves")]
    kurtosis_above: Annotated[Several[Real], Words("a list of finite numbers")]
    bootstrap: Count
    firing: Names
    baseline: Baseline
    depth_bins: Count


class Labels(Section):
    """Who labels neurons (A): ``offline``, or ``chat``, an endpoint named by the environment; and what the latter is shown.

    ``prompt``: a file with another prompt than the kit's own (`labels.read_prompt`). The paper shows the 20 strongest ``contexts`` and
    does not say how much of each: ``window`` is in bytes, on either side of the token on which the neuron peaks (null: all
    that the model read together).
    """

    kind: Annotated[Literal["offline", "chat"], Words("offline or chat")]
    concurrency: Count
    timeout_seconds: Positive
    retries: Natural
    prompt: PromptFile = None
    contexts: Count = 20
    window: Limit = 200


class Explorer(Section):
    """The page of neurons: those of the anchor of a point, matched in any of its pairs, at most so many."""

    point: Names
    neurons: Count
    contexts: Count
    characters: Count
    promoted: Count


class Examples(Section):
    """Figures 8 to 13: a page a point, with so many neurons that all its models share and some contexts of each."""

    points: Annotated[Several[Names], Words("a list of points")]
    neurons: Count
    contexts: Count
    seed: Natural


class Training(Section):
    """Continued pretraining (Appendix F), the same for every filter; in the paper 1024 tokens and 32 sequences.

    ``sequence_length`` is in tokens, ``effective_batch`` in sequences per optimizer step and ``micro_batch`` in
    sequences per forward pass; accumulated gradients make up the difference.

    The paper gives no ``alpha`` and no ``weight_decay``. LoRA's update is scaled by alpha / rank: 8 here, as for GPT-2
    in Hu et al. (2022) and by `peft`'s default alpha. No weight decay is Trainer's default, and so are the other
    numbers not named here: gradients clipped at norm 1, AdamW's betas (0.9, 0.999).
    """

    sequence_length: TwoOrMore
    effective_batch: Count
    micro_batch: Count
    peak_learning_rate: Positive = 1e-3
    warmup_share: Annotated[Real, Field(ge=0, lt=1), Words("a number from 0 to below 1")] = 0.03
    rank: Count = 1
    alpha: Positive = 8
    weight_decay: Annotated[Real, Field(ge=0), Words("a number of at least 0")] = 0.0


class Filtering(Section):
    """The experiment of Table 1: pool, target, the model whose neurons filter, the one that learns, and the budgets.

    With ``share`` and ``tokens`` null the pool is taken as it is, as CodeSearchNet is in the paper.
    """

    pool: by_kind(environment=EnvironmentPool, codesearchnet=CodeSearchNet)
    target: Text
    labelled: Text
    share: Annotated[Annotated[Real, Field(gt=0, lt=1)] | None, Words("null, or a number between 0 and 1")]
    tokens: Limit
    test_tokens: Limit
    scorer: Text
    pair: Pair
    learner: Text
    least_share: Annotated[Real, Field(ge=0, le=1), Words("a number from 0 to 1")]
    normalize: Annotated[Literal["tokens", "peak", "zscore"], Words("tokens, peak or zscore")]
    average: Counts
    seeds: Seeds
    training: Training


class Settings(Section):
    """All that the file holds.

    ``sampling``: a corpus is read in ``excerpts``, one random excerpt of ``excerpt_characters`` of each document in a seeded
    order, so that a document counts once, however long it is; or ``iid``, as the paper does, in sequences of so many
    characters drawn from all of its text (`rosetta.sources.sampling`), where ``short_documents`` says what becomes of those
    that hold less. Samples have exactly the tokens asked for; excerpts, up to a context more.
    """

    models: Annotated[Mapped[Model], AfterValidator(_specs), Words("a mapping of model names to descriptions")]
    corpus: by_kind(environment=EnvironmentCorpus, files=Files, hub=Hub)
    stated: Annotated[Mapped[Points], Field(alias="curves"), Words("a mapping of curve names to lists of points")]
    tokens: Count
    context: Annotated[int, Field(ge=8), Words("a whole number of at least 8")]
    sampling: Annotated[Literal["excerpts", "iid"], Words("excerpts or iid")] = "excerpts"
    short_documents: Annotated[Literal["skipped", "whole"], Words("skipped or whole")] = "skipped"
    excerpt_characters: Limit
    segments_per_document: Limit
    seed: Annotated[int, Field(ge=-(2**31), lt=2**31), Words("a whole number of 32 bits")]
    k: Annotated[Counts, AfterValidator(lambda k: tuple(sorted({1, *k})))]  # mutual top-1 is what the paper counts
    k_curve: Text
    matching: Matching
    nulls: Nulls
    positions: Positions
    token_sweep: TokenSweep
    images: Annotated[Images | None, Words("a mapping, or null where no model sees images")] = None
    judging: Annotated[Judging | None, Words("a mapping, or null where no neuron is judged")]
    theory: Theory
    contexts: Contexts
    properties: Properties
    labels: Labels
    explorer: Explorer
    examples: Examples
    filtering: Filtering
    sequences_per_batch: Count
    shards: Count
    memory_gb: Annotated[Real, Field(gt=0, le=10**6), Words("a number above 0 (and at most 10^6)")]
    dtype: Annotated[Literal["float32", "bfloat16"], Words("float32 or bfloat16")]
    device: Annotated[str, Field(pattern=f"^(auto|{DEVICE})$"), Words("auto, cpu, cuda or cuda:N")]
