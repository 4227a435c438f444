"""What a command writes into a file that people write: the lines between two marks."""

from pathlib import Path

from rosetta.results import write_whole

END = "<!-- end -->"


def begin(what: str, command: str) -> str:
    """The mark before what a command writes."""
    return f"<!-- {what}, written by `{command}` -->"


def between(text: str, mark: str, content: str) -> str:
    """A text with this content between a mark and the next `END`.

    Raises
    ------
    ValueError
        If the text has no such mark, or no end after it.
    """
    before, found, rest = text.partition(mark)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"there is no {mark if not found else END!r} to write at; put it back")
    return f"{before}{mark}\n{content}\n{END}{after}"


def fill(path: Path, contents: dict[str, str]) -> None:
    """Write each content after its mark, in a file that is there; whole or not at all."""
    text = path.read_text(encoding="utf-8")
    for mark, content in contents.items():
        text = between(text, mark, content)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
