import argparse
import ast
import heapq
import inspect
import json
import textwrap

import pytest

from rosetta.sources import cutters
from rosetta.sources.cutters import c_functions, cython_functions, javascript_functions, python_functions

# ---------------------------------------------------------------------------------------------------------------------
# Cutting functions out of files


def outermost(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from outermost(child)


def without_docstrings(function):
    function.decorator_list = []
    for node in ast.walk(function):
        definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if definition and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return function


@pytest.mark.parametrize("module", [heapq, ast, textwrap, argparse, json.decoder])
def test_python_functions_are_those_of_the_syntax_tree_without_docstrings(module, monkeypatch):
    monkeypatch.setattr(cutters, "LONGEST", 10**6)
    source = inspect.getsource(module)
    expected = [without_docstrings(function) for function in outermost(ast.parse(source))]
    found = [ast.parse(text).body for text in python_functions(source)]
    assert all(len(body) == 1 for body in found)
    assert [ast.dump(body[0]) for body in found] == [ast.dump(function) for function in expected if function.body]


PYTHON = '''
@decorated
def outer(a,
          b):
    """Says what it does

    on several lines."""
    def inner():
        "Inner."
        return a
    return inner


def described():
    """Only a docstring."""


class A:
    """A class."""

    async def method(self):
        text = """not a docstring"""
        return text
'''


def test_a_python_function_loses_decorators_docstrings_and_indentation():
    assert list(python_functions(PYTHON)) == [
        "def outer(a,\n          b):\n    def inner():\n        return a\n    return inner\n",
        'async def method(self):\n    text = """not a docstring"""\n    return text\n',
    ]


def test_python_that_cannot_be_parsed_has_no_functions():
    assert list(python_functions("def broken(:\n    pass\n")) == list(python_functions("a\0b")) == []


C = """
#include <vector>
class API Exported : public Base {
  int x;
  T& get() {
    return x;
  }
  virtual void declared() = 0;
};

template <class T>
static T* Space::outer(int a)
{
  auto inner = [](int b) {
    return b;
  };
  return inner(a);
}
explicit MACRO Broken(int a);
  Broken(int b) : Broken() {
    b = 1;
  }
"""


def test_c_functions_are_the_outermost_definitions_that_the_grammar_can_read():
    assert list(c_functions(C)) == [
        "T& get() {\n  return x;\n}",
        "static T* Space::outer(int a)\n{\n  auto inner = [](int b) {\n    return b;\n  };\n  return inner(a);\n}",
    ]


JAVASCRIPT = """
const π = (a) => {
  return [1, 2].map(function (x) { return x + a; });
};
  Thing.prototype.go = function () {
    return 'gö';
  };
class A {
  *method() {
    yield 1;
  }
}
async function named() { await x; }
"""


def test_javascript_functions_are_the_outermost_of_every_form():
    assert list(javascript_functions(JAVASCRIPT)) == [
        "(a) => {\n  return [1, 2].map(function (x) { return x + a; });\n}",
        "function () {\n    return 'gö';\n  }".replace("\n  ", "\n"),
        "*method() {\n  yield 1;\n}",
        "async function named() { await x; }",
    ]


CYTHON = '''
cimport numpy as np
cdef extern from "math.h":
    double sin(double x)

cdef int total = compute(3)

cdef inline double half(
    double x,
) noexcept nogil:  # halves
    """Half of x."""
    return x / 2

cdef class Tree(Base):
    cdef void init(self, const int& type)
    cpdef object grow(self, int n=(1)):
        def inner():
            return n

        return inner

    async def wait(self):
        r\'\'\'Waits

        long.\'\'\'
        pass
ctypedef int number
'''


def test_cython_functions_are_cut_at_their_indentation():
    assert list(cython_functions(CYTHON)) == [
        "cdef inline double half(\n    double x,\n) noexcept nogil:  # halves\n    return x / 2\n\n",
        "cpdef object grow(self, int n=(1)):\n    def inner():\n        return n\n\n    return inner\n\n",
        "async def wait(self):\n    pass\n",
    ]


@pytest.mark.parametrize(
    ("cutter", "inner", "outer"),
    [
        (python_functions, "def inner():\n    return 1\n", "def outer():\n{}\n    return 0\n"),
        (cython_functions, "cdef int inner():\n    return 1\n", "def outer():\n{}\n    return 0\n"),
        (javascript_functions, "function inner() {\n  return 1;\n}", "(function () {{\n{}\n}})();\n"),
    ],
)
def test_a_function_that_is_too_long_gives_way_to_those_inside(cutter, inner, outer, monkeypatch):
    source = outer.format(textwrap.indent(inner, "    "))
    (whole,) = cutter(source)
    assert whole.count("\n") > inner.count("\n")
    monkeypatch.setattr(cutters, "LONGEST", len(whole))
    assert list(cutter(source)) == [whole]
    monkeypatch.setattr(cutters, "LONGEST", len(whole) - 1)
    assert [text.strip() for text in cutter(source)] == [inner.strip()]
    monkeypatch.setattr(cutters, "LONGEST", len(inner) - 1)
    assert list(cutter(source)) == []
