import pytest

from rosetta.models.generators.prompts import class_names, longest_alias, prompt


def test_imagenets_names_are_on_board():
    names = class_names()
    assert len(names) == 1_000 and names[0] == "tench, Tinca tinca" and names[999].startswith("toilet tissue")


def test_names_are_read_from_a_file_one_a_line(tmp_path):
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\n  éel \n", encoding="utf-8")
    assert class_names(tmp_path / "names.txt") == ["tench, Tinca tinca", "éel"]
    for content, line in (("a\n\nb\n", 2), ("", 1)):
        (tmp_path / "names.txt").write_text(content)
        with pytest.raises(ValueError, match=rf"names.txt, line {line}: there is no name"):
            class_names(tmp_path / "names.txt")


def test_a_prompt_has_the_article_of_its_name():
    assert (
        prompt("{article} {name}", "hen") == "a hen" and prompt("photo of {article} {name}", "Eel") == "photo of an Eel"
    )
    assert longest_alias("tench, Tinca tinca, fish") == "Tinca tinca" and longest_alias("hen") == "hen"
    assert longest_alias("ab, cd") == "ab"
