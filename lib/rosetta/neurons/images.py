"""The images on which each neuron of a vision model is highest (Figures 21 and 22, H.1)."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from rosetta.matching.activations import read_pieces
from rosetta.matching.images import Generator, ImageReader, Wish
from rosetta.neurons.peaks import Peaks, highest
from rosetta.sources.pictures import Picture


def top_images(
    reader: ImageReader | Generator,
    stream: Iterable[Picture | Wish],
    n: int = 20,
    by: str = "mean",
    per_batch: int = 32,
) -> pd.DataFrame:
    """The n images on which each neuron of a model is highest, in one pass over its own grid.

    Parameters
    ----------
    reader : ImageReader or Generator
    stream : iterable of Picture or Wish
        Of wishes for a generator; as many as there are, for no image is held.
    n : int
    by : {"mean", "peak"}
        By the mean over all cells (the paper's, H.1), or by the highest cell.
    per_batch : int
        Images read at a time.

    Returns
    -------
    DataFrame
        A row for each neuron and rank: ``layer, unit, rank`` (from 1), ``activation`` (what images are ranked by), the number
        of the ``image`` in the stream, the ``cell`` on which the neuron peaks there (numbered row by row), ``image_mean`` over
        its cells; and the neuron's ``mean, std`` over all cells of all images. Of equal images the earlier comes first. A
        dead neuron (one that never changes) has no rows. ``attrs["positions"]`` is the number of cells read.

    Raises
    ------
    ValueError
        If n < 1, there are no images, or `by` is neither.
    """
    if by not in ("mean", "peak"):
        raise ValueError(f"by is {by!r}; it must be mean or peak")

    def peaks_of(acts: torch.Tensor, image: int, mean: torch.Tensor) -> Peaks:
        peak, cell = acts.max(0, keepdim=True)
        return Peaks(mean[None] if by == "mean" else peak.float(), torch.full_like(cell, image), cell, mean[None])

    table, _ = highest(reader, stream, n, per_batch, peaks_of)
    return table.rename(columns={"piece": "image", "at": "cell", "piece_mean": "image_mean"})


def maps_on(
    reader: ImageReader | Generator, images: Sequence[Picture | Wish], wanted: dict[int, list[int]], per_batch: int = 32
) -> dict[int, np.ndarray]:
    """Some neurons' maps on some images.

    Parameters
    ----------
    reader : ImageReader or Generator
    images : sequence of Picture or Wish
        Only those that are wanted are read.
    wanted : dict of int to list of int
        For an image's number the neurons that are wanted on it, numbered through all layers.
    per_batch : int
        Images read at a time.

    Returns
    -------
    dict of int to float32 [rows, columns, neurons]
        On the model's own grid.
    """
    found = read_pieces(reader, (images[number] for number in wanted), per_batch)
    return {
        number: acts[:, wanted[number]].float().cpu().numpy().reshape(*reader.grid, -1)
        for number, (_, acts) in zip(wanted, found, strict=True)
    }
