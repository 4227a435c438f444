"""Profiles: every number of a run, in one YAML file, checked when it is read."""

from rosetta.profiles.profile import Profile, ProfileError, check, load
from rosetta.profiles.sections import Theory, TheoryGrid, Training

__all__ = ["Profile", "ProfileError", "Theory", "TheoryGrid", "Training", "check", "load"]
