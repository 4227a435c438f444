import base64
import bisect
import hashlib
import html.parser
import inspect
import io
import json
import math
import os
import random
import re
import statistics
import textwrap
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rosetta.viewer import Context, Member, RosettaNeuron, Sight, write
from rosetta.viewer import page as viewer
from rosetta.viewer.thumbnails import packed, webp

MODELS = ("pythia-128x6", "gpt2-96x4", "opt-64x8")
LAYERS = (6, 4, 8)
SUBSETS = {"C/C++": "code", "Python": "code", "Arithmetic": "math", "Licences": "formal/scientific"}
SOURCE = "".join(inspect.getsource(module) for module in (bisect, textwrap, random, statistics, html.parser))


def synthetic(n: int, contexts: int = 6, characters: int = 300, seed: int = 0) -> list[RosettaNeuron]:
    """Neurons with three members whose tokens cut the same texts differently."""
    rng = random.Random(seed)
    words = sorted(set(re.findall(r" ?[a-z]{4,}", SOURCE)))
    subsets = sorted(SUBSETS)
    neurons = []
    for i in range(n):
        members = []
        for model, layers in zip(MODELS, LAYERS, strict=True):
            layer, unit = (i % layers, 3 * i) if model == MODELS[0] else (rng.randrange(layers), rng.randrange(4000))
            correlation = None if model == MODELS[0] else round(rng.uniform(0.05, 0.99), 4)
            kurtosis = float("nan") if i % 17 == 4 else rng.gammavariate(1.5, 4) - 1
            promotes = tuple(rng.sample(words, 10))
            members.append(Member(model, layer, unit, layer / (layers - 1), kurtosis, promotes, correlation))
        subset = rng.choice(subsets)
        texts = []
        for _ in range(contexts):
            at = rng.randrange(len(SOURCE) - characters)
            text = SOURCE[at : at + characters]
            heat = {
                model: [(*found.span(), 9 * rng.random() ** 6 - 0.5) for found in re.finditer(pattern, text, re.DOTALL)]
                for model, pattern in zip(MODELS, (r" ?\w+|\W", r"\s+|\S{1,3}", r".{1,4}"), strict=True)
            }
            peak = max(heat[MODELS[0]], key=lambda token: token[2])[:2]
            texts.append(Context(text, subset, SUBSETS[subset], peak, heat))
        named = ", ".join(repr(token) for token in rng.sample(words, 3))
        label = f"Note: {named}" if i % 10 == 7 else f"{subset}: {named}"
        neurons.append(RosettaNeuron(tuple(members), label, SUBSETS[subset], tuple(texts)))
    return neurons


def one(text="a b", heat=None, peak=(0, 1), **changes) -> RosettaNeuron:
    """A Rosetta Neuron of two models with one context."""
    members = (Member("a", 8, 859, 0.5, 3.0, (" the",), None), Member("b", 2, 7, 1.0, 1.0, ("x",), 0.75))
    heat = {"a": [(0, 1, 1.0)], "b": []} if heat is None else heat
    parts = {"members": members, "label": "Python: 'a'", "category": "code"} | changes
    return RosettaNeuron(contexts=(Context(text, "Python", "code", peak, heat),), **parts)


