import ast
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from rosetta.models.load import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))


def locked() -> dict[str, set[str]]:
    """The versions that uv.lock gives each package."""
    versions = {}
    for package in LOCK["package"]:
        if "version" in package and "editable" not in package["source"]:
            versions.setdefault(package["name"], set()).add(package["version"])
    return versions


def reachable() -> set[str]:
    """The packages of uv.lock that the project and its groups lead to, extras included."""
    packages = {}
    for package in LOCK["package"]:
        packages.setdefault(package["name"], []).append(package)
    (project,) = packages["rosetta"]
    waiting = [*project["dependencies"], *(d for group in project["dev-dependencies"].values() for d in group)]
    seen = set()
    while waiting:
        edge = waiting.pop()
        for extra in [None, *edge.get("extra", [])]:
            if (edge["name"], extra) in seen:
                continue
            seen.add((edge["name"], extra))
            for package in packages[edge["name"]]:
                more = (
                    package.get("optional-dependencies", {}).get(extra, [])
                    if extra
                    else package.get("dependencies", [])
                )
                waiting.extend(more)
    return {name for name, _ in seen}


def pins(lines) -> dict[str, set[str]]:
    """The versions of the ``name==version`` lines; any other kind of line is refused."""
    versions = {}
    for line in lines:
        line = line.partition("#")[0].strip()
        if line:
            requirement = Requirement(line)
            match = re.fullmatch(r"==([^,]+)", str(requirement.specifier))
            assert match, f"not pinned: {line}"
            versions.setdefault(canonicalize_name(requirement.name), set()).add(match[1])
    return versions


def required() -> dict[str, set[str]]:
    return pins((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())


def tracked() -> list:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_requirements_pin_what_the_lock_pins():
    assert {name: versions for name, versions in required().items() if not versions <= locked().get(name, set())} == {}


def test_requirements_hold_all_that_the_lock_leads_to():
    assert reachable() - required().keys() == set()
    assert len(required()) > 50


def test_the_lock_belongs_to_this_project_file():
    (project,) = [package for package in LOCK["package"] if package["name"] == PROJECT["project"]["name"]]
    declared = {canonicalize_name(Requirement(d).name) for d in PROJECT["project"]["dependencies"]}
    assert {dependency["name"] for dependency in project["dependencies"]} == declared
    groups = PROJECT["dependency-groups"]
    assert {d["name"] for d in project["dev-dependencies"]["dev"]} == {canonicalize_name(d) for d in groups["dev"]}
    assert LOCK["requires-python"] == PROJECT["project"]["requires-python"]


def test_conda_users_get_the_same_pins_and_a_fitting_python():
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    pip = [re.sub(r"\s+", " ", line.strip()) for line in pip]
    listed = [line for line in pip if not line.startswith("-")]
    if "-r requirements.txt" not in pip:
        assert pins(listed) == required()
    assert any(line.startswith("-e .") for line in pip)
    names = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    (python,) = [re.fullmatch(r"python\s*={1,2}\s*(\d+\.\d+)(\.\*|\.\d+)?", n) for n in names if n.startswith("python")]
    assert python and SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{python[1]}.99")


def test_this_environment_is_the_locked_one():
    needed = {canonicalize_name(Requirement(d).name) for d in PROJECT["project"]["dependencies"]}
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in needed}
    plain = {name: {version.partition("+")[0] for version in locked()[name]} for name in needed}
    assert {name: version for name, version in versions.items() if version not in plain[name]} == {}
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(platform.python_version())


def imports_of(path) -> set[str]:
    """The packages that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "lib" / "rosetta").rglob("*.py")), ids=lambda path: path.stem)
def test_everything_the_library_imports_is_declared(path):
    declared = {canonicalize_name(Requirement(d).name) for d in PROJECT["project"]["dependencies"]}
    distributions = importlib.metadata.packages_distributions()
    for module in imports_of(path) - sys.stdlib_module_names - {"rosetta"}:
        assert {canonicalize_name(d) for d in distributions[module]} & declared, f"{path.name} imports {module}"


def test_the_zoos_corpus_was_read_from_the_locked_versions():
    recorded = json.loads((ROOT / "zoo" / "corpus.json").read_text(encoding="utf-8"))["distributions"]
    assert len(recorded) > 50
    for name, version in recorded.items():
        plain = {one.partition("+")[0] for one in locked()[canonicalize_name(name)]}
        assert version is not None and version.partition("+")[0] in plain, name


def test_no_tracked_file_is_a_pickle():
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    for file in files:
        assert file.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"), file
        with open(file, "rb") as opened:
            start = opened.read(2)
        assert not (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"), file  # a pickle's first two bytes
        assert start != b"PK", file  # what torch.save writes is a zip of pickles


def test_the_library_reads_and_writes_no_pickles():
    """One checkpoint format is read that is one, pMF's, and of it nothing but tensors."""
    for path in (ROOT / "lib" / "rosetta").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not imports_of(path) & {"joblib", "dill", "shelve"}, path.name
        assert not re.search(
            r"pickle\.(loads?|dumps?)|torch\.save\(|to_pickle|read_pickle|allow_pickle=True", source
        ), path.name
        loads = re.findall(r"torch\.load\(([^)]*)\)", source)
        assert all("weights_only=True" in call for call in loads) and (not loads or path.name == "flow.py"), path.name
