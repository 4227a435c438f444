"""The oracle of texts: is a neuron's peak always on one token, one kind of token, or in one kind of document?

Its limits: it knows the surface of the token on which a neuron peaks and where the document came from. Syntax, meaning and what
stands around the token it does not know, so that a neuron it finds no value for may well be monosemantic.
"""

import numpy as np
import pandas as pd

from rosetta.neurons.oracle import check_levels, read

KINDS = ("white space", "digits", "word", "capitalized word", "punctuation", "mixed", "part of a character")
FACTORS = ("token", "kind", "subset", "category")


def normalized(token: str) -> str:
    """Without the white space around it and in lower case; white space alone stays as it is."""
    return token.strip().lower() or token


def kind(token: str) -> str:
    """Which of `KINDS` a token is of."""
    bare = token.strip()
    if not bare:
        return "white space"
    if "\N{REPLACEMENT CHARACTER}" in bare:
        return "part of a character"
    if bare.isdigit():
        return "digits"
    if bare.isalpha():
        return "capitalized word" if bare[0].isupper() else "word"
    return "mixed" if any(character.isalnum() for character in bare) else "punctuation"


def judge_texts(
    contexts: pd.DataFrame, corpus: pd.DataFrame, alpha: float = 0.05, least_share: float = 0.85
) -> pd.DataFrame:
    """Whether one value explains each neuron's top contexts, by `oracle.verdict`.

    Values are the tokens on which neurons may peak (`normalized`), their `KINDS`, and the subsets and categories of documents. By
    chance a value holds in a context with its share of the corpus's tokens: of a neuron that knows nothing any token may be the
    highest. Hypotheses are all distinct values of the corpus, thousands of tokens among them. Where nearly every document
    gives a context, the documents' mix decides instead, and subsets of long documents look rarer than they are.

    Parameters
    ----------
    contexts : DataFrame
        As `contexts.top_contexts` gives it: ``layer, unit, rank, token, subset, category``.
    corpus : DataFrame
        As `specialization.token_counts` gives it of the same text: ``token, subset, category, count``.
    alpha, least_share : float

    Returns
    -------
    DataFrame
        ``layer, unit, is_monosemantic, description, score``, a row for each neuron that has contexts.

    Raises
    ------
    ValueError
        If a column is missing or empty, or a context has a value that the corpus does not.
    """
    check_levels(alpha, least_share)
    for table, name, columns in (
        (contexts, "contexts", ["layer", "unit", "rank", "token", "subset", "category"]),
        (corpus, "corpus", ["token", "subset", "category", "count"]),
    ):
        if missing := [column for column in columns if column not in table]:
            raise ValueError(f"the {name} have no column {missing[0]}; there are {', '.join(map(str, table.columns))}")
        if table[columns].isna().to_numpy().any():
            raise ValueError(f"the {name} have empty places; each row needs {', '.join(columns)}")
    if not len(corpus) or corpus["count"].sum() <= 0:
        raise ValueError("the corpus has no tokens")
    # All values of all factors, numbered one after the other; [rows, factors].
    described, of_contexts = _described(corpus), _described(contexts)
    values, numbers, at = [], [], []
    for factor in FACTORS:
        codes, names = pd.factorize(described[factor])
        found = pd.Index(names).get_indexer(of_contexts[factor])
        if (found < 0).any():
            missing = of_contexts[factor][int(np.argmax(found < 0))]
            raise ValueError(f"a context has the {factor} {missing!r}, which the corpus has not; count the same text")
        numbers.append(codes + len(values))
        at.append(found + len(values))
        values += [f"{factor} {name!r}" if factor == "token" else f"{factor} {name}" for name in names]
    numbers, at = np.stack(numbers, axis=1), np.stack(at, axis=1)
    # Rows of the corpus that are alike in all factors count as one.
    rows, inverse = np.unique(numbers, axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel(), weights=corpus["count"].to_numpy(float))
    columns = rows.T.copy()
    factor_of = np.repeat(np.arange(len(FACTORS)), [len(np.unique(column)) for column in columns])
    share = np.bincount(rows.ravel(), weights=np.repeat(counts, len(FACTORS)), minlength=len(values)) / counts.sum()

    judged = []
    for (layer, unit), held in _by_neuron(contexts, at):
        shown = np.unique(held)
        holds = (held[:, :, None] == shown).any(1)
        base = np.broadcast_to(share[shown].clip(max=1), holds.shape)

        def where(number: int, shown: np.ndarray = shown) -> np.ndarray:
            return (columns[factor_of[shown[number]]] == shown[number])[None]

        names = [values[number] for number in shown]
        said = read(holds, base, names, alpha, least_share, len(values), where, counts).verdict
        judged.append((layer, unit, *said))
    return pd.DataFrame(judged, columns=["layer", "unit", "is_monosemantic", "description", "score"])


def _described(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The value of each factor, by row; each token is looked at once."""
    codes, tokens = pd.factorize(table["token"])
    of_token = {"token": normalized, "kind": kind}
    looked_at = {
        factor: np.array([rule(str(token)) for token in tokens], dtype=object)[codes]
        for factor, rule in of_token.items()
    }
    return looked_at | {factor: table[factor].astype(object).to_numpy() for factor in ("subset", "category")}


def _by_neuron(contexts: pd.DataFrame, at: np.ndarray):
    """Each neuron's values, by rank: ((layer, unit), int64 [k, factors])."""
    order = np.lexsort([contexts[column] for column in ("rank", "unit", "layer")])
    neurons = contexts[["layer", "unit"]].to_numpy()[order]
    begins = np.flatnonzero((neurons != np.roll(neurons, 1, axis=0)).any(1) | (np.arange(len(order)) == 0))
    for begin, end in zip(begins, np.r_[begins[1:], len(order)][: len(begins)], strict=True):
        yield tuple(neurons[begin].tolist()), at[order[begin:end]]
