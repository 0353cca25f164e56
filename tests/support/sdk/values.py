"""Types of values, each with something that JSON makes difficult."""

import datetime as dt
import enum
import math
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    PlainSerializer,
    SecretStr,
    Tag,
    computed_field,
    model_serializer,
)
from typing_extensions import TypedDict

NAN = math.nan


@dataclass
class Progress:
    current: int
    total: int = 3
    item: str = "a"
    loss: float | None = None


@dataclass
class Longer(Progress):
    more: int = 1


@dataclass(eq=False)
class ById:
    number: int
    loss: float | None = None


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")


class WrittenByAlias(Aliased):
    model_config = ConfigDict(serialize_by_alias=True)


class TwoAliases(BaseModel):
    a: int = Field(validation_alias=AliasChoices("x", "y"), serialization_alias="z")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def area(self) -> int:
        return self.width**2


class Text(BaseModel):
    numbers: Json[list[int]]


class Hidden(BaseModel):
    name: str
    note: str | None = Field(None, exclude=True)


class Login(BaseModel):
    password: SecretStr


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class Anything(BaseModel):
    value: Any = None
    number: float | None = None
    at: dt.datetime | str = ""


class Tree(BaseModel):
    label: str = ""
    about: Any = None
    below: list["Tree"] = []


class Counting(BaseModel):
    number: Annotated[int, AfterValidator(lambda value: value + 1)]


class OneWay(BaseModel):
    number: int

    @model_serializer
    def write(self) -> dict[str, int]:
        return {"other": self.number}


class NotANumber(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    loss: float


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = ""


class Pair(NamedTuple):
    left: int
    right: str = "x"


class Options(TypedDict):
    first: int
    step: NotRequired[Progress]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


Animal = Annotated[Cat | Dog, Field(discriminator="kind")]
ByTag = Annotated[
    Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")],
    Discriminator(lambda value: value["kind"] if isinstance(value, dict) else value.kind),
]
LargeInteger = Annotated[int, PlainSerializer(str)]


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value
