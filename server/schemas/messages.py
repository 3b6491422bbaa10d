"""One turn of a conversation, as OpenAI's clients send it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .base import Text, refuse


class TextPart(BaseModel):
    """A part of a message's content. Only text is understood."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["text"]
    text: Text


Parts = Annotated[list[TextPart], Field(max_length=1000, fail_fast=True)]


class Message(BaseModel):
    """One turn. `developer` is another word for `system`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="who speaks; developer is read as system"
    )
    content: Text | Parts | None = Field(
        None, description="a text, a list of text parts, or null for an assistant that said nothing"
    )

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        if body.get("role") in ("tool", "function"):
            raise refuse(f"role {body['role']!r}: tools are not built here")
        for name in ("tool_calls", "function_call", "audio"):
            if body.get(name):
                raise refuse(f"{name} is not built here: send text only")
        content = body.get("content")
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind != "text":
                raise refuse(f"a content part of type {kind[:40]!r}: this model reads text only")
        return body

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise refuse(f"the {self.role}'s content is null: send a text")
        return self

    @property
    def turn(self) -> dict[str, str]:
        """As chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""
