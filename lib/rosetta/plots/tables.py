"""The tables of the notebooks: one function, so that no text of a corpus or a profile is ever read as HTML or TeX."""

import html

import pandas as pd
from pandas.io.formats.style import Styler


def table(
    frame: pd.DataFrame | pd.Series,
    formats: str | dict | None = None,
    caption: str = "",
    index: bool = True,
    precision: int = 2,
    missing: str = "",
) -> Styler:
    """A table as a notebook shows it; cells, index, headers, the index's names and the caption are escaped.

    MathJax leaves it alone, too: a ``$`` is a dollar sign.

    Parameters
    ----------
    frame : DataFrame or Series
    formats : str or dict, optional
        A format such as ``"{:.2f}"`` for all numbers, or one for each of some columns.
    caption : str
    index : bool
        Whether the index is shown.
    precision : int
        Digits of the floats that `formats` does not name; thousands are parted by commas.
    missing : str
        In place of NaN and None.
    """
    frame = frame.to_frame() if isinstance(frame, pd.Series) else frame
    for axis in (0, 1):  # pandas escapes an index's values, and not its names
        names = [None if name is None else html.escape(str(name)) for name in frame.axes[axis].names]
        frame = frame.rename_axis(names, axis=axis)
    options = {"na_rep": missing, "precision": precision, "thousands": ",", "escape": "html"}
    if isinstance(formats, str):
        numbers = list(frame.select_dtypes("number").columns)
        styler = frame.style.format(**options).format(formats, subset=numbers, **options)
    else:
        styler = frame.style.format(formats, **options)
    styler = styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    styler = styler.set_table_attributes('class="tex2jax_ignore mathjax_ignore"')  # MathJax's older and newer name
    styler = styler.set_caption(html.escape(caption)) if caption else styler
    return styler if index else styler.hide(axis="index")
