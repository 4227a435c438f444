"""The library is laid out as the README says: folders that import downwards only, and lists of public names that hold."""

import ast
import importlib
from graphlib import TopologicalSorter

import pytest

from rosetta.models import ROOT

LIBRARY = ROOT / "lib" / "rosetta"
#: From the top down; a folder or file imports only what stands below it.
ORDER = (
    "report", "planning", "batch", "job", "kernels", "studies", "plots", "neurons", "filtering", "laws", "matching", "profiles", "models", "sources", "viewer",
    "marked", "results",
)  # fmt: skip
FOLDERS = sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py"))
#: Names that other people's code relies on, by the folder they are had from.
PUBLIC = {
    "sources": "normalize from_files",
    "models": "find_mlps describe load",
    "matching": "token_byte_spans canonical_spans pool resample_grid PearsonAccumulator mutual_nearest match_batches "
    "collapse Permuted",
    "laws": "fit_power_law optimal_isolation frontier simulate",
    "neurons": "vocab_excess_kurtosis normalized_fire depth_histogram",
    "filtering": "select_under_budget",
}


def module_of(path) -> str:
    inside = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(("rosetta", *(part for part in inside if part != "__init__")))


MODULES = {module_of(path): path for path in sorted(LIBRARY.rglob("*.py"))}


def imports(path) -> set[str]:
    """The library's modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "rosetta"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rosetta":
            assert node.level == 0
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in MODULES else node.module)
    return found


def rank(module: str) -> int:
    return ORDER.index(module.split(".")[1])


def test_every_folder_and_file_has_its_place():
    top = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert top - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"rosetta"}))
def test_a_file_imports_only_what_stands_below_it_and_never_a_folders_list(module):
    path = MODULES[module]
    is_list = path.name == "__init__.py"
    for imported in imports(path):
        assert imported in MODULES, f"{module} imports {imported}, which is not there"
        assert rank(imported) >= rank(module), f"{module} imports {imported}, which stands above it"
        # A kept result goes stale with what its module imports: a list of a whole folder would be too much.
        assert MODULES[imported].name != "__init__.py", f"{module} imports from the list of {imported}; name the file"
        assert not is_list or imported.startswith(module)


def test_no_file_imports_itself_in_a_circle():
    graph = {module: imports(path) for module, path in MODULES.items() if path.name != "__init__.py"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)  # CycleError names the circle


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folders_list_holds_its_public_names_and_nothing_else(folder):
    tree = ast.parse((LIBRARY / folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    *lists, names = tree.body[1:]
    assert all(isinstance(node, ast.ImportFrom) for node in lists)
    names = ast.literal_eval(names.value)
    assert len(names) == len(set(names))
    for name in names:
        if not hasattr(importlib.import_module(f"rosetta.{folder}"), name):
            importlib.import_module(f"rosetta.{folder}.{name}")
    assert {alias.name for node in lists for alias in node.names} <= set(names)


@pytest.mark.parametrize(("folder", "name"), [(f, name) for f, names in PUBLIC.items() for name in names.split()])
def test_a_public_name_is_had_from_its_folder_and_documented(folder, name):
    module = importlib.import_module(f"rosetta.{folder}")
    assert name in module.__all__ and getattr(module, name).__doc__


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda p: p.stem)
def test_no_file_holds_more_than_one_takes_in(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_tests_mirror_the_library():
    for path in (ROOT / "tests").glob("*/test_*.py"):
        if path.parent.name not in ("notebooks", "end_to_end"):
            assert (LIBRARY / path.parent.name).is_dir(), path
            inside = {file.stem for file in (LIBRARY / path.parent.name).glob("*.py")}
            assert path.stem.removeprefix("test_") in inside | {path.parent.name}, path
