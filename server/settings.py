"""One frozen object with everything an operator may choose; the only reader of its variables.

Each field is an environment variable (`STEERDECK_` + its name in capitals) and, where it makes
sense, an option of `steerdeck serve`; the option wins.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "STEERDECK_"
# Read by the client commands (`steerdeck chat` and friends), not by the server.
CLIENT_KEY, KEYS = f"{PREFIX}API_KEY", f"{PREFIX}API_KEYS"
CLIENT_VARIABLES = frozenset({"STEERDECK_URL", CLIENT_KEY})
_PART_OF_A_PATH = re.compile(r"[\w~@-][\w.~@-]*", re.ASCII)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """What the service is told at its start. Sizes found while loading live elsewhere."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    model: str = Field(
        "foghorn", description="a name of the catalog, a model folder, or org/name on the Hub"
    )
    dictionary: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="SAE folders, Hub names or names of the catalog, comma separated; "
        "default: the catalog's",
    )
    cards: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="cards.sqlite files in the order of `dictionary`; default: beside each SAE"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that open /v1, comma separated; none: open to who reaches the port"
    )
    allow_open: bool = Field(
        False, description="listen on a non-loopback address without any API key"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="further Host names to answer to, comma separated; * for any"
    )
    root_path: str = Field(
        "", description="path that a proxy serves this under, such as /steer; it may take it off"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="web origins whose pages may call the API, comma separated; off by default"
    )
    ui: bool = Field(True, description="serve the page at /")
    data_dir: Path = Field(
        Path("~/.steerdeck"),
        validate_default=True,  # a user without a home is told it as of any other folder
        description="folder for what users save (presets.json) and for compiled layers",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="of the weights; auto: float32 on a CPU, elsewhere as they are stored; on a "
        "CPU float16 and int8 are of linear layers alone: faster, float16 hardly and int8 a little "
        "rougher",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of the model; default: as many cores as make it fastest",
    )
    compile: bool = Field(
        False,
        description="compile the model's layers for this CPU, in the background; kept in data_dir",
    )
    graphs: bool = Field(
        True,
        description="on an NVIDIA GPU, run decode steps as CUDA graphs and layers in fewer kernels",
    )
    max_rows: int = Field(32, ge=1, le=1024, description="replies made at the same time")
    max_waiting: int = Field(
        64, ge=0, le=100_000, description="replies in the queue; one more is refused with 429"
    )
    max_context: int | None = Field(
        None,
        ge=16,
        description="tokens of prompt + reply; default: what the model was made for, at most 4096",
    )
    max_edits: int = Field(
        16,
        ge=1,
        le=64,  # one list on the wire: a receipt tells a preset's edits in it beside one's own
        description="edited features in one reply",
    )
    prefix_cache: int = Field(
        512,
        ge=0,
        le=2**20,
        description="MiB for keys and values of past prompts and replies, which a prompt that "
        "begins like them takes over; 0 turns it off",
    )
    max_body: int = Field(
        4 * 2**20, ge=1024, description="bytes of one request; a larger one is refused with 413"
    )
    log_format: Literal["text", "json"] = Field("text", description="of the log on stderr")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is logged; no level logs prompts or replies"
    )

    @field_validator(
        "dictionary", "cards", "api_keys", "allowed_hosts", "cors_origins", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """`a, b` from the environment as a list; anything else unchanged."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        """`steer/` -> `/steer`; "" and `/` -> ""."""
        parts = [part for part in value.split("/") if part]
        if not all(_PART_OF_A_PATH.fullmatch(part) for part in parts):
            raise ValueError(f"{value!r} is no path such as /steer: letters, digits and -_.~@ only")
        if parts[:1] == ["v1"]:
            raise ValueError("the API itself is at /v1: serve it under another path")
        return "".join(f"/{part}" for part in parts)

    @field_validator("port", mode="before")
    @classmethod
    def _linked(cls, value: object) -> object:
        """Kubernetes sets STEERDECK_PORT to an address in every pod, for a service of our name."""
        return 8000 if isinstance(value, str) and "://" in value else value

    @field_validator("data_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError as exc:
            raise ValueError(f"{value} begins with the home of somebody unknown here") from exc

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key.get_secret_value() for key in self.api_keys)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host names to answer to. Loopback: our own only. Elsewhere any (`*`), as an address
        is reached by names we cannot know, unless `allowed_hosts` tells them.
        """
        if self.loopback or self.allowed_hosts:
            return (*LOOPBACK_HOSTS, self.host, *self.allowed_hosts)
        return ("*",)

    @property
    def too_open(self) -> str | None:
        """Why this address may not be listened on, or None."""
        if self.loopback or self.keys or self.allow_open:
            return None
        return (
            f"{self.host} is reachable from other machines and no API key is set: set "
            f"{PREFIX}API_KEYS=some-long-secret, or say --allow-open ({PREFIX}ALLOW_OPEN=true) to "
            "serve anyone, or listen on 127.0.0.1"
        )


def read_settings(**options: object) -> Settings:
    """The settings from the environment and `options` (those that are not None).

    Raises ValueError with one line per wrong value, naming the variable or option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as exc:
        raise ValueError(
            "\n".join(_complaint(e["loc"], e["msg"], given) for e in exc.errors())
        ) from None


def _complaint(loc: tuple[int | str, ...], message: str, given: Mapping[str, object]) -> str:
    name = str(loc[0]) if loc else "settings"
    source = f"--{name.replace('_', '-')}" if name in given else f"{PREFIX}{name.upper()}"
    return f"{source}: {message}"


def strangers(environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each STEERDECK_ variable that means nothing here: most are typos. And for the
    client's key where the server's are not set: that is one letter short.

    They are told, not refused: container platforms set variables of their own by a service's name.
    """
    known = CLIENT_VARIABLES | {PREFIX + name.upper() for name in Settings.model_fields}
    told = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; is {close[0]} meant?" if close else ""
            told.append(f"{name} is set but is not a setting{hint}")
    if environ.get(CLIENT_KEY) and not environ.get(KEYS):
        told.append(
            f"{CLIENT_KEY} is set, which is the key that `steerdeck chat` sends; what a server "
            f"asks for is {KEYS}, which is not set, so /v1 is open"
        )
    return told
