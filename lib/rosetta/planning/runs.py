"""What the matchings of a profile cost: every pair, trained and under both nulls, by the method that costs least."""

import pandas as pd

from rosetta.matching.cost import EXACT_SHARE, Cost, Stage, costs
from rosetta.planning.nodes import Node, itemsize, memory_bytes, missing, peak, sequences
from rosetta.planning.sizes import size
from rosetta.profiles.profile import Profile
from rosetta.studies.amounts import canonical_positions
from rosetta.studies.captures import RELEASED

#: Of a variant's name: over the positions that are left without outliers.
WITHOUT = ", without outliers"
#: Variants that are matched over fewer positions, where a profile says so; and those of noise alone, which no sketch orders.
OVER_FEWER = ("permuted", "whole images", "same positions")
NOISE = ("permuted", "whole images")
IN_ORDER = ("exact", "bfloat16")


def matched(profile: Profile) -> list[tuple[str, str]]:
    """All pairs that are matched: those of the curves, and Figure 38's beside them."""
    return list(dict.fromkeys([*profile.pairs, *compared(profile)]))


def compared(profile: Profile) -> tuple[tuple[str, str], ...]:
    """The pairs of Figure 38 that stand beside a curve."""
    judging = profile.judging
    return judging.compared.pairs if judging and judging.compared else ()


def draws(profile: Profile, pair: tuple[str, str]) -> dict[str, int]:
    """How often each variant of a pair is drawn.

    A pair of Figure 38 is matched once, and once more as the authors' script reads its encoder; it has no nulls unless it is on a
    curve as well.

    Trained, untrained (4.2), permuted (C.3), and trained once more over the positions of the last where those are fewer. Of
    text the first two have a thinned twin, and all are drawn again without outliers where the profile asks for it; of images
    whole ones are permuted as well.
    """
    nulls, text = profile.nulls, profile.modality(pair) == "text"
    released = {RELEASED: 1} if pair in compared(profile) else {}
    if pair not in profile.pairs:
        return {"trained": 1} | released
    of = {"trained": 1, "untrained": len(nulls.untrained_seeds), "permuted": len(nulls.permutation_seeds)}
    if not text:
        of["whole images"] = len(nulls.permutation_seeds)
    fewer = amount(profile, pair, "permuted") < amount(profile, pair, "trained")
    of |= ({"same positions": 1} if fewer else {}) | released
    return of | ({variant + WITHOUT: times for variant, times in of.items()} if profile.without_outliers(pair) else {})


def base(variant: str) -> str:
    """A variant, whether with outliers or without."""
    return variant.removesuffix(WITHOUT)


def amount(profile: Profile, pair: tuple[str, str], variant: str) -> int:
    """Tokens of text or images that a matching is over."""
    if profile.modality(pair) == "text":
        most, fewer = profile.tokens, profile.nulls.permuted_tokens
    else:
        most, fewer = profile.images.count, profile.images.permuted
    return min(most, fewer or most) if base(variant) in OVER_FEWER else most


def neurons(profile: Profile, pair: tuple[str, str], variant: str) -> tuple[int, int]:
    """Neurons of either model. The authors' script reads of an encoder with gated MLPs, in their place, the residual stream before
    each; whether they are gated is not known here, and where they are not, the pair is not matched again.
    """
    a, b = (profile.models[name] for name in pair)
    return a.neurons, b.layers * size(b).hidden if variant == RELEASED else b.neurons


def positions_of(profile: Profile, pair: tuple[str, str], amount: int) -> int:
    """Positions of so much text or so many images: at most as many as model A reads tokens, for none is shorter than a token;
    an image's cells."""
    return amount * (1 if profile.modality(pair) == "text" else canonical_positions(profile, pair))


def positions(profile: Profile, pair: tuple[str, str], variant: str) -> int:
    """Positions of a matching."""
    return positions_of(profile, pair, amount(profile, pair, variant))


def reading(profile: Profile, names: tuple[str, ...], amount: int) -> Stage:
    """One reading of so many tokens, or images, by some models."""
    sizes, bytes_each = [size(profile.models[name]) for name in names], itemsize(profile)
    if profile.modality(names) == "text":
        stages = [one.reading(amount, profile.context, bytes_each) for one in sizes]
    else:
        stages = [one.seeing(amount, canonical_positions(profile, names), bytes_each) for one in sizes]
    return Stage("read", *(sum(getattr(stage, kind) for stage in stages) for kind in Stage._fields[1:]))


