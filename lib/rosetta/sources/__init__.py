"""Where text comes from (documents, any corpus of a profile, functions of code) and images (scenes, folders of files)."""

from rosetta.sources.document import (  # isort: skip
    CATEGORIES, PILE_CATEGORIES, Document, excerpt, interleave, normalize, split_at_lines,
)  # fmt: skip
from rosetta.sources.development import develop, undevelop
from rosetta.sources.environment import differences, environment_documents, manifest, write_manifest
from rosetta.sources.functions import Function, codesearchnet, environment_functions
from rosetta.sources.pictures import Picture, Pictures, from_folder, from_imagenet
from rosetta.sources.sampling import sequences
from rosetta.sources.scenes import Scene, scene
from rosetta.sources.text import documents, from_files, from_hub

__all__ = [
    "CATEGORIES", "PILE_CATEGORIES", "Document", "Function", "Picture", "Pictures", "Scene", "codesearchnet", "develop",
    "differences", "documents", "environment_documents", "environment_functions", "excerpt", "from_files", "from_folder",
    "from_hub", "from_imagenet", "interleave", "manifest", "normalize", "scene", "sequences", "split_at_lines", "undevelop",
    "write_manifest",
]  # fmt: skip