class Blocks(html.parser.HTMLParser):
    """The text of every element of a page, as a browser would cut it."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.found, self.open = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.open = (tag, dict(attributes), [])
        self.found.append(self.open)

    def handle_data(self, data):
        if self.open:
            self.open[2].append(data)

    def handle_endtag(self, tag):
        self.open = None


def blocks(path: Path, tag: str) -> list[tuple[dict, str]]:
    return [(a, "".join(text)) for name, a, text in Blocks(path.read_text(encoding="utf-8")).found if name == tag]


def data_in(path: Path) -> dict:
    return next(json.loads(text) for attributes, text in blocks(path, "script") if attributes.get("id") == "data")


def levels(runs: str) -> list[int]:
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return [viewer.DIGITS.index(level) for level, more in pairs for _ in range(viewer.DIGITS.index(more) + 1)]


# ---------------------------------------------------------------------------------------------------------------------
# The file

HOSTILE = (
    "<script>window.pwned = 1</script></script><script>window.pwned = 2</script> \"'`${window.pwned = 3}` <!-- <script> "
    "]]> <img src=x onerror='window.pwned = 4'> javascript:alert(1) &lt;b&gt; &#x3c; \\u003c {{data}} {{script_hash}} "
    "\u2028\u2029\u202e \x00\x07\x1b\x7f\x85 \r\n\t 👩‍👩‍👧‍👦 é漢 \ud83d\ufeff </TITLE></title></style>"
)
WITHOUT_SURROGATES = HOSTILE.replace("\ud83d", "\ufffd")


def hostile_neuron() -> RosettaNeuron:
    members = (
        Member(HOSTILE, 8, 859, 0.5, 3.0, (HOSTILE, "</script>"), None),
        Member("b" + HOSTILE, 2, 7, 1.0, float("nan"), (), 0.5),
    )
    at = HOSTILE.index("é")
    heat = {member.model: [(i, i + 1, float(i % 7)) for i in range(len(HOSTILE))] for member in members}
    context = Context(HOSTILE, HOSTILE, HOSTILE, (at, at + 2), heat)
    return RosettaNeuron(members, HOSTILE, HOSTILE, (context,))


def test_a_hostile_document_stays_text(tmp_path):
    path = write(tmp_path / "v.html", [hostile_neuron()], title=HOSTILE, note=HOSTILE)
    scripts = blocks(path, "script")
    assert [attributes.get("type") for attributes, _ in scripts] == ["application/json", None]
    assert not re.search("[<>&\u2028\u2029]", scripts[0][1])
    (neuron,) = data_in(path)["neurons"]
    assert neuron["label"] == neuron["category"] == neuron["contexts"][0]["text"] == WITHOUT_SURROGATES
    assert neuron["members"][0]["promotes"] == [WITHOUT_SURROGATES, "</script>"]
    assert neuron["members"][1]["kurtosis"] is None
    (_, title), *_ = blocks(path, "title")
    (_, heading), *_ = blocks(path, "h1")
    assert title == heading == WITHOUT_SURROGATES.replace("\r\n", "\n")
    assert not blocks(path, "img") and "window.pwned" not in scripts[1][1]


def test_the_policy_allows_this_style_and_script_and_nothing_else(tmp_path):
    path = write(tmp_path / "v.html", [one()], "t")
    (policy,) = (a["content"] for a, _ in blocks(path, "meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        _, content = blocks(path, tag)[-1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(rule) == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "require-trusted-types-for": "'script'",
    }  # fmt: skip
    page = path.read_text()
    assert "{{" not in page and not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|https?://", page)
    assert not re.search(r"\s(style|on[a-z]+)=", page)


def test_the_same_neurons_give_the_same_bytes(tmp_path):
    first, second = (write(tmp_path / name, synthetic(5), "t", "n").read_bytes() for name in "ab")
    assert first == second
    assert first != write(tmp_path / "c", synthetic(5, seed=1), "t", "n").read_bytes()


@st.composite
def texts_with_tokens(draw):
    text = draw(st.text(max_size=200)) * draw(st.sampled_from([1, 1, 3]))
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    activations = st.floats(-10, 10) | st.sampled_from([0.0, 1.0, 5.0, 1e-30, 1e30])
    tokens = st.lists(st.tuples(ends, activations).map(lambda t: (*t[0], t[1])), max_size=12)
    return text, draw(tokens), draw(tokens)


@settings(max_examples=80, deadline=None)
@given(found=texts_with_tokens(), other=texts_with_tokens())
def test_heat_is_each_characters_strongest_token_as_a_share_of_the_members_peak(found, other):
    contexts = tuple(Context(text, "s", "c", (0, 0), {"a": a, "b": b}) for text, a, b in (found, other))
    packed = viewer._pack(one()._replace(contexts=contexts))
    for i, model in enumerate("ab"):
        peak = max([0.0] + [token[2] for context in contexts for token in context.heat[model]])
        assert packed["members"][i]["peak"] == pytest.approx(peak, rel=1e-4)
        for context, kept in zip(contexts, packed["contexts"], strict=True):
            expected = [0.0] * len(context.text)
            for start, end, activation in context.heat[model]:
                for at in range(start, end):
                    expected[at] = max(expected[at], activation / peak if peak else 0.0)
            got = levels(kept["heat"][i])
            assert len(got) == len(expected)
            assert got == pytest.approx([63 * e for e in expected], abs=0.5 + 1e-9)


def test_a_long_run_is_a_few_digits(tmp_path):
    text = "x" * 10_000
    packed = viewer._pack(one(text, {"a": [(0, 10_000, 2.0)], "b": [(64, 128, 1.0)]}))
    assert levels(packed["contexts"][0]["heat"][0]) == [63] * 10_000
    assert levels(packed["contexts"][0]["heat"][1]) == [0] * 64 + [63] * 64 + [0] * (10_000 - 128)
    assert max(map(len, packed["contexts"][0]["heat"])) < 2 * 10_000 / 64 + 4


def test_numbers_keep_what_the_page_shows_and_may_be_numpys(tmp_path):
    members = (
        Member("a", np.int64(3), np.int64(4), np.float64(1 / 3), np.float32("nan"), (), None),
        Member("b", 0, 1, math.nan, 12.3456789, (), np.float32(0.87654321)),
    )
    heat = {"a": np.array([[0, 1, 2.5]]), "b": []}
    (neuron,) = data_in(write(tmp_path / "v.html", [one(members=members, heat=heat)], "t"))["neurons"]
    a, b = neuron["members"]
    assert (a["layer"], a["unit"], a["kurtosis"], a["correlation"], a["peak"]) == (3, 4, None, None, 2.5)
    assert a["depth"] == pytest.approx(1 / 3, abs=1e-5) and b["depth"] is None
    assert b["kurtosis"] == pytest.approx(12.3456789, rel=1e-4)
    assert b["correlation"] == pytest.approx(0.87654321, abs=1e-5)


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([], "no Rosetta Neurons"),
        ([one(), one()], r"L8/U859 of a is the anchor of two"),
        ([one(), one(members=())], "number 1 has no members"),
        ([one(members=one().members[:1] * 2)], "two members of one model"),
        ([one(heat={"a": [], "b": [], "c": []})], r"context 0: heat of \['a', 'b', 'c'\], but members of \['a', 'b'\]"),
        ([one(heat={"a": [(0, 4, 1.0)], "b": []})], r"'a' has heat at \(0, 4\), not a part of its text of 3"),
        ([one(heat={"a": [], "b": [(-1, 2, 1.0)]})], r"'b' has heat at \(-1, 2\)"),
        ([one(heat={"a": [(2, 1, 1.0)], "b": []})], r"heat at \(2, 1\)"),
        ([one(heat={"a": [(0, 1, math.inf)], "b": []})], "'a' has an activation that is not finite"),
        ([one(peak=(2, 4))], r"the peak \(2, 4\) is not a part"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(tmp_path, neurons, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "v.html", neurons, "t")
    assert not list(tmp_path.iterdir())


def test_one_unit_of_two_models_may_anchor_twice(tmp_path):
    other = one(members=(one().members[0]._replace(model="b"), one().members[1]._replace(model="a")))
    assert len(data_in(write(tmp_path / "v.html", [one(), other], "t"))["neurons"]) == 2


def test_the_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "new" / "v.html", [one()], "first")
    before = path.read_bytes()

    def fails(*_):
        raise OSError("the disk went away")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="went away"):
        write(path, [one()], "second")
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["v.html"]


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("viewer") / "thousand.html", synthetic(1000), "A thousand", "synthetic")


SIXTY = synthetic(60, contexts=2, characters=120)
TALL = {"width": 1280, "height": 6000}  # every row of the sixty is in sight


@pytest.fixture(scope="module")
def sixty(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("viewer") / "sixty.html", SIXTY, "Sixty")


def name(member: Member) -> str:
    return f"L{member.layer}/U{member.unit}"


def names(neurons) -> list[str]:
    return [name(neuron.members[0]) for neuron in neurons]


def best(neuron: RosettaNeuron) -> float:
    return max(member.correlation for member in neuron.members[1:])


def by_correlation(neurons) -> list[str]:
    return names(sorted(neurons, key=lambda neuron: -best(neuron)))


def listed(page) -> list[str]:
    return page.locator(".row > :first-child").all_text_contents()


def heading(page) -> str:
    return page.locator("#detail h2").evaluate("h2 => h2.firstChild.textContent")


def chosen(page) -> str:
    return page.locator(".row[aria-selected=true] > :first-child").text_content()


def address(page) -> dict[str, str]:
    page.wait_for_timeout(250)  # it is written once the changes pause
    fragment = page.evaluate("() => location.hash").removeprefix("#")
    return {key: value for key, (value,) in parse_qs(fragment, strict_parsing=bool(fragment)).items()}


def test_the_first_of_the_best_matched_is_shown_with_all_that_is_known_of_it(open_page, sixty):
    page = open_page(sixty, viewport=TALL)
    assert page.title() == "Sixty"
    assert page.locator("#count").text_content() == "60 of 60 neurons"
    assert listed(page) == by_correlation(SIXTY)
    neuron = max(SIXTY, key=best)
    assert heading(page) == chosen(page) == name(neuron.members[0])
    row = page.locator(".row").first.inner_text()
    assert neuron.label in row and neuron.category in row and f"{best(neuron):.2f}" in row
    cards = page.locator(".card")
    assert cards.count() == 3
    for i, member in enumerate(neuron.members):
        text = cards.nth(i).inner_text()
        assert member.model in text and name(member) in text and f"{member.depth:.2f}" in text
        assert (f"{member.kurtosis:.2f}".replace("-", "−") if member.kurtosis == member.kurtosis else "–") in text
        assert ("anchor" if member.correlation is None else f"{member.correlation:.3f}") in text
        shown = [token.replace(" ", "␣") for token in member.promotes]
        assert cards.nth(i).locator("li").all_text_contents() == shown
    # Side by side: all three begin at one height, left to right.
    boxes = [cards.nth(i).bounding_box() for i in range(3)]
    assert len({box["y"] for box in boxes}) == 1 and boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]


def test_heat_tooltip_and_peak_of_every_model_stand_on_the_same_text(open_page, tmp_path):
    text = "👩‍👩‍👧‍👦 x->y\n\tconst é"
    at = text.index("->")
    heat = {"a": [(at, at + 2, 4.0), (at + 2, at + 3, 1.0), (0, 2, -3.0)], "b": [(at + 1, at + 4, 0.5)]}
    page = open_page(write(tmp_path / "v.html", [one(text, heat, (at, at + 2))], "t"))
    assert page.locator(".text").all_text_contents() == [text, text]
    spans = page.locator(".text span").evaluate_all("all => all.map(s => [s.textContent, s.className, s.title])")
    a = "a L8/U859: activation"
    assert spans == [
        ["->", "heat-8 peak", f"{a} 4, 100% of its peak"],
        ["y", "heat-3", f"{a} 1.02, 25% of its peak"],  # 16 of 63 steps: within half a step of 1
        ["-", "heat-0 peak", "b L2/U7: activation 0, 0% of its peak"],
        [">", "heat-8 peak", "b L2/U7: activation 0.5, 100% of its peak"],
        ["y\n", "heat-8", "b L2/U7: activation 0.5, 100% of its peak"],
    ]
    assert page.locator(".ramp i").count() == 9
    assert page.locator(".card li").all_text_contents() == ["␣the", "x"]


def test_a_model_that_was_not_read_on_a_text_is_told_from_one_that_stayed_silent(open_page, tmp_path):
    other = one("x y").contexts + one("z", {"a": [(0, 1, 2.0)]}).contexts
    page = open_page(write(tmp_path / "v.html", [one()._replace(contexts=other)], "t"))
    assert page.locator(".text").all_text_contents() == ["x y", "x y", "z", "not read on this text"]


def test_a_hostile_document_does_not_run(open_page, tmp_path):
    page = open_page(write(tmp_path / "v.html", [hostile_neuron()], HOSTILE, HOSTILE))
    shown = "".join(
        chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else "␡" if c == "\x7f" else c for c in WITHOUT_SURROGATES
    )
    assert page.locator(".text").all_text_contents() == [shown, shown]
    assert page.locator(".peak").all_text_contents() == ["é", "漢"] * 2
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    page.locator("#q").fill("<script>")
    assert page.locator("#count").text_content() == "1 of 1 neurons"
    page.locator("#category").select_option(index=1)
    page.locator("#label").select_option(index=0)
    address(page)
    page.reload()
    assert page.locator("#category").input_value() == WITHOUT_SURROGATES
    assert page.locator("#count").text_content() == "1 of 1 neurons"


def test_even_a_slip_in_the_script_could_make_no_html_of_a_text_and_fetch_nothing(browser, sixty):
    page = browser.new_page()
    page.goto(sixty.as_uri())
    for slip in ("document.body.innerHTML = '<b>'", "setTimeout('window.pwned = 1')"):
        assert page.evaluate(f"() => {{ try {{ {slip}; }} catch (e) {{ return e.name; }} }}") == "TypeError", slip
    for directive, slip in (
        ("connect-src", "fetch('https://example.org').catch(() => 0)"),
        ("img-src", "document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.gif'}))"),
        ("style-src-attr", "document.body.setAttribute('style', 'color: red')"),
    ):
        refused = page.evaluate(
            "() => new Promise(done => { addEventListener('securitypolicyviolation',"
            f" event => done(event.effectiveDirective), {{once: true}}); {slip}; }})"
        )
        assert refused == directive
    page.close()


def test_search_by_the_name_of_the_anchor_or_of_any_member(open_page, sixty):
    page = open_page(sixty, viewport=TALL)
    neuron = SIXTY[31]
    for member in neuron.members:
        page.locator("#q").fill(name(member).lower() if member.correlation else name(member))
        assert listed(page) == [name(neuron.members[0])]
        assert heading(page) == name(neuron.members[0])
    assert names(SIXTY).count("L1/U3") == 1 and "L1/U39" in names(SIXTY)
    page.locator("#q").fill("L1/U3")  # the one of this name, not those that only begin so
    assert listed(page) == by_correlation(n for n in SIXTY if any(name(member) == "L1/U3" for member in n.members))
    page.locator("#q").fill("L2")  # a layer, of any model; not layer 20
    assert set(listed(page)) == set(names(n for n in SIXTY if any(member.layer == 2 for member in n.members)))
    page.locator("#q").fill("L1/U9")  # no neuron has this name, some begin so
    expected = [n for n in SIXTY if any(name(member).startswith("L1/U9") for member in n.members)]
    assert expected and listed(page) == by_correlation(expected)


def test_search_by_words_of_label_and_promoted_tokens(open_page, sixty):
    page = open_page(sixty, viewport=TALL)
    token = SIXTY[5].members[2].promotes[3].strip()
    for words in (["python"], [token.upper()], ["C/C++:", token], ["licences", "no such word"]):
        page.locator("#q").fill("  ".join(words))
        expected = [
            neuron
            for neuron in SIXTY
            if all(
                any(word.lower() in t.lower() for t in (neuron.label, *(t for m in neuron.members for t in m.promotes)))
                for word in words
            )
        ]
        assert listed(page) == by_correlation(expected)
        assert page.locator("#count").text_content() == f"{len(expected)} of 60 neurons"
    assert heading(page).startswith("Nothing matches")


def set_range(page, value: str) -> None:
    page.locator("#min").evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def test_each_filter_alone_and_all_together(open_page, sixty):
    page = open_page(sixty, viewport=TALL)
    set_range(page, "0.8")
    assert page.locator("#at-least").text_content() == "≥ 0.80"
    assert listed(page) == by_correlation(n for n in SIXTY if best(n) >= 0.8)
    page.locator("#clear").click()
    page.locator("#layer").select_option("3")
    assert listed(page) == by_correlation(n for n in SIXTY if n.members[0].layer == 3)
    page.locator("#clear").click()
    page.locator("#category").select_option("code")
    assert listed(page) == by_correlation(n for n in SIXTY if n.category == "code")
    page.locator("#clear").click()
    assert page.locator("#label option").all_text_contents() == ["anything", *sorted(SUBSETS)]  # no subset is "Note"
    page.locator("#label").select_option("C/C++")
    assert listed(page) == by_correlation(n for n in SIXTY if n.label.startswith("C/C++: "))
    page.locator("#layer").select_option("3")
    set_range(page, "0.6")
    page.locator("#category").select_option("code")
    together = [n for n in SIXTY if n.label.startswith("C/C++: ") and n.members[0].layer == 3 and best(n) >= 0.6]
    assert together and listed(page) == by_correlation(together)
    page.locator("#clear").click()
    assert len(listed(page)) == 60 and page.locator("#clear").is_disabled()


def place(neuron: RosettaNeuron) -> tuple[int, int]:
    return neuron.members[0].layer, neuron.members[0].unit


@pytest.mark.parametrize("order", ["down", "up"])
def test_each_sort_both_ways_with_unknown_values_last(open_page, sixty, order):
    page = open_page(sixty, viewport=TALL)
    page.locator("#order").select_option(order)
    sign = 1 if order == "up" else -1
    assert listed(page) == names(sorted(SIXTY, key=lambda n: sign * best(n)))
    page.locator("#sort").select_option("neuron")
    assert listed(page) == names(sorted(SIXTY, key=place, reverse=order == "down"))
    page.locator("#sort").select_option("depth")
    assert listed(page) == names(sorted(SIXTY, key=lambda n: (sign * n.members[0].depth, place(n))))
    page.locator("#sort").select_option("kurtosis")
    known = [n for n in SIXTY if n.members[0].kurtosis == n.members[0].kurtosis]
    unknown = [n for n in SIXTY if n not in known]
    assert unknown
    expected = sorted(known, key=lambda n: sign * n.members[0].kurtosis) + sorted(unknown, key=place)
    assert listed(page) == names(expected)


def test_a_neuron_without_matches_has_no_correlation_and_the_label_filter_hides_when_it_has_nothing(
    open_page, tmp_path
):
    alone = one(members=one().members[:1], heat={"a": []}, label="no subset here")
    page = open_page(write(tmp_path / "v.html", [alone._replace(contexts=()), one(members=(
        one().members[0]._replace(unit=1), one().members[1]), label="")], "t"))  # fmt: skip
    assert listed(page) == ["L8/U1", "L8/U859"]
    assert not page.locator("#label-filter").is_visible()
    set_range(page, "0.01")
    assert listed(page) == ["L8/U1"]
    assert page.locator(".row .label").text_content() == "no label"


def test_the_keyboard_alone(open_page, sixty):
    page = open_page(sixty)
    order = by_correlation(SIXTY)
    press = page.keyboard.press
    press("j")
    press("j")
    press("ArrowDown")
    assert heading(page) == chosen(page) == order[3]
    press("k")
    press("ArrowUp")
    assert heading(page) == order[1]
    press("/")
    assert page.evaluate("() => document.activeElement.id") == "q"
    page.keyboard.type("jk/python")  # in the box they are letters
    assert page.locator("#q").input_value() == "jk/python"
    press("Escape")
    assert page.locator("#q").input_value() == "" and heading(page) == order[1]
    page.locator("#list").focus()
    press("End")
    assert chosen(page) == order[-1] and page.locator(".row[aria-selected=true]").is_visible()
    assert page.locator("#list").get_attribute("aria-activedescendant") == f"row-{len(order) - 1}"
    box, row = page.locator("#list").bounding_box(), page.locator(".row[aria-selected=true]").bounding_box()
    assert box["y"] <= row["y"] and row["y"] + row["height"] <= box["y"] + box["height"] + 1
    press("ArrowDown")
    assert chosen(page) == order[-1]
    press("PageUp")
    assert chosen(page) in order[-20:-2]
    press("Home")
    press("ArrowUp")
    assert chosen(page) == order[0]
    # A control keeps its own keys; Escape leaves an open select alone.
    page.locator("#sort").focus()
    press("ArrowDown")
    assert heading(page) == order[0] and page.locator("#sort").input_value() == "neuron"
    # A shortcut of the browser is not one of the page.
    page.locator("#list").focus()
    press("Control+j")
    assert heading(page) == order[0]


def test_every_control_is_reached_by_tab_is_named_and_shows_its_focus(open_page, sixty):
    page = open_page(sixty, "#layer=3")  # a filter, so that there is something to clear
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached == [
        "q", "min", "layer", "category", "label", "sort", "order", "clear", "list", "detail", "link to this neuron",
    ]  # fmt: skip
    for role, label in (
        ("searchbox", "Search name, label, promoted token"), ("slider", "Correlation"), ("combobox", "Layer"),
        ("combobox", "Category"), ("combobox", "Label begins with"), ("combobox", "Sort by"), ("combobox", "Order"),
        ("button", "Clear filters"), ("listbox", "Rosetta Neurons"), ("region", "The chosen neuron"),
    ):  # fmt: skip
        assert page.get_by_role(role, name=label).count() == 1, label
    rows = page.get_by_role("option").filter(has=page.locator(".label"))
    assert {row.get_attribute("aria-setsize") for row in rows.all()} == {"10"}
    assert [row.get_attribute("aria-posinset") for row in rows.all()][:3] == ["1", "2", "3"]
    assert page.locator("#count").get_attribute("role") == "status"


def test_the_address_holds_the_whole_view_and_a_link_restores_it(open_page, sixty):
    in_layers = Counter(n.members[0].layer for n in SIXTY if n.label.startswith("C/C++: ") and best(n) >= 0.2)
    layer = str(in_layers.most_common(1)[0][0])
    page = open_page(sixty)
    assert address(page) == {}
    page.locator("#q").fill("C/C++: ")
    set_range(page, "0.2")
    page.locator("#category").select_option("code")
    page.locator("#label").select_option("C/C++")
    page.locator("#sort").select_option("neuron")
    page.locator("#order").select_option("up")
    page.locator("#layer").select_option(layer)
    page.locator(".row").nth(1).click()
    view = address(page)
    assert view == {
        "q": "C/C++: ", "min": "0.2", "layer": layer, "category": "code", "label": "C/C++", "sort": "neuron",
        "order": "up", "neuron": f"{MODELS[0]}/{chosen(page)}",
    }  # fmt: skip
    assert f"neuron={MODELS[0]}/{chosen(page)}" in page.url  # legible
    other = open_page(sixty, "#" + page.url.partition("#")[2])
    for one_page in (page, other):
        assert listed(one_page) == listed(page) and heading(one_page) == chosen(page)
    assert all(other.locator(f"#{key}").input_value() == value for key, value in view.items() if key != "neuron")
    # The neuron's own link leaves the filters out.
    page.get_by_text("link to this neuron").click()
    assert address(page) == {"neuron": view["neuron"]} and page.locator("#count").text_content() == "60 of 60 neurons"


def test_a_bare_name_in_the_address_will_do_and_the_row_is_scrolled_into_sight(open_page, sixty):
    last = by_correlation(SIXTY)[-1]
    page = open_page(sixty, f"#neuron={last}")
    assert heading(page) == chosen(page) == last
    assert page.locator("#list").evaluate("list => list.scrollTop > 1000")


def test_back_and_forward_go_by_steps_not_by_letters(open_page, sixty):
    page = open_page(sixty)
    order = by_correlation(SIXTY)
    for at in (2, 4):  # at once: each is a step all the same
        page.locator(".row").nth(at).click()
    address(page)
    page.locator("#q").press_sequentially("pytho", delay=200)  # slowly: one step all the same
    page.locator("#q").press_sequentially("n")
    address(page)
    page.locator("#list").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    address(page)
    page.go_back()
    assert page.locator("#q").input_value() == "python" and heading(page) == order[4]
    page.go_back()
    assert page.locator("#q").input_value() == "" and heading(page) == order[4]
    page.go_back()
    assert heading(page) == chosen(page) == order[2]
    page.go_back()
    assert address(page) == {} and heading(page) == order[0]
    page.go_forward()
    assert heading(page) == order[2]


def test_a_neuron_that_is_not_there_is_said_so(open_page, sixty):
    page = open_page(sixty, "#neuron=L99/U<b>1</b>")
    assert heading(page) == "No such neuron here"
    assert "L99/U<b>1</b>" in page.locator("#detail").inner_text()
    assert page.locator("#count").text_content() == "60 of 60 neurons"
    page.locator(".row").first.click()
    assert heading(page) == by_correlation(SIXTY)[0]


def test_nonsense_in_the_address_is_passed_over(open_page, sixty):
    page = open_page(sixty, "#layer=99&category=<b>&sort=constructor&order=sideways&min=&label=x&toString=1&%")
    assert listed(page)[0] == by_correlation(SIXTY)[0]
    assert page.locator("#count").text_content() == "60 of 60 neurons"
    for low in ("abc", "7", "-1", "NaN"):
        page.evaluate("low => { location.hash = 'min=' + low }", low)
        page.wait_for_function("low => location.hash === '#min=' + low", arg=low)
        assert page.locator("#min").input_value() == "0"


def test_a_link_followed_within_the_page_changes_the_view(open_page, sixty):
    page = open_page(sixty)
    page.evaluate("() => { location.hash = 'layer=1&sort=neuron&order=up' }")
    page.wait_for_function("() => document.getElementById('layer').value === '1'")
    assert listed(page)[0] == names(n for n in SIXTY if n.members[0].layer == 1)[0]


def test_anchors_of_several_models_are_told_apart(open_page, tmp_path):
    other = one(members=(one().members[0]._replace(model="b"), one().members[1]._replace(model="a")), label="other")
    page = open_page(write(tmp_path / "v.html", [one(), other], "t"), "#neuron=b/L8/U859")
    assert page.locator("#detail h2").text_content() == "L8/U859b"
    assert [text.split(" · ")[-1] for text in page.locator(".row .label + .muted").all_text_contents()] == ["a", "b"]


# ---------------------------------------------------------------------------------------------------------------------
# Looks


@pytest.mark.parametrize("width", [320, 360, 699, 700, 1024])
def test_nothing_scrolls_sideways(open_page, tmp_path, width):
    long = one("x" * 200, {"a": [], "b": []}, label="y" * 300, members=(
        Member("a", 31, 28000, 1.0, 1e5, ("z" * 90,), None), Member("b", 31, 28000, 1.0, 1e5, (), 0.5)))  # fmt: skip
    page = open_page(
        write(tmp_path / "v.html", [long, *SIXTY], "T" * 80, "n" * 200), viewport={"width": width, "height": 740}
    )
    page.locator("#sort").select_option("kurtosis")
    assert heading(page) == "L31/U28000"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for selector in ("#detail", "#list", ".card", ".text", "figcaption"):
        assert page.locator(selector).first.evaluate("e => e.scrollWidth <= e.clientWidth"), selector
    stacked = page.locator("#detail").bounding_box()["y"] >= page.locator("#list").bounding_box()["y"] + 100
    assert stacked == (width < 700)


def test_on_a_narrow_screen_a_choice_shows_the_neuron_and_there_is_a_way_back(open_page, sixty):
    page = open_page(sixty, viewport={"width": 360, "height": 740}, has_touch=True)
    page.locator(".row").nth(1).tap()
    assert abs(page.locator("#detail").bounding_box()["y"]) < 2
    page.get_by_text("to the list").tap()
    assert page.locator("#find").bounding_box()["y"] == pytest.approx(0, abs=2)
    assert "neuron" in address(page)
    shared = open_page(sixty, "#" + page.url.partition("#")[2], viewport={"width": 360, "height": 740})
    assert abs(shared.locator("#detail").bounding_box()["y"]) < 2


def luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one_colour, other) -> float:
    """WCAG 2, 1.4.3."""
    low, high = sorted(luminance(colour) for colour in (one_colour, other))
    return (high + 0.05) / (low + 0.05)


COLOURS = """elements => elements.map(element => {
  const style = getComputedStyle(element);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [element.className, style.color, getComputedStyle(behind).backgroundColor, style.borderColor];
})"""


def rgb(colour: str) -> tuple[float, ...]:
    assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", colour), colour
    return tuple(map(float, re.findall(r"\d+", colour)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_and_heat_is_one_way_from_pale_to_strong(open_page, sixty, scheme):
    page = open_page(sixty, color_scheme=scheme)
    page_colour = rgb(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert (luminance(page_colour) > 0.5) == (scheme == "light")
    everything = page.locator("h1, p, a:visible, label, input, select, button, kbd, .row *, #detail :is(h2, h3, h4, dt, dd, "
                              "li, span, figcaption, .tag, .text, .muted)").evaluate_all(COLOURS)  # fmt: skip
    assert len(everything) > 200
    low = {tuple(found[:3]) for found in everything if contrast(rgb(found[1]), rgb(found[2])) < 4.5}
    assert not low
    ramp = {found[0]: found for found in page.locator(".ramp i").evaluate_all(COLOURS)}
    steps = [luminance(rgb(ramp[f"heat-{i}"][2])) for i in range(9)]
    assert steps == sorted(steps, reverse=scheme == "light") and len(set(steps)) == 9
    for i in range(9):
        assert contrast(rgb(ramp[f"heat-{i}"][1]), rgb(ramp[f"heat-{i}"][2])) >= 4.5, i
    # 1.4.11: the outline of a control.
    for found in page.locator("input[type=search], select").evaluate_all(COLOURS):
        assert contrast(rgb(found[3]), rgb(found[2])) >= 3
    page.locator(".row").nth(2).hover()
    page.wait_for_timeout(200)
    for found in page.locator(".row:hover > *").evaluate_all(COLOURS):
        assert contrast(rgb(found[1]), rgb(found[2])) >= 4.5


def test_heat_differs_for_the_colour_blind_too(open_page, sixty):
    """Its lightness alone tells neighbouring steps apart, so no kind of colour vision is needed."""
    for scheme in ("light", "dark"):
        page = open_page(sixty, color_scheme=scheme)
        ramp = [luminance(rgb(found[2])) for found in page.locator(".ramp i").evaluate_all(COLOURS)]
        lightness = [116 * (y ** (1 / 3) if y > 0.008856 else 7.787 * y + 16 / 116) - 16 for y in ramp]
        assert min(abs(a - b) for a, b in zip(lightness[1:], lightness[:-1], strict=True)) > 3


def test_motion_is_there_only_for_those_who_do_not_mind_it(open_page, sixty):
    still = open_page(sixty, reduced_motion="reduce")
    moving = open_page(sixty, reduced_motion="no-preference")
    duration = "() => getComputedStyle(document.querySelector('.row')).transitionDuration"
    assert still.evaluate(duration) == "0s" and moving.evaluate(duration) != "0s"


def test_on_paper_there_is_the_neuron_alone_and_whole(open_page, sixty):
    page = open_page(sixty, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#find").is_visible() and page.locator("#detail h2").is_visible()
    assert page.locator("#detail").evaluate("e => getComputedStyle(e).overflowY") == "visible"
    colour = rgb(page.locator("#detail h2").evaluate("e => getComputedStyle(e).color"))
    assert contrast(colour, (255, 255, 255)) > 7


def test_without_javascript_the_page_says_what_it_needs(browser, sixty):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(sixty.as_uri())
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    assert page.locator("h1").inner_text() == "Sixty"
    context.close()


# ---------------------------------------------------------------------------------------------------------------------
# A thousand neurons


def test_a_thousand_neurons_stay_below_15_mb(thousand):
    assert 2e6 < thousand.stat().st_size < 15e6


def test_a_thousand_neurons_paint_within_2_seconds(open_page, thousand):
    times = []
    for _ in range(3):
        page = open_page(thousand)
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        times.append(page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        assert page.locator("#count").text_content() == "1,000 of 1,000 neurons"
    assert statistics.median(times) < 2000


def test_a_thousand_neurons_filter_within_100_ms(open_page, thousand):
    page = open_page(thousand)
    times = page.evaluate("""() => {
      const times = [];
      const set = (id, value) => {
        const control = document.getElementById(id), begin = performance.now();
        control.value = value;
        control.dispatchEvent(new Event("input", {bubbles: true}));
        document.getElementById("detail").getBoundingClientRect();  // laid out, too
        times.push([performance.now() - begin, document.getElementById("count").textContent]);
      };
      for (const [id, value] of [["q", "p"], ["q", "python"], ["q", ""], ["min", "0.7"], ["layer", "3"], ["min", "0"],
          ["category", "code"], ["sort", "kurtosis"], ["layer", ""], ["category", ""], ["q", "L3/U9"]]) set(id, value);
      return times;
    }""")
    assert len({count for _, count in times}) > 6  # it did filter
    assert statistics.median(time for time, _ in times) < 100


def test_only_the_rows_in_sight_are_in_the_page(open_page, thousand):
    page = open_page(thousand)
    assert page.locator(".row").count() < 60
    last = page.locator(".row").last.text_content()
    page.locator("#list").evaluate("list => list.scrollTop = 40000")
    page.wait_for_function("text => document.querySelector('.row:last-child').textContent !== text", arg=last)
    middle = page.locator("#list").evaluate(
        "list => { const r = list.getBoundingClientRect();"
        " return document.elementFromPoint(r.x + 40, r.y + r.height / 2).closest('.row').ariaPosInSet; }"
    )
    assert 500 < int(middle) < 600


# ---------------------------------------------------------------------------------------------------------------------
# Pictures

PAIR, GRIDS = ("onestep-64x4", "openclip-64x4"), ((8, 8), (7, 7))
#: One pixel a cell of a map that fires in one ninth of the picture.
PLACES = {
    (0, 0): "at top left", (0, 3): "at top", (0, 7): "at top right", (4, 0): "at left", (3, 3): "in the middle",
    (4, 7): "at right", (7, 0): "at bottom left", (7, 4): "at bottom", (7, 7): "at bottom right",
}  # fmt: skip


def plain(colour: tuple[int, int, int], side: int = 16) -> bytes:
    return webp(np.full((side, side, 3), colour, dtype=np.uint8))


def seen(n: int, examples: int = 6, distinct: int = 60, seed: int = 0) -> list[RosettaNeuron]:
    """Neurons of two models, each with its strongest pictures; some are among those of both."""
    rng = np.random.default_rng(seed)
    files, _ = packed({i: rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for i in range(distinct)})
    neurons = []
    for i in range(n):
        members = tuple(
            Member(model, (i + at) % 4, 3 * i + at, (i + at) % 4 / 3, math.nan, (), (None, round(rng.uniform(0.1, 1), 4))[at],
                   f"kind-{i % 7} of thing" if at and i % 2 else "")
            for at, model in enumerate(PAIR)
        )  # fmt: skip
        top = [rng.permutation(distinct)[:examples] for _ in PAIR]
        top[1][0] = top[0][-1] if top[0][-1] not in top[1] else top[1][0]
        sights = []
        for number in dict.fromkeys(np.concatenate(top).tolist()):
            ranks = {model: of.tolist().index(number) + 1 for model, of in zip(PAIR, top, strict=True) if number in of}
            maps = {model: 3 * rng.standard_normal(grid) for model, grid in zip(PAIR, GRIDS, strict=True)}
            sights.append(Sight(files[number], number, f"caption {number}", ranks, maps))
        label = next((m.description for m in members if m.description), "")
        neurons.append(RosettaNeuron(members, label, f"class {i % 3}", tuple(sights)))
    return neurons


def looked(**changes) -> RosettaNeuron:
    """A Rosetta Neuron of two models with one grey picture: the first fires in one cell, the second in all but little."""
    hot = np.zeros((8, 8))
    hot[0, 7] = 2.0
    sight = Sight(plain((200, 200, 200)), 17, "a ring", {"a": 1}, {"a": hot, "b": np.full((2, 2), -1.0)})
    return one()._replace(contexts=(sight._replace(**changes),))


TWENTY = seen(20)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("viewer") / "twenty.html", TWENTY, "Twenty")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-10, 10), min_size=12, max_size=12), min_size=1, max_size=4))
def test_a_map_is_each_cells_share_of_the_members_peak_row_by_row(values):
    maps = [np.reshape(one_map, (3, 4)) for one_map in values]
    sights = tuple(Sight(plain((i, 0, 0)), i, "", {"a": i + 1}, {"a": m, "b": -m}) for i, m in enumerate(maps))
    pictures = {}
    packed_neuron = viewer._pack(one()._replace(contexts=sights), pictures)
    for i, sign in enumerate((1, -1)):
        peak = max(0.0, max((sign * m).max() for m in maps))
        assert packed_neuron["members"][i]["peak"] == pytest.approx(peak, rel=1e-4)
        for number, (m, kept) in enumerate(zip(maps, packed_neuron["contexts"], strict=True)):
            expected = [max(0.0, sign * x / peak) if peak else 0.0 for row in m.tolist() for x in row]
            assert [viewer.DIGITS.index(digit) for digit in kept["maps"][i]] == pytest.approx(
                [63 * e for e in expected], abs=0.5 + 1e-9
            )
            assert kept["columns"] == [4, 4] and kept["ranks"] == [number + 1, None]


def test_a_picture_of_several_neurons_is_written_once(tmp_path):
    data = data_in(write(tmp_path / "v.html", TWENTY, "t"))
    files = {sight.picture for neuron in TWENTY for sight in neuron.contexts}
    assert sorted(map(base64.b64decode, data["pictures"])) == sorted(files) and len(files) <= 60 < 20 * 12
    for neuron, kept in zip(TWENTY, data["neurons"], strict=True):
        for sight, of in zip(neuron.contexts, kept["contexts"], strict=True):
            assert base64.b64decode(data["pictures"][of["picture"]]) == sight.picture and of["number"] == sight.number


def test_only_a_file_of_pictures_may_show_any_and_only_its_own(tmp_path):
    policies = []
    for neurons in ([one()], [looked()]):
        path = write(tmp_path / "v.html", neurons, "t")
        policies += [a["content"] for a, _ in blocks(path, "meta") if a.get("http-equiv") == "Content-Security-Policy"]
    text, pictures = policies
    assert "img-src" not in text and pictures.replace("img-src data:; ", "") == text


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([one(), looked()], "L8/U859 of a fires on a text, others on pictures"),
        ([looked(picture=b"<svg onload='window.pwned = 1'/>")], "image 17: the picture is no WebP file"),
        ([looked(maps={"a": np.zeros((8, 8))})], r"image 17: maps of \['a'\] and ranks of \['a'\], but members of"),
        ([looked(ranks={"c": 1})], r"ranks of \['c'\], but members of \['a', 'b'\]"),
        ([looked(maps={"a": np.zeros(64), "b": np.zeros((2, 2))})], "the map of 'a' is not finite, or no grid"),
        ([looked(maps={"a": np.zeros((8, 8)), "b": np.full((2, 2), np.nan)})], "the map of 'b' is not finite"),
    ],
)
def test_what_cannot_be_seen_is_refused_by_name(tmp_path, neurons, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "v.html", neurons, "t")
    assert not list(tmp_path.iterdir())


def test_both_models_strongest_pictures_are_shown_each_under_both_maps_and_said_in_words(open_page, twenty):
    page = open_page(twenty)
    neuron = max(TWENTY, key=best)
    assert heading(page) == name(neuron.members[0])
    sections = page.locator("section.context")
    assert sections.count() == 2
    for at, member in enumerate(neuron.members):
        section = sections.nth(at)
        assert f"{member.model} {name(member)}" in section.locator("h4").inner_text()
        own = sorted((s for s in neuron.contexts if member.model in s.ranks), key=lambda s: s.ranks[member.model])
        assert section.locator("figcaption").all_inner_texts() == [
            f"{i}. image {sight.number}: {sight.caption}" for i, sight in enumerate(own, start=1)
        ]
        alts = section.locator("img").evaluate_all("all => all.map(image => image.alt)")
        assert len(alts) == 3 * len(own) and section.locator("canvas").count() == 2 * len(own)
        for i, sight in enumerate(own):
            which = f"image {sight.number}, strongest {i + 1} of {len(own)}"
            assert alts[3 * i] == f"{which} for {member.model} {name(member)}: {sight.caption}"
            for other, alt in zip(neuron.members, alts[3 * i + 1 : 3 * i + 3], strict=True):
                assert re.fullmatch(
                    rf"{which}: {other.model} {name(other)} (fires (at [a-z ]+|in the middle), \d+% of its peak|is silent): {sight.caption}",
                    alt,
                ), alt
    assert page.locator("img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth === 48)")


def test_the_place_where_a_neuron_fires_is_said_in_words(open_page, tmp_path):
    sights = []
    for number, cell in enumerate(PLACES):
        hot = np.zeros((8, 8))
        hot[cell] = number + 1.0
        sights.append(Sight(plain((9, 9, 9)), number, "", {"a": number + 1}, {"a": hot, "b": np.full((2, 2), -1.0)}))
    page = open_page(write(tmp_path / "v.html", [one()._replace(contexts=tuple(sights))], "t"))
    alts = page.locator("img").evaluate_all("all => all.map(image => image.alt)")
    for number, words in enumerate(PLACES.values()):
        share = round(100 * round(63 * (number + 1) / len(PLACES)) / 63)
        which = f"image {number}, strongest {number + 1} of 9"
        assert alts[3 * number : 3 * number + 3] == [
            f"{which} for a L8/U859", f"{which}: a L8/U859 fires {words}, {share}% of its peak", f"{which}: b L2/U7 is silent"
        ]  # fmt: skip
    assert page.locator("section.context").nth(1).inner_text().endswith("no images were kept")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_map_really_lies_over_its_picture(open_page, tmp_path, scheme):
    page = open_page(write(tmp_path / "v.html", [looked()], "t"), color_scheme=scheme)
    shots = [np.asarray(Image.open(io.BytesIO(panel.screenshot())).convert("RGB")).astype(int)
             for panel in page.locator(".panel").all()]  # fmt: skip
    height, width = shots[0].shape[:2]

    def at(shot, row, column):
        return shot[int((row + 0.5) * height / 8), int((column + 0.5) * width / 8)]

    for cell in ((0, 0), (0, 7), (4, 4), (7, 7)):
        assert abs(at(shots[0], *cell) - 200).max() <= 3  # as it is
        assert abs(at(shots[2], *cell) - 120).max() <= 3  # silent: darker and grey, clear everywhere
    for row in range(8):
        for column in range(8):
            red, _, blue = at(shots[1], row, column)
            if (row, column) == (0, 7):
                assert red > 200 and red - blue > 30
            else:
                assert abs(red - 120) <= 3 and abs(red - blue) <= 1, (row, column)
    glow = page.locator(".panel canvas").first.evaluate(
        "c => [c.width, c.height, ...c.getContext('2d').getImageData(7, 0, 1, 1).data]"
    )
    assert glow[:2] == [8, 8] and glow[5] == 180


def test_the_ramp_goes_from_dark_to_bright_for_every_eye(open_page, twenty):
    for scheme in ("light", "dark"):
        page = open_page(twenty, color_scheme=scheme)
        shot = np.asarray(Image.open(io.BytesIO(page.locator(".ramp.glow canvas").screenshot())).convert("RGB"))
        steps = [luminance(tuple(shot[shot.shape[0] // 2, int((i + 0.5) * shot.shape[1] / 9)])) for i in range(9)]
        assert steps == sorted(steps) and len(set(steps)) == 9


def test_neurons_that_see_are_found_by_layer_and_unit_of_either_model_and_by_description(open_page, twenty):
    page = open_page(twenty, viewport=TALL)
    neuron = TWENTY[7]
    for member in neuron.members:
        page.locator("#q").fill(name(member))
        assert listed(page) == [name(neuron.members[0])] == [heading(page)]
    page.locator("#q").fill("L2")
    assert listed(page) == by_correlation(n for n in TWENTY if any(m.layer == 2 for m in n.members))
    page.locator("#q").fill("kind-3")
    described = [n for n in TWENTY if "kind-3" in n.label]
    assert described and listed(page) == by_correlation(described)
    assert page.locator(".row .label").all_text_contents() == [
        n.label for n in sorted(described, key=best, reverse=True)
    ]
    assert page.locator(".card .description").all_text_contents() == ["kind-3 of thing"]
    page.locator("#clear").click()
    assert page.locator(".row .label").all_text_contents().count("not described") == 10


def test_the_controls_are_those_that_make_sense_of_pictures(open_page, twenty, sixty):
    page = open_page(twenty, viewport=TALL)
    for role, label in (("searchbox", "Search name, description"), ("combobox", "Class of most images")):
        assert page.get_by_role(role, name=label).count() == 1
    assert page.locator("#sort option").all_text_contents() == ["correlation", "layer and unit", "depth"]
    assert not page.locator("#label-filter").is_visible()
    assert "kurtosis" not in page.locator("body").inner_text() and page.locator(".promotes").count() == 0
    page.locator("#category").select_option("class 1")
    page.locator("#layer").select_option("3")
    set_range(page, "0.3")
    expected = [n for n in TWENTY if n.category == "class 1" and n.members[0].layer == 3 and best(n) >= 0.3]
    assert expected and listed(page) == by_correlation(expected)
    for path in (twenty, sixty):
        keys = open_page(path).locator("#keys")
        assert keys.is_visible() and keys.locator("kbd").all_text_contents() == ["n", "↓", "p", "↑", "/", "Esc"]


def test_pictures_by_the_keyboard_alone_and_by_their_address(open_page, twenty):
    page, order = open_page(twenty), by_correlation(TWENTY)
    for key, at in (("n", 1), ("n", 2), ("p", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("p", 0), ("p", 0)):
        page.keyboard.press(key)
        assert heading(page) == chosen(page) == order[at]
        assert (
            page.locator("img")
            .first.get_attribute("alt")
            .endswith(
                next(
                    s.caption
                    for n in TWENTY
                    if name(n.members[0]) == order[at]
                    for s in n.contexts
                    if s.ranks.get(PAIR[0]) == 1
                )
            )
        )
    page.locator("#q").focus()
    page.keyboard.type("np")
    assert page.locator("#q").input_value() == "np"
    page.keyboard.press("Escape")
    page.locator("#category").select_option("class 2")
    page.locator("#list").focus()
    page.keyboard.press("n")
    view = address(page)
    assert view == {"category": "class 2", "neuron": f"{PAIR[0]}/{heading(page)}"}
    other = open_page(twenty, "#" + page.url.partition("#")[2])
    assert heading(other) == heading(page) and listed(other) == listed(page)
    assert other.locator("img").first.get_attribute("alt") == page.locator("img").first.get_attribute("alt")


def test_hostile_captions_and_descriptions_stay_text(open_page, tmp_path):
    traps = " ".join((*hostile.TRAPS, HOSTILE))
    neuron = looked(caption=traps)
    members = tuple(member._replace(description=traps) for member in neuron.members)
    path = write(tmp_path / "v.html", [neuron._replace(members=members, label=traps, category=traps)], traps, traps)
    assert not re.search("[<>&\u2028\u2029]", blocks(path, "script")[0][1])
    page = open_page(path)
    shown = traps.replace("\ud83d", "\ufffd")
    assert page.locator(".description").all_text_contents() == [shown, shown]
    assert shown in page.locator("figcaption").text_content() and page.locator("img").count() == 3
    assert page.locator("img").evaluate_all("all => all.map(i => i.src.slice(0, 22))") == ["data:image/webp;base64"] * 3
    assert page.locator("img").first.get_attribute("alt") == f"image 17, strongest 1 of 1 for a L8/U859: {shown}"
    assert page.locator("script").count() == 2


def test_a_file_of_pictures_fetches_none(browser, twenty):
    page = browser.new_page()
    page.goto(twenty.as_uri())
    for source in ("https://example.org/x.gif", "x.gif"):
        refused = page.evaluate(
            """source => new Promise(done => {
              addEventListener("securitypolicyviolation", event => done(event.effectiveDirective), {once: true});
              setTimeout(() => done("nothing"), 3000);
              document.body.append(Object.assign(new Image(), {src: source}));
            })""",
            source,
        )
        assert refused == "img-src", source
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_about_pictures_have_contrast(open_page, twenty, scheme):
    page = open_page(twenty, "#q=kind", color_scheme=scheme)
    words = page.locator(
        "#detail :is(h2, h3, h4, b, p, dt, dd, figcaption, figcaption span), #keys, #keys kbd"
    ).evaluate_all(COLOURS)
    assert len(words) > 30 and page.locator(".description").count()
    assert not {tuple(found[:3]) for found in words if contrast(rgb(found[1]), rgb(found[2])) < 4.5}


@pytest.mark.parametrize("width", [320, 360, 700, 1024])
def test_pictures_do_not_scroll_sideways(open_page, tmp_path, width):
    long = looked(caption="x" * 200)
    long = long._replace(members=tuple(m._replace(description="y" * 200) for m in long.members), category="z" * 80)
    page = open_page(write(tmp_path / "v.html", [long], "t"), viewport={"width": width, "height": 740})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for selector in ("#detail", "#keys", ".card", ".sight"):
        assert page.locator(selector).first.evaluate("e => e.scrollWidth <= e.clientWidth"), selector
    boxes = [panel.bounding_box() for panel in page.locator(".panel").all()]
    assert {round(box["width"] - box["height"]) for box in boxes} == {0} and min(box["width"] for box in boxes) > 60


@pytest.fixture(scope="module")
def five_hundred(tmp_path_factory) -> Path:
    """The pictures take what they may, or nearly."""
    neurons = seen(500, distinct=3_500)
    return write(tmp_path_factory.mktemp("viewer") / "pictures.html", neurons, "Five hundred", "synthetic")


def test_five_hundred_neurons_that_see_stay_below_15_mb_and_none_is_drawn_before_it_is_opened(open_page, five_hundred):
    assert 8e6 < five_hundred.stat().st_size < 15e6
    page = open_page(five_hundred)
    assert page.locator("#count").text_content() == "500 of 500 neurons"
    assert page.locator("img").count() == 36 and page.locator("#detail canvas").count() == 24 + 1


@pytest.mark.timing
def test_five_hundred_neurons_that_see_paint_within_300_ms(open_page, five_hundred):
    times = []
    for _ in range(5):
        page = open_page(five_hundred)
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        times.append(page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    assert statistics.median(times) < 300, times


# ---------------------------------------------------------------------------------------------------------------------
# In a notebook


def test_the_address_is_relative_to_the_notebook_that_is_open_or_to_the_batchs_copy(tmp_path, monkeypatch):
    page, executed = tmp_path / "results" / "micro" / "explorer.html", tmp_path / "results" / "micro" / "notebooks"
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert viewer.address(page, executed) == "../explorer.html"
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "notebooks" / "06.ipynb"))
    assert viewer.address(page, executed) == "../results/micro/explorer.html"
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "06.ipynb"))
    elsewhere = tmp_path / 'my <b>"results" (1)' / "explorer.html"
    assert viewer.address(elsewhere, executed) == "my%20%3Cb%3E%22results%22%20%281%29/explorer.html"
