"""Generators of images: what they are made of, how they are opened and run."""

__all__ = []
