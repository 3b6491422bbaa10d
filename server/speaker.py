"""Many short replies at once, each under its own edits: the engine as `making.subject.Speaker`."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary, Info, Site
from dictionaries.edits import FeatureRows, Norm, Op
from dictionaries.making.subject import Ask, Edited

from .asking import Asking
from .engine.engine import SlotEngine
from .engine.sites import longest_context, text_config
from .engine.types import Delta, Failure, FeatureEdit, Request, Sampling, Steering
from .errors import BadRequest, GenerationFailed

VECTORS = "/vectors"  # no dictionary's name has a slash


class EngineSpeaker:
    """Answers Asks through a SlotEngine over a model's weights, which the model keeps using.

    context: tokens of a prompt and its reply there is room for at first. Where one is longer, an
    engine with room for it takes over, as far as the model has positions: a chat template may put
    hundreds of tokens before a short message.
    A model without a chat template is given the messages' contents, a line each, to go on with.
    Raises what the engine refuses with; one failed reply ends the whole call.
    """

    def __init__(
        self, model: Any, tokenizer: Any, dictionary: Dictionary, *, rows: int, context: int
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._rows, self._context = rows, context
        self._asking = Asking(tokenizer)
        self._id = dictionary.info.id
        self._vectors = Vectors(dictionary.info.site, dictionary.info.width)
        self._dictionaries = {self._id: dictionary, VECTORS: self._vectors}
        self._at_once = 2 * rows  # so that whoever ends is followed without a pause
        self._names = itertools.count()
        self._closing = ExitStack()
        self._engine = self._started()

    def _started(self) -> SlotEngine:
        engine = SlotEngine(
            sharing(self._model),
            self._tokenizer,
            self._dictionaries,
            max_rows=self._rows,
            max_waiting=self._rows,
            max_context=self._context,
        )
        self._closing.callback(engine.close)
        engine.start()
        return engine

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        """One reply an ask, in order. Not from within an event loop."""
        self._vectors.forget()
        requests = [self._request(ask) for ask in asks]
        self._make_room(max((len(r.prompt) + r.sampling.max_tokens for r in requests), default=0))
        return asyncio.run(self._all(requests))

    def close(self) -> None:
        self._closing.close()

    def _make_room(self, tokens: int) -> None:
        if self._context < tokens <= longest_context(text_config(self._model)):
            self.close()
            del self._engine
            gc.collect()  # it is a cycle, and its memory must go before the next one's is taken
            self._context = tokens
            self._engine = self._started()

    async def _all(self, requests: Sequence[Request]) -> list[str]:
        room = asyncio.Semaphore(self._at_once)
        tasks = [asyncio.create_task(self._reply(request, room)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _reply(self, request: Request, room: asyncio.Semaphore) -> str:
        async with room:
            stream = self._engine.submit(request)
            said: list[str] = []
            try:
                async for event in stream:
                    if isinstance(event, Delta):
                        said.append(event.text)
                    elif isinstance(event, Failure):
                        raise GenerationFailed(event.message)
            finally:
                stream.cancel()
        return "".join(said).strip()

    def _request(self, ask: Ask) -> Request:
        prompt = self._asking(ask.messages)
        return Request(
            f"ask-{next(self._names)}",
            prompt.ids,
            prompt.steerable,
            Sampling(
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                max_tokens=ask.max_tokens,
            ),
            Steering(tuple(self._edit(edited) for edited in ask.edits)),
        )

    def _edit(self, edited: Edited) -> FeatureEdit:
        edit = edited.op.edit(edited.strength)
        if edited.vector is None:
            return FeatureEdit(self._id, edited.feature, edited.op, edited.strength, edit)
        if edited.op is not Op.ADD:
            raise BadRequest(f"a vector can only be added, and {edited.op.value} came")
        at = self._vectors.hold(edited.vector)
        return FeatureEdit(VECTORS, at, edited.op, edited.strength, edit)


class Vectors(Dictionary):
    """Directions in memory at a site, to add along; they are features without an encoder.

    A number is given out once: the engine may remember what a feature was.
    """

    def __init__(self, site: Site, d_in: int) -> None:
        self._held: dict[int, Tensor] = {}
        self._numbers = itertools.count()
        self.path = Path()
        self.info = Info(
            id=VECTORS,
            format="memory",
            architecture="directions",
            site=site,
            d_in=d_in,
            d_sae=2**31,
            norm=Norm.NONE,
            k=None,
            model=None,
            revision="",
            reads_exactly=False,
            why_not="it is a bare direction.",
        )

    def hold(self, vector: Tensor) -> int:
        """The feature that this very tensor is from now on."""
        for at, held in self._held.items():
            if held is vector:
                return at
        if vector.shape != (self.info.d_in,):
            raise BadRequest(
                f"a vector of shape {tuple(vector.shape)} came; {self.info.site} takes "
                f"{self.info.d_in} numbers"
            )
        at = next(self._numbers)
        self._held[at] = vector
        return at

    def forget(self) -> None:
        self._held.clear()

    def rows(self, ids: Sequence[int]) -> FeatureRows:
        zero = torch.zeros(len(ids))
        dec = torch.stack([self._held[i].detach().float().cpu() for i in ids])
        return FeatureRows(torch.zeros_like(dec), zero, zero, zero, zero, dec)


def sharing(model: Any) -> Any:
    """A second model over the same parameters: the engine rewires its model's attention and layers,
    and what is plain must stay so.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})
