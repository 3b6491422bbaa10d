"""What all wire models share: frozen, no NaN, and an answer for fields that are not theirs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from .foreign import HARMLESS, why_not


class Wire(BaseModel):
    """A part of a request in which an unknown field is refused: a typo must not pass silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, body: Any) -> Any:
        """pydantic complains about every unknown field, and of thousands that takes seconds."""
        if isinstance(body, dict) and len(body) > len(cls.model_fields) + MAX_STRANGE:
            fields = ", ".join(cls.model_fields)
            raise refuse(f"{len(body)} fields came; leave out all but {fields}")
        return body


def refuse(message: str, param: str = "") -> PydanticCustomError:
    """An error whose sentence reaches the caller unchanged. param: the field, if it is not the
    one being validated.
    """
    told = {"sentence": message, "param": param}
    # They may quote half a character, which pydantic cannot.
    whole = {name: text.encode(errors="replace").decode() for name, text in told.items()}
    return PydanticCustomError("refused", "{sentence}", whole)


def whole_characters(text: str) -> str:
    """JSON can spell half a character (a lone surrogate), which is no text to any tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise refuse(
            f"there is half a character (\\u{ord(text[exc.start]):04x}) at position {exc.start}: "
            "send whole ones"
        ) from None
    return text


Text = Annotated[str, AfterValidator(whole_characters)]


def _null_is_false(value: object) -> object:
    """OpenAI's clients send null for a switch that nobody touched."""
    return False if value is None else value


Switch = Annotated[bool, BeforeValidator(_null_is_false, json_schema_input_type=bool | None)]


class Root(BaseModel):
    """The root of an OpenAI request body.

    Fields that mean nothing here are let pass, so that any client's extras do no harm. Refused by
    name: those that would change the reply but are not built or belong elsewhere (`unbuilt`, unless
    they carry one of their neutral values), and near misses of a known name, which are typos.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    unbuilt: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _strange_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known = {*cls.model_fields, *HARMLESS}
        given = {name: value for name, value in body.items() if value is not None}
        strange = [name for name in given if name not in known]
        if len(strange) > MAX_STRANGE:
            raise refuse(
                f"{len(strange)} fields came that mean nothing here, and {MAX_STRANGE} are let "
                "pass: leave them out"
            )
        for name in strange:
            if name in cls.unbuilt:
                if given[name] not in cls.unbuilt[name]:
                    raise refuse(why_not(name), name)
            elif len(name) <= LONGEST_TYPO and (
                close := difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            ):
                raise refuse(f"{name} is not a field here; is {close[0]} meant?", name)
        return body


# A near miss is looked for on the event loop, and takes a while for each name.
MAX_STRANGE = 100
LONGEST_TYPO = 40  # characters
