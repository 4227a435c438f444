import ast
import itertools
import math
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta import sources
from rosetta.sources import environment
from rosetta.sources.document import Document

# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def docstrings_of(source: str) -> list[str]:
    """What Python itself would show as the docstrings of a module, in order of their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    return [text for _, text in sorted(found)]


NESTED = '''"""Module."""
import os


class A:
    """Class A,

    on several lines.
    """

    x = "not a docstring"

    def f(self):
        "One line."

        async def g():
            """Inner."""
            return 1

        return g

    def bare(self):
        """no docstring follows"""
        """a second string is not one"""
        return os
'''


def test_docstrings_are_those_that_python_itself_would_show():
    code, docstrings = environment.split_docstrings(NESTED)
    assert docstrings == "\n\n".join(docstrings_of(NESTED))
    for text in docstrings_of(NESTED):
        assert text not in code
    assert "a second string is not one" in code and "not a docstring" in code


@st.composite
def modules(draw):
    """Source of nested definitions, each with code of its own, and the number of the docstrings it was given."""
    counter = itertools.count()
    lines, docstrings = [], []

    def block(depth):
        indent = "    " * depth
        if draw(st.booleans()):
            words = f"Docstring {next(counter)}."
            more = draw(st.booleans())
            quote = draw(st.sampled_from(['"""', "'''"]))
            lines.extend([f"{indent}{quote}{words}", f"{indent}More of it.{quote}"] if more else [f'{indent}"{words}"'])
            docstrings.append(f"{words}\nMore of it." if more else words)
        for _ in range(draw(st.integers(0, 2)) if depth < 3 else 0):
            kind = draw(st.sampled_from(["def f{}():", "class C{}:", "async def g{}():"]))
            lines.append(indent + kind.format(next(counter)))
            block(depth + 1)
        lines.append(f"{indent}x{next(counter)} = 1")

    block(0)
    return "\n".join(lines) + "\n", docstrings


@settings(deadline=None, max_examples=60)
@given(modules())
def test_code_and_docstrings_are_parted_without_loss(module):
    source, expected = module
    code, docstrings = environment.split_docstrings(source)
    assert docstrings == "\n\n".join(expected)
    assert docstrings_of(code) == []
    # Every definition here has a statement of its own, so what is left is the same program.
    stripped = ast.parse(source)
    for node in ast.walk(stripped):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node)
        ):
            node.body = node.body[1:]
    assert ast.dump(ast.parse(code)) == ast.dump(stripped)


def test_only_what_ends_a_line_for_python_counts_as_one():
    # For str.splitlines, but not for Python, a form feed and U+2028 end a line too.
    source = 'a = 1\x0c\nb = "\u2028"\n\n\ndef f():\n    """Doc."""\n    return a\n'
    assert environment.split_docstrings(source) == (source.replace('    """Doc."""\n', ""), "Doc.")


@pytest.mark.parametrize("source", ["def broken(:\n  '''doc'''\n", "print 'python 2'\n", "a\0b", ""])
def test_what_is_no_python_stays_as_it_is(source):
    assert environment.split_docstrings(source) == (source, "")


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic


def right_answer(question: str) -> str:
    """Solve one generated question from its words alone."""
    numbers = [int(n) for n in re.findall(r"-?\d+", question)]
    if match := re.search(r"the (sum|product|difference) of (\d+) and (\d+)", question):
        a, b = int(match[2]), int(match[3])
        return str({"sum": a + b, "product": a * b, "difference": a - b}[match[1]])
    if match := re.fullmatch(r"Solve (\d+)\*(\w) \+ (\d+) = (\d+) for \2\.", question):
        solutions = [n for n in range(1000) if int(match[1]) * n + int(match[3]) == int(match[4])]
        assert len(solutions) == 1
        return str(solutions[0])
    if match := re.fullmatch(r"Let f\((\w)\) = (.*)\. What is f\((\d+)\)\?", question):
        terms = re.fullmatch(rf"(\d+)\*{match[1]}\*\*2 - (\d+)\*{match[1]} \+ (\d+)", match[2])
        at, (p, q, r) = int(match[3]), map(int, terms.groups())
        return str(p * at * at - q * at + r)
    if question.startswith("Sort "):
        left, ordered = list(numbers), []
        while left:
            ordered.append(left.pop(left.index(min(left))))
        return ", ".join(map(str, ordered))
    if question.startswith("Calculate the remainder when "):
        return str(int(math.fmod(*numbers)))
    if match := re.fullmatch(r"How many (\w+) are there in (\d+) (\w+)\?", question):
        factors = {("minutes", "hours"): 60, ("centimetres", "metres"): 100, ("days", "weeks"): 7}
        return str(int(match[2]) * factors[match[1], match[3]])
    if match := re.fullmatch(r"Is (\d+) a prime number\?", question):
        return str(sum(int(match[1]) % d == 0 for d in range(1, int(match[1]) + 1)) == 2)
    if question.startswith("Calculate the greatest common divisor of "):
        return str(math.gcd(*numbers))
    raise AssertionError(f"an unknown question: {question}")


def test_every_arithmetic_answer_is_right():
    openings = set()
    for index in range(200):
        lines = environment.arithmetic(index).splitlines()
        assert 15 <= len(lines) / 2 <= 40
        for question, answer in zip(lines[::2], lines[1::2], strict=True):
            assert answer == right_answer(question), question
            openings.add(" ".join(question.split()[:2]))
    assert {"Sort " not in o for o in openings} == {True, False} and len(openings) >= 8


