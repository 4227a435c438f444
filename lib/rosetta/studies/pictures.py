"""A generator's pictures, made before the jobs that show them to encoders: these find them kept, and none makes them twice.

The job is Snakemake's: ``rosetta.studies.pictures PROFILE RESULTS GENERATOR``.
"""

import sys
from collections.abc import Sequence

from rosetta.studies.amounts import pictures_kept
from rosetta.studies.matches import Study


def main(arguments: Sequence[str]) -> None:
    """Make and keep as many pictures of a generator as any part of a profile asks for."""
    profile, results, name = arguments
    study = Study(profile, results)
    study.made_by(name, pictures_kept(study.profile))


if __name__ == "__main__":
    main(sys.argv[1:])
