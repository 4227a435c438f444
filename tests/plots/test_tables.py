from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from rosetta.plots import table

HOSTILE = "<img src=x onerror=window.pwned=7> & <b>bold</b>"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def hostile_frame():
    frame = pd.DataFrame(
        {HOSTILE: [HOSTILE, "plain"], "number": [1234.5678, np.nan]}, index=pd.Index([HOSTILE, "b"], name=HOSTILE)
    )
    return frame.rename_axis(columns=HOSTILE)


@pytest.mark.parametrize("formats", [None, "{:.1f}", {"number": "{:.3f}"}])
@pytest.mark.parametrize("levels", [1, 2])
def test_nothing_in_a_table_is_read_as_html(formats, levels):
    frame = hostile_frame()
    if levels == 2:
        frame = frame.set_index([frame.index, pd.Index([HOSTILE, HOSTILE + "!"], name=HOSTILE + "2")])
        frame.columns = pd.MultiIndex.from_product([[HOSTILE], frame.columns], names=[HOSTILE, "inner"])
        formats = None if isinstance(formats, dict) else formats
    shown = Tags(table(frame, formats, caption=HOSTILE).to_html())
    assert shown.tags <= {"style", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert shown.text.count(HOSTILE) >= 5


def test_numbers_are_formatted_by_column_and_what_is_missing_is_said():
    frame = pd.DataFrame({"a": [1234.5678, np.nan], "n": [12345, 2], "name": ["x", None]})
    text = Tags(table(frame, {"a": "{:.1f}"}, missing="–", index=False).to_html()).text.split()
    assert [word for word in text if word in ("1234.6", "–", "12,345", "x")] == ["1234.6", "12,345", "x", "–", "–"]
    assert "1,234.57" in Tags(table(frame).to_html()).text
    assert "1234.568" in Tags(table(frame["a"], "{:.3f}").to_html()).text
