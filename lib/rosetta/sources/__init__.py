"""Where text comes from: documents, the environment corpus, any corpus of a profile, and functions of code."""

from rosetta.sources.document import (
    CATEGORIES,
    PILE_CATEGORIES,
    Document,
    excerpt,
    interleave,
    normalize,
    read_text,
    split_at_lines,
)  # fmt: skip
from rosetta.sources.environment import (
    ENVIRONMENT_CATEGORIES,
    ENVIRONMENT_SHARES,
    arithmetic,
    differences,
    distributions,
    environment_documents,
    is_heldout,
    manifest,
    split_docstrings,
    write_manifest,
)  # fmt: skip
from rosetta.sources.functions import Function, codesearchnet, deduplicate, environment_functions, mix
from rosetta.sources.text import documents, from_files, from_hub

__all__ = [
    "CATEGORIES", "ENVIRONMENT_CATEGORIES", "ENVIRONMENT_SHARES", "PILE_CATEGORIES", "Document", "Function",
    "arithmetic", "codesearchnet", "deduplicate", "differences", "distributions", "documents", "environment_documents",
    "environment_functions", "excerpt", "from_files", "from_hub", "interleave", "is_heldout", "manifest", "mix",
    "normalize", "read_text", "split_at_lines", "split_docstrings", "write_manifest",
]  # fmt: skip
