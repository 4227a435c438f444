"""Cut a source file into its functions: a parser a language."""

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO

import tree_sitter
import tree_sitter_cpp
import tree_sitter_javascript

#: Characters. What is longer, such as the function that wraps a bundle, gives way to the functions inside it.
LONGEST = 8_000


def python_functions(source: str) -> Iterator[str]:
    """The functions of a Python module without their docstrings; one that is nothing but a docstring is left out."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = list(StringIO(source, newline=""))

    def cut(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from cut(child)
                continue
            inside = range(child.lineno - 1, child.end_lineno)
            text = textwrap.dedent("".join(lines[i] for i in inside if i not in docstring_lines))
            if len(text) > LONGEST:
                yield from cut(child)
            elif len(child.body) > 1 or not _docstring(child):
                yield text

    docstring_lines = {
        line - 1 for node in ast.walk(tree) if (d := _docstring(node)) for line in range(d.lineno, d.end_lineno + 1)
    }
    yield from cut(tree)


def _docstring(node: ast.AST) -> ast.stmt | None:
    """The statement that is a node's docstring."""
    definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return node.body[0] if definition and ast.get_docstring(node, clean=False) is not None else None


def cython_functions(source: str) -> Iterator[str]:
    """The functions of a Cython module, without docstrings: a ``def``, ``cdef`` or ``cpdef`` and what is indented below.

    There is no grammar to parse with; a declaration without a body, as in ``.pxd`` files, is no function.
    """
    lines, start = source.splitlines(keepends=True), 0
    while start < len(lines):
        head = re.match(r"([ \t]*)(?:async )?c?p?def (?!class |struct |union |enum )[^=(:]*\(", lines[start])
        end = start + 1
        if head:
            deeper = re.compile(rf"{head[1]}[ \t]|\s*$|{head[1]}\)")  # the last line of a signature may be "):"
            while end < len(lines) and deeper.match(lines[end]):
                end += 1
            text = textwrap.dedent("".join(lines[start:end]))
            parts = re.fullmatch(
                r"(.*?:[ \t]*(?:#[^\n]*)?\n)(\s*[rRuU]?(\"\"\"|''').*?\3[ \t]*\n?)?(.*)", text, re.DOTALL
            )
            if parts and len(parts[1] + parts[4]) > LONGEST:
                end = start + 1
            elif parts and parts[4].strip():
                yield parts[1] + parts[4]
        start = end


@cache
def _parser(language: str) -> tree_sitter.Parser:
    grammar = {"C/C++": tree_sitter_cpp, "JavaScript": tree_sitter_javascript}[language]
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def _tree_functions(language: str, is_function: Callable[[tree_sitter.Node], bool], source: str) -> Iterator[str]:
    """The outermost functions of a file, without those in which the grammar met something it could not read."""
    data = source.encode()
    left = [_parser(language).parse(data).root_node]
    while left:
        node = left.pop()
        if is_function(node):
            line = data[data.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte]
            indent = line[: len(line) - len(line.lstrip())]  # the body below is indented by as much
            text = textwrap.dedent((indent + data[node.start_byte : node.end_byte]).decode())
            if len(text) <= LONGEST:
                if not node.has_error:  # mostly a macro where the grammar expects none
                    yield text
                continue
        left.extend(reversed(node.children))


def _is_c_function(node: tree_sitter.Node) -> bool:
    if node.type != "function_definition":
        return False
    declarator = node.child_by_field_name("declarator")  # `class API Name {…}` is read as a function without arguments
    while declarator is not None and declarator.type != "function_declarator":
        declarator = next((child for child in declarator.children if child.type.endswith("declarator")), None)
    return declarator is not None


def _is_javascript_function(node: tree_sitter.Node) -> bool:
    return node.is_named and node.type in (
        "function_declaration", "generator_function_declaration", "function_expression", "generator_function",
        "arrow_function", "method_definition",
    )  # fmt: skip


def c_functions(source: str) -> Iterator[str]:
    """The functions of a C or C++ file."""
    return _tree_functions("C/C++", _is_c_function, source)


def javascript_functions(source: str) -> Iterator[str]:
    """The functions of a JavaScript file."""
    return _tree_functions("JavaScript", _is_javascript_function, source)


CUTTERS = {
    "C/C++": c_functions,
    "Cython": cython_functions,
    "JavaScript": javascript_functions,
    "Python": python_functions,
}
