"""What a value of a profile may be: types that check it, and say in words what is allowed.

Nothing is converted: a string is no number, ``yes`` no name, and an int stays an int. Lists become tuples.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, core_schema

from rosetta.models.load import ROOT

WHERE = "{where}"  # in a message: the dotted key of what is refused, which only the whole profile knows


def refuse(message: str, *keys: str) -> NoReturn:
    """Refuse what is being checked, or what stands under these keys in it."""
    error = PydanticCustomError("refused", message)
    raise ValidationError.from_exception_data("profile", [{"type": error, "loc": keys, "input": None}])


def refused(error: ValidationError) -> list[dict]:
    """Those of pydantic's errors that say what is allowed."""
    return [one for one in error.errors(include_url=False) if one["type"] == "refused"]


def among(said: str, names: Iterable, allowed: Iterable[str], but: str = "; allowed are ") -> None:
    """Refuse the first of these names that is not among the allowed ones; what stands for a name may be anything."""
    allowed = list(allowed)
    if unknown := [name for name in names if name not in allowed]:
        refuse(f"{said} {unknown[0]!r}{but}{', '.join(allowed)}")


@dataclass(frozen=True)
class Words:
    """What a type allows, in words: they stand in the message in place of pydantic's, unless a part has its own."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, validate) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if any(one["loc"] for one in refused(error)):
                raise
            refuse(f"{WHERE} is {value!r}; it must be {self.words}")


class Section(BaseModel):
    """A mapping of a profile with these keys and no others; strict and immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            refuse(f"{WHERE} is {content!r}; it must be a mapping")
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        if unknown := [key for key in content if key not in fields]:
            refuse(f"unknown key {WHERE}; allowed are {', '.join(fields)}", str(unknown[0]))
        if missing := [key for key, field in fields.items() if field.is_required() and key not in content]:
            words = [each.words for each in fields[missing[0]].metadata if isinstance(each, Words)]
            refuse(f"the key {WHERE} is missing; it holds {words[0] if words else 'a mapping'}", missing[0])
        return content


def by_kind(**sections: type[Section]) -> Any:
    """A mapping whose other keys depend on its ``kind``: checked as that section, and a dict of the keys it has."""

    def check(content: Any) -> dict:
        if not isinstance(content, dict) or "kind" not in content:
            raise ValueError
        kind, others = content["kind"], {key: value for key, value in content.items() if key != "kind"}
        if not isinstance(kind, str) or kind not in sections:
            refuse(f"{WHERE} is {kind!r}; allowed are {', '.join(sections)}", "kind")
        return {"kind": kind} | sections[kind].model_validate(others).model_dump(exclude_unset=True)

    return Annotated[dict[str, Any], BeforeValidator(check), Words("a mapping with the key 'kind'")]


Item = TypeVar("Item")
Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
#: One or more, a list in the file.
Several = Annotated[tuple[Item, ...], Field(min_length=1), Listed]


def _different(values: tuple) -> tuple:
    if any(values.count(value) > 1 for value in values):  # what stands there may have no hash
        raise ValueError("two of them are the same")
    return values


#: What is safe in a path, in a shell and in a figure.
NAME = re.compile(r"(?!.*\.\.)\w[\w.-]{0,63}")


def safe(name: str, *keys: str) -> str:
    if not NAME.fullmatch(name):
        rule = (
            "letters, digits, '.', '_' and '-', at most 64 of them, the first a letter or digit, no two dots in a row"
        )
        refuse(f"{WHERE} has the name {name!r}; a name is of {rule}", *keys)
    return name


def _named(content: dict) -> dict:
    return {safe(name, name): value for name, value in content.items()}


def in_the_kit(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of files that are there, relative to the kit or from the root."""
    paths = tuple(str(ROOT / path) for path in paths)
    if missing := [path for path in paths if not Path(path).is_file()]:
        refuse(f"{WHERE} names {missing[0]!r}, which is not a file")
    return paths


Mapped = Annotated[dict[str, Item], Field(min_length=1), AfterValidator(_named)]
Real = int | float  # not float alone, or 1 would become 1.0 and be printed so
Text = Annotated[str, Field(min_length=1), Words("text")]
Revision = Annotated[str | None, Words("text or null")]
Natural = Annotated[int, Field(ge=0), Words("a whole number of at least 0")]
Count = Annotated[int, Field(ge=1, le=10**12), Words("a whole number of at least 1 (and at most 10^12)")]
TwoOrMore = Annotated[int, Field(ge=2), Words("a whole number of at least 2")]
Limit = Annotated[Count | None, Words("null, or a whole number of at least 1")]
AboveOne = Annotated[Real, Field(gt=1, le=sys.float_info.max)]
AboveZero = Annotated[Real, Field(gt=0, le=sys.float_info.max)]  # an int may be larger than any float
Positive = Annotated[AboveZero, Words("a finite number above 0")]
Counts = Annotated[Several[Annotated[int, Field(ge=1, le=10**12)]], Words("a list of whole numbers of at least 1")]
Seeds = Annotated[
    Several[Annotated[int, Field(ge=-(2**31), lt=2**31)]], AfterValidator(_different),
    Words("a list of whole numbers, at least one and no two the same"),
]  # fmt: skip
Positives = Annotated[Several[AboveZero], Words("a list of finite numbers above 0")]
Names = Annotated[Several[str], Words("a list of names")]
Pair = Annotated[tuple[str, str], Listed, AfterValidator(_different), Words("two model names, not the same twice")]
PromptFile = Annotated[
    Annotated[str, AfterValidator(lambda path: in_the_kit((path,))[0])] | None,
    Words("null, or the path of a file, in the kit or from the root"),
]
Exponent = Annotated[int, Field(ge=0, le=20)]