def test_an_arithmetic_page_depends_on_its_number_alone():
    assert environment.arithmetic(7) == environment.arithmetic(7) != environment.arithmetic(8)


# ---------------------------------------------------------------------------------------------------------------------
# Held-out paths


def test_one_path_in_ten_is_held_out():
    n = 20_000
    held_out = sum(environment.is_heldout(f"package/module_{i}.py") for i in range(n))
    assert abs(held_out - n / 10) < 5 * math.sqrt(n * 0.1 * 0.9)


def test_the_same_paths_are_held_out_everywhere_and_always():
    # First bytes of SHA-256, worked out with `printf %s PATH | sha256sum`.
    digests = {"mpmath/ctx_mp.py": 0xD7D2304E, "arithmetic/0": 0xFF73AAE4, "arithmetic/5": 0xAA1366E0}
    for path, digest in digests.items():
        assert environment.is_heldout(path) == (digest % 10 == 0), path
    assert any(digest % 10 == 0 for digest in digests.values())


# ---------------------------------------------------------------------------------------------------------------------
# The environment corpus


@pytest.fixture
def small_environment(monkeypatch):
    """The environment corpus over a handful of small distributions."""
    for name, few in {
        "SCIENTIFIC": ("mpmath",), "GENERAL": ("jinja2",), "PYTHON_CODE": ("mpmath", "jinja2"), "HEADERS": (),
        "CYTHON": ("pyarrow",), "DESCRIBED": ("mpmath", "jinja2", "tqdm"), "ARITHMETIC_DOCUMENTS": 60,
    }.items():  # fmt: skip
        monkeypatch.setattr(environment, name, few)
    environment.distributions.cache_clear()
    yield
    environment.distributions.cache_clear()


def test_no_file_is_on_both_sides_of_the_split(small_environment):
    heldout, train = (environment.environment_documents(split) for split in ("heldout", "train"))
    files = [{d.source.partition("#")[0] for d in side} for side in (heldout, train)]
    assert files[0] and files[1] and not files[0] & files[1]
    assert {f"arithmetic/{i}" for i in range(60)} <= files[0] | files[1]
    for document in heldout + train:
        assert document.category in sources.CATEGORIES
        assert document.category == environment.ENVIRONMENT_CATEGORIES[document.subset]
        assert document.text.strip() and unicodedata.is_normalized("NFC", document.text)
    assert {d.subset for d in train} == set(environment.ENVIRONMENT_SHARES) - {"C/C++"}


def test_kept_documents_are_those_that_were_read(small_environment, tmp_path, monkeypatch):
    read = environment.environment_documents("heldout")
    assert environment.environment_documents("heldout", tmp_path) == read
    monkeypatch.setattr(environment, "_read_environment", lambda split: pytest.fail("read a second time"))
    assert environment.environment_documents("heldout", tmp_path) == read


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'test'.*heldout.*train"):
        environment.environment_documents("test")


def test_every_subset_has_a_category_and_a_share():
    assert environment.ENVIRONMENT_CATEGORIES.keys() == environment.ENVIRONMENT_SHARES.keys()
    assert set(environment.ENVIRONMENT_CATEGORIES.values()) <= set(sources.CATEGORIES)
    assert math.isclose(sum(environment.ENVIRONMENT_SHARES.values()), 1)


@pytest.fixture
def recorded():
    documents = [
        Document("x" * size, subset, "code", f"{subset}/{i}")
        for subset, i, size in (("Python", 0, 5), ("Python", 1, 6), ("Cython", 0, 7))
    ]
    record = {
        "distributions": dict(environment.distributions()),
        "heldout": {
            # sha256sum of eleven and of seven times the letter x
            "Python": {
                "documents": 2,
                "bytes": 11,
                "sha256": "7668d2cd32a37eb45b51f002690d1b9a7c03f2da91791f96227ba9a61952fce8",
            },
            "Cython": {
                "documents": 1,
                "bytes": 7,
                "sha256": "7b70d3ab4c7641542e1f158b458eeae7cfb7bdb815d4110cc6178bafcfdf43f8",
            },
        },
    }
    return documents, record


def test_a_manifest_counts_and_digests_each_subset(recorded):
    documents, record = recorded
    assert environment.manifest(documents) == record["heldout"]
    assert environment.differences("heldout", documents, record) == []


def test_a_changed_subset_and_a_changed_distribution_are_named(recorded):
    documents, record = recorded
    here = record["distributions"]["numpy"]
    record["distributions"]["numpy"] = "0.0.1"
    changed = [d._replace(text="y" * 7) if d.subset == "Cython" else d for d in documents]
    (message,) = environment.differences("heldout", changed, record)
    assert "Cython" in message and f"numpy {here} instead of 0.0.1" in message
    assert "Python" not in message and "scipy" not in message


def test_a_missing_subset_and_unchanged_versions_are_told(recorded):
    documents, record = recorded
    (message,) = environment.differences("heldout", [d for d in documents if d.subset == "Python"], record)
    assert "Cython" in message and "versions are the same" in message


def test_what_only_some_pythons_have_is_no_part_of_the_corpus():
    assert environment.file_kind("numpy", "numpy/distutils/core.py") is None
    assert environment.file_kind("numpy", "numpy/_core/numeric.py") == "py"
