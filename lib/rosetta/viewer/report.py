"""One HTML file of a whole run: claims with their verdicts, figures, and what made them; `report.html` is its template.

It has no script. Every text is escaped, figures are in the page, and its Content-Security-Policy allows no request.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rosetta.results import write_whole
from rosetta.viewer.page import fill

TEMPLATE = Path(__file__).with_name("report.html")
#: Bytes of a page, at most: figures that would make it larger are left out by name.
LIMIT = 28_000_000
#: How verdicts look.
LOOKS = {"reproduced": "yes", "not reproduced": "no"}


class Judged(NamedTuple):
    """A claim as the page shows it; ``part`` and ``where`` say which figures are about it."""

    part: str
    where: str
    says: str
    reported: str
    measured: str
    verdict: str
    why: str
    rule: str


def write_report(
    path: str | Path,
    title: str,
    note: str,
    claims: Sequence[Judged],
    figures: Iterable[Path],
    run: dict[str, Sequence[Sequence]],
    limit: int = LIMIT,
) -> Path:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : str or Path
    title, note : str
    claims : sequence of Judged
    figures : iterable of Path
        PNG files; a name such as ``fig04_untrained_images`` says which claims stand under it.
    run : dict of str to rows
        Tables of what made it, by their headings; the first row heads the columns.
    limit : int
        Bytes; what no longer fits is named instead of shown.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    parts = [_of_part(part, claims) for part in dict.fromkeys(claim.part for claim in claims)]
    tables = [f"<h3>{html.escape(heading)}</h3>{_table(rows)}" for heading, rows in run.items()]
    texts = {"title": html.escape(title), "note": html.escape(note), "claims": "\n".join([_tally(claims), *parts]), "run": "\n".join(tables)}  # fmt: skip
    room = limit - len(template.encode()) - sum(len(text.encode()) for text in texts.values())
    page = fill(template, figures=_figures(figures, claims, room), **texts)
    page = re.sub("[\ud800-\udfff]", "\ufffd", page)  # half a surrogate pair has no UTF-8 form
    write_whole(Path(path), lambda temporary: temporary.write_bytes(page.encode()))
    return Path(path)


def about(name: str, claims: Iterable[Judged]) -> list[Judged]:
    """The claims that a figure is about, by its file's name: those of ``fig03a_scaling`` are made at Figure 3a."""
    places = [f"{int(number)}{letter or '[a-z]?'}" for number, letter in re.findall(r"fig(\d+)([a-z]?)(?![a-z])", name)]
    places += [f"Table {number}" for number in re.findall(r"^table(\d+)", name)]
    found = [claim for claim in claims if any(re.fullmatch(place, claim.where) for place in places)]
    parts = {claim.part for claim in found}
    wanted = "images" if "_images" in name else "text"
    return [claim for claim in found if claim.part == wanted] if {"text", "images"} <= parts else found


def _verdict(claim: Judged) -> str:
    why = f" <span class='muted'>({html.escape(claim.why)})</span>" if claim.why else ""
    return f'<span class="{LOOKS.get(claim.verdict, "open")}">{html.escape(claim.verdict)}</span>{why}'


def _cells(cells: Iterable, tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _table(rows: Sequence[Sequence], kind: str = "") -> str:
    head, *rest = ([html.escape(str(cell)) for cell in row] for row in rows)
    return _wrapped(head, rest, kind)


def _wrapped(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    body = "".join(map(_cells, rows))
    named = f' class="{kind}"' if kind else ""
    return f'<div class="wide"><table{named}><thead>{_cells(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _tally(claims: Sequence[Judged]) -> str:
    verdicts = list(dict.fromkeys([*LOOKS, *(claim.verdict for claim in claims)]))
    parts = dict.fromkeys(claim.part for claim in claims)
    rows = [[part, *(sum(c.part == part and c.verdict == v for c in claims) for v in verdicts)] for part in parts]
    return _table([["", *verdicts], *rows])


def _of_part(part: str, claims: Iterable[Judged]) -> str:
    rows = [
        [html.escape(claim.where), f"<details><summary>{html.escape(claim.says)}</summary><p class='muted'>{html.escape(claim.rule)}</p></details>",
         html.escape(claim.reported), html.escape(claim.measured), _verdict(claim)]
        for claim in claims if claim.part == part
    ]  # fmt: skip
    head = ["figure, table", "the paper says (and the rule)", "reported there", "measured here", "verdict"]
    return f"<h3>{html.escape(part.capitalize())}</h3>{_wrapped(head, rows, 'claims')}"


def _figures(figures: Iterable[Path], claims: Sequence[Judged], room: int) -> str:
    shown, left = [], []
    for file in figures:
        name, data = html.escape(file.stem), base64.b64encode(file.read_bytes()).decode()
        under = "".join(f"<p>{html.escape(claim.says)}: {_verdict(claim)}</p>" for claim in about(file.stem, claims))
        one = f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption><strong>{name}</strong>{under}</figcaption></figure>'
        if len(one.encode()) > room:
            left.append(name)
            continue
        room -= len(one.encode())
        shown.append(one)
    named = f'<p class="muted">Left out, to keep this file small: {", ".join(left)}</p>' if left else ""
    return f'<div class="figures">{"".join(shown)}</div>{named}'