def candidates(
    profile: Profile, pair: tuple[str, str], variant: str, exact_share: float | None = None
) -> dict[str, Cost]:
    """What a matching costs by every method that can be, its readings of the text or images among the stages.

    Of a reading that several share, one's part. `exact_share` is as of `cost.sketch`; by default `EXACT_SHARE`, or the
    profile's if that is less.
    """
    n_a, n_b = neurons(profile, pair, variant)
    count, asked = positions(profile, pair, variant), profile.matching
    twin = profile.modality(pair) == "text" and variant in ("trained", "untrained")
    of = costs(
        n_a, n_b, count, memory_bytes(profile), profile.k_of(pair), twin, asked.rows,
        min(EXACT_SHARE, asked.exact_share) if exact_share is None else exact_share,
    )  # fmt: skip
    can = [name for name in of if base(variant) not in NOISE or name in IN_ORDER]
    allowed = [asked.method] if asked.method in can else can
    once = reading(profile, pair, amount(profile, pair, variant))
    return {name: _with(of[name], once, _texts(profile, pair, variant, of[name])) for name in allowed}


def _with(cost: Cost, once: Stage, times: float) -> Cost:
    read = Stage("read", *(times * getattr(once, kind) for kind in Stage._fields[1:]))
    return cost._replace(stages=(read, *cost.stages))


def _texts(profile: Profile, pair: tuple[str, str], variant: str, cost: Cost) -> float:
    """How often the text or the images themselves are read for one draw."""
    if not held_bytes(profile, pair, variant):
        return cost.readings
    if base(variant) == "untrained":
        return 1
    same = [one for one in draws(profile, pair) if amount(profile, pair, one) == amount(profile, pair, variant)]
    return 1 / sum(draws(profile, pair)[one] for one in same if base(one) not in ("untrained", RELEASED))


def held_bytes(profile: Profile, pair: tuple[str, str], variant: str) -> int:
    """Activations that are read once for all that is matched over them where ``memory_gb`` holds them; or 0.

    Those of untrained models lie beside those of the trained (`Study.trained`). What the authors' script reads is read for itself.
    """
    if variant == RELEASED:
        return 0
    each = itemsize(profile) * sum(neurons(profile, pair, variant))
    held = positions(profile, pair, variant) * each * (1 + (base(variant) == "untrained"))
    return held if held <= memory_bytes(profile) else 0


def matching(profile: Profile, pair: tuple[str, str], variant: str, node: Node) -> dict:
    """One row of `matchings`."""
    # What is certain is not given up for a small gain: the choice is made as if all that sketches leave were done exactly.
    certain = candidates(profile, pair, variant, EXACT_SHARE)
    cost = candidates(profile, pair, variant)[min(certain, key=lambda name: certain[name].seconds(node.rates))]
    loads = peak(profile, pair, node, cost, held_bytes(profile, pair, variant))
    device, lack = missing(loads, node)
    if not sequences(profile, pair):
        lack = max(lack, peak(profile, pair, node)[device].batch)
    times, (n_a, n_b) = draws(profile, pair)[variant], neurons(profile, pair, variant)
    return {
        "run": " + ".join(pair), "variant": variant, "draws": times,
        "neurons_a": n_a, "neurons_b": n_b,
        "positions": positions(profile, pair, variant), "method": cost.method, "rows": cost.rows,
        "exact_share": cost.exact_share, "readings": cost.readings, "sequences": sequences(profile, pair),
        "flop": times * sum(stage.flop for stage in cost.stages),
        "bytes": times * sum(stage.memory for stage in cost.stages),
        "tables": cost.memory, "device": device, "peak": loads[device].total, "missing": lack,
        "seconds": times * cost.seconds(node.rates),
    }  # fmt: skip


def matchings(profile: Profile, node: Node) -> pd.DataFrame:
    """Every pair of a profile in its variants, a row each.

    Parameters
    ----------
    profile : Profile
    node : Node

    Returns
    -------
    DataFrame
        ``run, variant, draws`` (seeds), ``neurons_a, neurons_b, positions`` (at most), ``method`` (the quickest there),
        ``rows, exact_share, readings`` (of the positions, for each draw), ``sequences`` or images (of a batch), ``flop, bytes``
        (of all draws, as ``seconds``), ``tables`` (bytes that ``memory_gb`` is asked for), ``device`` (the fullest),
        its ``peak`` in bytes, and how many are ``missing`` there.
    """
    rows = [matching(profile, pair, variant, node) for pair in matched(profile) for variant in draws(profile, pair)]
    return pd.DataFrame(rows)


def stages(profile: Profile, node: Node) -> pd.DataFrame:
    """Every stage of every method, of each pair's trained matching: ``run, method, readings, stage``, its work and ``seconds``."""
    return pd.DataFrame(
        {"run": " + ".join(pair), "method": name, "readings": cost.readings, "stage": stage.name, "flop": stage.flop,
         "bytes": stage.memory, "seconds": stage.seconds(node.rates)}
        for pair in matched(profile)
        for name, cost in candidates(profile, pair, "trained").items()
        for stage in cost.stages
    )  # fmt: skip
