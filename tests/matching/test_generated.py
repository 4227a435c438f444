import logging

import numpy as np
import pytest
import seeing
from hypothesis import given
from hypothesis import strategies as st
from seeing import CLASSES, generator

from rosetta.matching import generated
from rosetta.matching.generated import kept_pictures, wishes


@given(n=st.integers(0, 40), classes=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_wishes_are_class_balanced_and_each_has_a_seed_of_its_own(n, classes, seed):
    some = wishes(n, classes, seed)
    counts = np.bincount([wish.label for wish in some], minlength=classes)
    assert len(counts) == classes and np.ptp(counts) <= 1
    assert [wish.index for wish in some] == list(range(n)) and len({wish.seed for wish in some}) == n
    assert all(0 <= wish.seed < 2**32 for wish in some)
    assert wishes(n + 3, classes, seed)[:n] == some


def test_two_seeds_give_two_sets():
    assert {wish.seed for wish in wishes(1_000, 1, 0)}.isdisjoint(wish.seed for wish in wishes(1_000, 1, 1))


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Keeps pictures, 4 in a file; gives them, and what the generator was asked for."""
    monkeypatch.setattr(generated, "PER_FILE", 4)

    def kept(n, fails_at=None, per_batch=3, **parameters):
        maker, opened = generator(), []
        make = maker.pictures

        def pictures(batch):
            if any(wish.index == fails_at for wish in batch):
                raise KeyboardInterrupt
            return make(batch)

        maker.pictures = pictures
        parameters = {"model": "maker"} | parameters
        wished = wishes(n, CLASSES, seed=2)
        found = kept_pictures(
            tmp_path / "maker", "maker", lambda: opened.append(1) or maker, wished, parameters, per_batch
        )
        assert len(opened) <= 1
        return found, [label for labels, _ in maker.seen for label in labels]

    return kept


def test_pictures_are_those_that_the_generator_makes_by_number_slice_and_in_order(keep):
    found, asked = keep(11)
    expected = generator().pictures(found.wished)
    assert len(found) == 11 and asked == [i % CLASSES for i in range(11)]
    for number, picture in enumerate(found):
        np.testing.assert_array_equal(picture.pixels, expected[number])
        assert picture.source == f"maker#{number}" and picture.label == number % CLASSES
        assert picture.pixels.dtype == np.uint8 and picture.pixels.shape == (seeing.SIDE, seeing.SIDE, 3)
    np.testing.assert_array_equal(found[9].pixels, expected[9])
    np.testing.assert_array_equal(found[-1].pixels, expected[10])
    some = found[3:10:2]
    assert [picture.source for picture in some] == ["maker#3", "maker#5", "maker#7", "maker#9"]
    np.testing.assert_array_equal(some[1].pixels, expected[5])
    with pytest.raises(IndexError):
        found[11]


def test_what_is_kept_is_not_made_again(keep):
    assert len(keep(8)[1]) == 8
    found, asked = keep(8)
    assert asked == [] and len(list(found)) == 8


def test_what_was_interrupted_goes_on_with_the_file_it_was_at(keep, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        keep(11, fails_at=6)
    assert [path.name for path in (tmp_path / "maker").glob("*.safetensors")] == ["00000.safetensors"]
    found, asked = keep(11)
    assert asked == [i % CLASSES for i in range(4, 11)]
    np.testing.assert_array_equal([p.pixels for p in found], generator().pictures(found.wished))


def test_pictures_made_with_other_parameters_or_changed_by_hand_are_made_again(keep, tmp_path, caplog):
    keep(8)
    with caplog.at_level(logging.WARNING):
        assert len(keep(8, model="another")[1]) == 8
        file = tmp_path / "maker" / "00001.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        assert keep(8, model="another")[1] == [4 % CLASSES, 0, 1, 2]
    assert "was made with another model" in caplog.text and "is not the file that was written" in caplog.text
    assert len(keep(10, model="another")[1]) == 2  # more of them: only the new ones
