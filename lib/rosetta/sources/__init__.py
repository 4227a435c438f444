"""Where text comes from (documents, the environment corpus, any corpus of a profile, functions of code) and images (scenes)."""

from rosetta.sources.document import (  # isort: skip
    CATEGORIES, PILE_CATEGORIES, Document, excerpt, interleave, normalize, split_at_lines,
)  # fmt: skip
from rosetta.sources.environment import differences, environment_documents, manifest, write_manifest
from rosetta.sources.functions import Function, codesearchnet, environment_functions
from rosetta.sources.scenes import Scene, develop, scene, undevelop
from rosetta.sources.text import documents, from_files, from_hub

__all__ = [
    "CATEGORIES", "PILE_CATEGORIES", "Document", "Function", "Scene", "codesearchnet", "develop", "differences", "documents",
    "environment_documents", "environment_functions", "excerpt", "from_files", "from_hub", "interleave", "manifest",
    "normalize", "scene", "split_at_lines", "undevelop", "write_manifest",
]  # fmt: skip
