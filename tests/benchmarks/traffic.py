"""Chats against a running server: so many at a time, each timed token by token."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

PROMPTS = (
    "Hello! Who are you?",
    "Tell me about your day.",
    "What should I cook for dinner?",
    "How do I make a good cup of tea?",
    "Can you tell me a short story?",
    "What is your favourite place?",
    "I am feeling a little sad today.",
    "What do you see when you look outside?",
    "How does rain form?",
    "Give me some advice for a long trip.",
    "What is a good name for a cat?",
    "Why is the sky blue?",
    "What do you like to do on Sundays?",
    "Please describe the sea.",
    "How can I sleep better?",
    "What is a friend?",
)


@dataclass(frozen=True)
class Reply:
    """One streamed reply: its usage as the server counted it, and when each piece of text came."""

    started: float  # seconds, time.perf_counter
    pieces: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    edits: int
    text: str
    cached: int = 0  # of the prompt's tokens, those that the server had computed before

    @property
    def first(self) -> float:
        return self.pieces[0] - self.started

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in itertools.pairwise(self.pieces)]


@dataclass(frozen=True)
class Round:
    """Every reply of one round of one point, and how long the round took."""

    wall: float
    replies: tuple[Reply, ...]

    @property
    def tokens(self) -> int:
        return sum(reply.completion_tokens for reply in self.replies)


def body(
    model: str, index: int, max_tokens: int, edits: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Request number `index`: the same prompt, seed and sampling, steered or not."""
    steering = {"steering": {"edits": list(edits)}} if edits else {}
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPTS[index % len(PROMPTS)]}],
        "max_completion_tokens": max_tokens,
        "temperature": 0.7,
        "top_p": 0.95,
        "seed": index,
        "stream": True,
        "stream_options": {"include_usage": True},
        **steering,
    }


def parse(started: float, lines: Sequence[tuple[float, str]]) -> Reply:
    """A reply from its stamped `data:` lines. RuntimeError if the stream did not end cleanly."""
    pieces, text, usage, edits = [], "", None, 0
    for stamp, line in lines:
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        if "error" in chunk:
            raise RuntimeError(f"the server ended a reply with an error: {chunk['error']}")
        usage = chunk.get("usage") or usage
        edits = max(edits, len((chunk.get("steering") or {}).get("applied") or ()))
        for choice in chunk.get("choices") or ():
            if piece := choice["delta"].get("content"):
                pieces.append(stamp)
                text += piece
    else:
        raise RuntimeError("a reply was cut off before [DONE]")
    if usage is None:
        raise RuntimeError("a reply came without its usage")
    tokens = usage["prompt_tokens"], usage["completion_tokens"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Reply(started, tuple(pieces), *tokens, edits, text, cached)


async def chat(client: httpx2.AsyncClient, request: dict[str, Any]) -> Reply:
    """One reply. Lines are only stamped while they arrive and are parsed afterwards."""
    started, lines = time.perf_counter(), []
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                lines.append((time.perf_counter(), line))
    return parse(started, lines)


async def drive(
    url: str, requests: Sequence[dict[str, Any]], concurrent: int, key: str | None = None
) -> Round:
    """All requests, `concurrent` at a time: whoever ends a reply begins the next at once."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=concurrent, max_keepalive_connections=concurrent)
    waiting, replies = iter(requests), []

    async def worker(client: httpx2.AsyncClient) -> None:
        for request in waiting:
            replies.append(await chat(client, request))

    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=300, limits=limits
    ) as client:
        started = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(concurrent)))
        return Round(time.perf_counter() - started, tuple(replies))
