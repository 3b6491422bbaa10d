"""Plain forward passes over many rows of text, with a look at the residual stream on the way, or a
change of it. dictionaries/making/subject.py says what is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from dictionaries.dictionary import Dictionary, Site
from dictionaries.edits import EditTable, FeatureRows, Norm, frame, steer
from dictionaries.making.forced import LOGIT_BYTES
from dictionaries.making.subject import Change, Message, Prompt, Windows

from .asking import Asking
from .engine.proof import prove
from .engine.sites import (
    Edited,
    attach,
    decoder_layers,
    first_seen,
    heads_width,
    longest_context,
    text_config,
)
from .engine.value_bias import unseen, without
from .errors import BadRequest
from .lens import logit_lens

Rows = TypeVar("Rows", FeatureRows, EditTable)


class ModelSubject:
    """`dictionaries.making.subject.Subject` on any transformers decoder.

    dictionary: whose input normalisation and TopK cutoff a Change is read with; without one, rows
    are read as they are. Tensors go to the model's device and stay there.
    Raises SteerdeckError for a model that is not a decoder, Unsteerable where the site is not there
    or not what its name says,
    DictionaryError for a dictionary of another model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, site: Site, dictionary: Dictionary | None = None
    ) -> None:
        self._blocks, self._d_model = decoder_layers(model), int(text_config(model).hidden_size)
        if not 0 <= site.layer < len(self._blocks):
            raise BadRequest(
                f"layer {site.layer} is not there: this model has layers 0 to "
                f"{len(self._blocks) - 1}"
            )
        if dictionary is not None:
            dictionary.info.fits(len(self._blocks), self._d_model)
        self._model, self._tokenizer = model, tokenizer
        self._asking = Asking(tokenizer)
        self._site, self._dictionary = site, dictionary
        # Of the thread that runs a pass: a speaker's engine runs the same layers' hooks in its own.
        self._act: ContextVar[Edited | None] = ContextVar("act", default=None)
        layer = self._blocks[site.layer]
        left_off = None if dictionary is None else unseen(dictionary.info, layer)
        prove(layer, site.hook, self._short_pass)
        attach(layer, site.hook, without(left_off, self._at_site))

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def site(self) -> Site:
        return self._site

    @property
    def d_in(self) -> int:
        if self._site.hook == "hook_z":
            return heads_width(self._blocks[self._site.layer])
        return self._d_model

    def prompt(self, messages: Sequence[Message]) -> Prompt | None:
        """As a Speaker asks; None where the chat template refuses the messages."""
        try:
            made = self._asking(messages)
        except BadRequest:
            return None
        return Prompt(list(made.ids), list(made.steerable))

    def check_context(self, context: int) -> None:
        """Raise BadRequest if rows of `context` tokens have more positions than the model."""
        longest = longest_context(text_config(self._model))
        if context > longest:
            raise BadRequest(
                f"--context {context}: this model has {longest} positions, give no more than these"
            )

    def residual(self, windows: Windows) -> Tensor:
        """[rows, tokens, d_in] float32 at the site; what comes after it is not run."""
        return first_seen(lambda look: self._forward(windows, look)).float()

    def logits(self, windows: Windows, change: Change | None = None) -> Tensor:
        """[rows, tokens, vocab] float32, of the next token at every position."""
        if change is None:
            return self._forward(windows, None)
        device = self._model.device
        features, table = _to(change.features, device), _to(change.table, device)
        active = windows.content.to(device)[..., None]

        def edit(x: Tensor) -> Tensor:
            norm, cutoff = self._reading(x)
            return steer(x, features, table, norm=norm, cutoff=cutoff, active=active)

        return self._forward(windows, edit)

    def spliced(self, windows: Windows, rebuilt: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits with x [n, d_in] of every content token replaced by `rebuilt(x)`, float32."""
        content = windows.content.to(self._model.device)
        return self._forward(windows, _replacing(content, rebuilt))

    def costed(
        self, windows: Windows, keep: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x [n, d_in] float32 of the content tokens that `keep` says, and what replacing it costs:
        the KL divergence of the next-token distributions, nats a token, with a gradient.

        A few rows at a time, each with its gradient at once: over a large vocabulary the logits of
        a whole batch, several times over, are more than a device holds.
        """
        words = windows.content.to(self._model.device)
        x = self.residual(windows)
        words = words.masked_scatter(words, keep(x[words]))
        vocab = int(text_config(self._model).vocab_size)
        rows = max(1, LOGIT_BYTES // (4 * windows.ids.shape[1] * vocab))
        parts = [slice(at, at + rows) for at in range(0, len(words), rows)]

        def cost(rebuilt: Tensor) -> Tensor:
            paid, done = rebuilt.new_zeros(()), 0
            slopes: list[Tensor] = []
            for part in parts:
                few, own = Windows(*(t[part] for t in windows)), words[part]
                y = rebuilt.detach()[done : done + int(own.sum())].requires_grad_()
                done += len(y)
                one = self._divergence(few, own, y) / windows.attended.sum()
                slopes += torch.autograd.grad(one, y)
                paid = paid + one.detach()
            no_more = (rebuilt - rebuilt.detach()) * torch.cat(slopes)  # 0, with the gradient
            return paid + no_more.sum()

        return x[words], cost

    def _divergence(self, windows: Windows, words: Tensor, rebuilt: Tensor) -> Tensor:
        """Of the predictions with x of `words` replaced, from the model's own; over all tokens."""
        attended = windows.attended.to(self._model.device)
        wanted = self._forward(windows, None)[attended].log_softmax(-1)
        act = _replacing(words, lambda _: rebuilt)
        said = self._forward(windows, act, learning=True)[attended].log_softmax(-1)
        return kl_div(said, wanted, reduction="sum", log_target=True)

    def lens(self, directions: Tensor) -> Tensor:
        """[n, vocab] of directions [n, d_in]; those of hook_z go through the output projection."""
        return logit_lens(self._model, self._blocks, self._site, directions)

    def _forward(self, windows: Windows, act: Edited | None, *, learning: bool = False) -> Tensor:
        device = self._model.device
        token = self._act.set(act)
        try:
            with torch.set_grad_enabled(learning):
                output = self._model(
                    input_ids=windows.ids.to(device),
                    attention_mask=windows.attended.to(device).long(),
                    use_cache=False,
                )
        finally:
            self._act.reset(token)
        logits: Tensor = output.logits
        return logits.float()

    def _short_pass(self) -> None:
        with torch.no_grad():
            self._model(input_ids=torch.arange(6, device=self._model.device)[None], use_cache=False)

    def _at_site(self, x: Tensor) -> Tensor:
        act = self._act.get()
        return x if act is None else act(x)

    def _reading(self, x: Tensor) -> tuple[Norm, Tensor | None]:
        """(the dictionary's normalisation, each token's TopK cutoff)."""
        if self._dictionary is None:
            return Norm.NONE, None
        info = self._dictionary.info
        reads = info.k is not None and info.reads_exactly
        return info.norm, self._dictionary.cutoff(frame(x, info.norm).h) if reads else None


def _replacing(words: Tensor, by: Callable[[Tensor], Tensor]) -> Edited:
    """Puts by(x [n, d], float32) in the place of x of the tokens `words` [rows, tokens] marks."""

    def replace(x: Tensor) -> Tensor:
        y = x.clone()
        y[words] = by(x[words].float()).to(x.dtype)
        return y

    return replace


def _to(rows: Rows, device: torch.device) -> Rows:
    return type(rows)(*(getattr(rows, f.name).to(device) for f in fields(rows)))
