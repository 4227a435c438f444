"""Questions to chat endpoints, by labellers of texts and judges of images: how many, how much is sent, and roughly how many tokens."""

from math import ceil, prod
from pathlib import Path

import pandas as pd

from rosetta.matching.mutual import top_k
from rosetta.models.load import ROOT
from rosetta.neurons.composites import composite_size, lettered_size
from rosetta.neurons.labels import read_prompt as read_label_prompt
from rosetta.neurons.looking import read_prompt
from rosetta.profiles.profile import Profile

#: Neurons of either population that notebook 05 shows with their labels.
SHOWN = 4
#: Of pictures that a judge is sent: bytes a pixel of a composite and of lettered images, photographs as PNG, and of their spelling
#: in a message; pixels on a side of the squares that are a token each, as several endpoints count. Characters a token of text, and
#: tokens of an answer.
COMPOSITE_BYTES, LETTERED_BYTES, SPELLING, TOKEN_SIDE = 1.0, 1.6, 4 / 3, 32
TOKEN_CHARACTERS, ANSWER_TOKENS = 4, 150
#: Bytes of text a token.
TEXT_BYTES = 4
#: Of contexts that a labeller is shown: bytes of a peak token; characters of a view for each byte of text, as JSON with its heat (2.5 for
#: the embedded models), and characters a token of that, which is more broken up than text.
PEAK_BYTES, VIEW_CHARACTERS, JSON_CHARACTERS = 4, 2.5, 3


def requests(profile: Profile) -> list[dict]:
    """Questions to a chat endpoint, one a neuron and at most so many, with rough numbers of tokens (`asked_about`): none is asked
    twice, and none where labels are offline."""
    rows = verdicts(profile)
    if profile.labels.kind != "chat":
        return rows
    scorer, point = profile.filtering.scorer, profile.explorer.point
    anchor, pairs = profile.anchor(point), profile.pairs_of(point)
    rosetta = {pair: expected_pairs(profile, pair) for pair in [profile.filtering.pair, *pairs]}
    page = min(profile.explorer.neurons, sum(rosetta[pair] for pair in pairs))
    # Neurons, and in how many models they are seen: as many as can be.
    by_run = {
        (scorer, "labels of the Rosetta Neurons that 05 shows"): (SHOWN, 2),
        (scorer, "labels of the other neurons that 05 shows"): (SHOWN, 1),
        (anchor, "labels of the explorer's neurons (06)"): (page, 1 + len(pairs)),
        **{
            (" + ".join(point), "labels of a page of Figures 8 to 13 (06)"): (profile.examples.neurons, len(point))
            for point in profile.examples.points
        },
        (scorer, "labels of all Rosetta Neurons (07)"): (rosetta[profile.filtering.pair], 2),
        (scorer, "labels of a layer's other neurons (07)"): (profile.models[scorer].mlp_width, 1),
    }
    return rows + [
        {"run": run, "what": f"{what}, {asked_about(profile, *count) / 1e6:,.3g}M tokens", "requests": count[0]}
        for (run, what), count in by_run.items()
    ]


def asked_about(profile: Profile, neurons: int, models: int) -> float:
    """Rough tokens of the questions about so many neurons, each seen in so many models, and of their answers.

    A question is the prompt and, for each context and model, the window of text as JSON with its heat; a window without a limit
    is all that a model reads together. Each endpoint counts tokens by a rule of its own.
    """
    labels, asked = profile.labels, read_label_prompt(profile.labels.prompt)
    whole = TEXT_BYTES * profile.context
    shown = whole if labels.window is None else min(whole, 2 * labels.window + PEAK_BYTES)
    views = min(labels.contexts, profile.contexts.n) * models * shown * VIEW_CHARACTERS / JSON_CHARACTERS
    prompt = (len(asked.system) + len(asked.user)) / TOKEN_CHARACTERS
    return neurons * (prompt + views + ANSWER_TOKENS)


def verdicts(profile: Profile) -> list[dict]:
    """The questions of notebook 05 to a chat model that judges: of both populations of each model, and of Figure 36 and Table 5."""
    judging = profile.judging
    if judging is None or judging.judge != "chat":
        return []
    neurons, rows = 2 * judging.trials * judging.neurons, []
    models = [name for family, curve in judging.curves.items() for name, _ in profile.family_points(family, curve)]
    for name in dict.fromkeys([*models, judging.by_images.pair[1]]):
        amounts = {judging.images} | (set(judging.by_images.images) if name == judging.by_images.pair[1] else set())
        for images in sorted(amounts):
            rows += looks(name, neurons, images)
    asked = judging.validation
    random = asked.runs * asked.neurons
    return rows + looks(asked.pair[1], random, judging.images, random, 2 * asked.each)


def looks(run: str, neurons: int, images: int = 20, predicted: int = 0, unseen: int = 10) -> list[dict]:
    """Questions to a chat model that judges neurons by their images (5.1, H), as `requests` counts: one a neuron, two if it predicts.

    Parameters
    ----------
    run : str
        Whose neurons they are.
    neurons, images : int
        How many are judged, by so many images each; those that are judged by several numbers of images are asked about anew.
    predicted, unseen : int
        How many of them say on which of so many unseen images they would fire (Table 5).
    """
    rows = [(f"verdicts by {images} images", neurons, looked_at(neurons, images))]
    if predicted:
        rows.append((f"predictions on {unseen} unseen images", predicted, looked_at(predicted, images, unseen)))
    return [
        {"run": run, "what": f"{what}, {sent / 1e6:,.0f} MB, {tokens / 1e6:,.2g}M tokens", "requests": count}
        for what, count, (sent, tokens) in rows
    ]


def looked_at(neurons: int, images: int = 20, unseen: int = 0) -> tuple[float, float]:
    """(bytes sent, tokens) of one turn about so many neurons, with unseen images the second turn, which sends the first again.

    Scenes take a third of these bytes. Tokens are rough: each endpoint has a rule of its own.
    """
    composite, lettered = composite_size(images), lettered_size(unseen) if unseen else (0, 0)
    sent = SPELLING * (COMPOSITE_BYTES * prod(composite) + LETTERED_BYTES * prod(lettered))
    squares = sum(prod(ceil(side / TOKEN_SIDE) for side in sides) for sides in (composite, lettered))
    asked = read_prompt()
    turns = [asked.system, asked.judge, *([asked.predict] if unseen else [])]
    text = sum(map(len, turns)) / TOKEN_CHARACTERS + ANSWER_TOKENS * (2 if unseen else 1)
    return neurons * sent, neurons * (squares + text)


def kept_matches(profile: Profile, pair: tuple[str, str]) -> Path:
    """Where the MatchTable of a pair is kept."""
    return ROOT / "results" / profile.name / "matches" / f"{pair[0]}--{pair[1]}.parquet"


def expected_pairs(profile: Profile, pair: tuple[str, str]) -> int:
    """Rosetta Neurons of a pair: those kept already, or as many as the embedded models' published power law leads to."""
    kept = kept_matches(profile, pair)
    if kept.is_file():
        return len(top_k(pd.read_parquet(kept, columns=["rank_a", "rank_b"]), 1))
    laws = pd.read_csv(ROOT / "figures" / "fits.csv").query("count == 'raw'").set_index("curve")
    law = laws.loc[profile.k_curve] if profile.k_curve in laws.index else laws.iloc[0]
    return ceil(law.c * profile.neurons(pair) ** law.alpha)
