"""A request body -> the rows to make: prompt as tokens, steering as numbers, sampling filled in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .deck import Deck
from .engine.sampling import COLDEST
from .engine.text import Prompt, encode_raw, flagged, render
from .engine.types import Request, Sampling
from .errors import BadRequest, TooLong
from .schemas.messages import Message
from .schemas.requests import ChatRequest, CompletionRequest
from .steering import Resolved, resolve
from .timeline import check_replayable

MESSAGES, PROMPT = "messages", "prompt"  # the fields that hold what is answered
TOP = 5  # alternatives reported by the trace "top", of each model


@dataclass(frozen=True)
class Ask:
    """What one HTTP request wants: one row for each choice of its reply.

    prompts: how many different prompts; row i answers prompt i // n.
    trace: what is told of every token.
    variants: of a comparison, what each row is called.
    stream, include_usage: how it is told.
    echo: the prompts as they were sent, each said before its replies; empty for none.
    """

    id: str
    created: int  # unix seconds
    model: str  # as the caller named it
    requests: tuple[Request, ...]
    resolved: Resolved
    prompts: int = 1
    trace: frozenset[str] = frozenset()
    variants: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    echo: Sequence[str | list[int]] = ()


def prepare_chat(deck: Deck, body: ChatRequest) -> Ask:
    """Raises what `resolve` does, BadRequest where the chat template refuses the turns, TooLong."""
    resolved = resolve(deck, body.model, body.steering)
    return _ask(deck, body, resolved, [rendered(deck, body.messages)])


def prepare_completion(deck: Deck, body: CompletionRequest) -> Ask:
    resolved = resolve(deck, body.model, body.steering)
    for prompt in body.prompts:
        if isinstance(prompt, str):
            check_bytes(deck, [prompt], PROMPT)
        else:
            check_tokens(deck, len(prompt), PROMPT, _least(body))
    prompts = [_raw(deck, prompt) for prompt in body.prompts]
    ask = _ask(deck, body, resolved, prompts)
    if not body.echo:
        return ask
    requests = tuple(replace(request, echo=True) for request in ask.requests)
    return replace(ask, requests=requests, echo=body.prompts)


def _ask(
    deck: Deck, body: ChatRequest | CompletionRequest, resolved: Resolved, prompts: Sequence[Prompt]
) -> Ask:
    asked = body.steering
    kind = "chatcmpl" if isinstance(body, ChatRequest) else "cmpl"
    name = asked.id if asked and asked.id else f"{kind}-{secrets.token_hex(12)}"
    seed = body.seed if body.seed is not None else secrets.randbits(31)
    n = body.n or 1
    trace = frozenset(asked.trace if asked else ())
    vocab = deck.engine.capabilities.vocab_size
    requests = []
    for index in range(len(prompts) * n):
        prompt = prompts[index // n]
        requests.append(
            Request(
                id=name if index == 0 else f"{name}/{index}",
                prompt=tuple(prompt.ids),
                steerable=tuple(prompt.steerable),
                sampling=replace(_sampling(deck, body, len(prompt.ids)), seed=_seed(seed + index)),
                steering=resolved.steering,
                changes=resolved.changes,
                trace="activations" in trace,
                kl="kl" in trace,
                top=TOP if "top" in trace else 0,
                guard=asked.guard.settings(vocab) if asked and asked.guard else None,
                raw=isinstance(body, CompletionRequest),
            )
        )
    for request in requests:
        check_replayable(request)
    return Ask(
        id=name,
        created=int(time.time()),
        model=body.model or deck.model,
        requests=tuple(requests),
        resolved=resolved,
        prompts=len(prompts),
        trace=trace,
        stream=body.stream,
        include_usage=body.include_usage,
    )


def _sampling(deck: Deck, body: ChatRequest | CompletionRequest, prompt: int) -> Sampling:
    ours = deck.defaults
    temperature = _or(body.temperature, ours.temperature)
    return Sampling(
        temperature=temperature if temperature >= COLDEST else 0.0,
        top_p=_or(body.top_p, ours.top_p),
        top_k=int(_or(body.top_k, ours.top_k)),
        min_p=_or(body.min_p, ours.min_p),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        repetition_penalty=_or(body.repetition_penalty, ours.repetition_penalty),
        max_tokens=_longest(deck, body, prompt),
        stop=body.stops,
        logprobs=body.likely,
        ignore_eos=body.ignore_eos,
    )


def _longest(deck: Deck, body: ChatRequest | CompletionRequest, prompt: int) -> int:
    """The most tokens of a reply: as asked, else our default, but no more than the context leaves.
    Clients send one generous limit to every model.

    What must reach its limit (`ignore_eos`) keeps it, and the engine refuses what has no room.
    """
    field = MESSAGES if isinstance(body, ChatRequest) else PROMPT
    check_tokens(deck, prompt, field, _least(body))
    if body.limit and body.ignore_eos:
        return body.limit
    room = deck.engine.capabilities.max_context - prompt
    return min(deck.defaults.max_tokens if body.limit is None else body.limit, room)


def _least(body: ChatRequest | CompletionRequest) -> int:
    """Tokens that the context must leave for a reply."""
    return 0 if body.limit == 0 else 1


def rendered(deck: Deck, messages: Sequence[Message]) -> Prompt:
    """Raises TooLong, and BadRequest where the chat template refuses the turns."""
    turns = [message.turn for message in messages]
    check_bytes(deck, [turn["content"] for turn in turns], MESSAGES)
    return render(deck.tokenizer, turns, most=deck.engine.capabilities.max_context - 1)


def check_tokens(deck: Deck, prompt: int, field: str, reply: int = 1) -> None:
    context = deck.engine.capabilities.max_context
    if prompt + reply > context:
        raise TooLong(
            f"the prompt is too long: it has {prompt} tokens, and this model's maximum context "
            f"length is {context} tokens, of prompt and reply together: shorten it",
            param=field,
        )


def check_bytes(deck: Deck, texts: Iterable[str], field: str) -> None:
    """Before they are tokenized: megabytes take seconds, in which nobody else is admitted."""
    context = deck.engine.capabilities.max_context
    size, most = sum(len(text.encode()) for text in texts), context * deck.longest_token
    if size > most:
        raise TooLong(
            f"the prompt is too long: it has {size} bytes, and this model's maximum context length "
            f"is {context} tokens, of prompt and reply together, which are {most} bytes at most: "
            "shorten it",
            param=field,
        )


def _raw(deck: Deck, prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, str):
        found = encode_raw(deck.tokenizer, prompt)
        if not found.ids:
            raise BadRequest("the prompt is empty: send at least one token", param="prompt")
        return found
    vocabulary = deck.engine.capabilities.vocab_size
    if (largest := max(prompt)) >= vocabulary:
        raise BadRequest(
            f"token {largest}: this model has tokens 0..{vocabulary - 1}", param="prompt"
        )
    return flagged(deck.tokenizer, prompt, [True] * len(prompt))


def _or(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _seed(seed: int) -> int:
    """Back into 64 bits, where seed + i ran out of them."""
    return (seed + 2**63) % 2**64 - 2**63
