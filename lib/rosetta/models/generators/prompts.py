"""Prompts of generators that are conditioned on text, from the names of classes."""

from pathlib import Path


def class_names(file: str | Path | None = None) -> list[str]:
    """The name of each class, by its number.

    Parameters
    ----------
    file : str or Path, optional
        One name a line, in the order of the classes; several names of a class are parted by commas. By default ImageNet-1k's
        own, as timm has them: ``tench, Tinca tinca``.

    Raises
    ------
    ValueError
        If a line is empty, or there is none.
    """
    if file is None:
        from timm.data import ImageNetInfo  # where it is wanted: timm takes seconds

        return ImageNetInfo("imagenet-1k").label_descriptions()
    names = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    if not all(names) or not names:
        line = names.index("") + 1 if names else 1
        raise ValueError(f"{file}, line {line}: there is no name; each line holds the name of one class")
    return names


def longest_alias(name: str) -> str:
    """Of several names, parted by commas, the longest; the first of equals."""
    return max((alias.strip() for alias in name.split(",")), key=len)


def prompt(template: str, name: str) -> str:
    """A template with ``{article}`` and ``{name}`` filled in: ``a tench``, ``an ostrich``."""
    return template.format(article="an" if name[0].lower() in "aeiou" else "a", name=name)
