"""Cards of features that nobody has described: what each makes likelier, by the logit lens."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dictionaries.card import Card
from dictionaries.dictionary import Dictionary
from dictionaries.making.token_label import token_label
from dictionaries.making.token_text import TokenTexts

from .engine.sites import decoder_layers
from .errors import SteerdeckError
from .lens import logit_lens

WORDS = 10  # promoted and suppressed tokens on a card
_KEPT = 4096  # cards


class StandIn:
    """Reads the model's weights only, so it may run beside the engine. Safe for many threads."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._texts = model, TokenTexts(tokenizer)
        self._layers = decoder_layers(model)
        self._vocab = len(tokenizer)
        self._kept: OrderedDict[tuple[str, int], Card] = OrderedDict()
        self._lock = threading.Lock()

    def cards(self, dictionary: Dictionary, ids: Sequence[int]) -> list[Card]:
        """One card for each feature, in order. A model without a logit lens gives empty ones."""
        name = dictionary.info.id
        with self._lock:
            missing = sorted({i for i in ids if (name, i) not in self._kept})
            if missing:
                for card in self._made(dictionary, missing):
                    self._kept[name, card.feature] = card
            found = [self._kept[name, i] for i in ids]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _made(self, dictionary: Dictionary, ids: Sequence[int]) -> list[Card]:
        directions = dictionary.rows(ids).dec
        try:
            logits = logit_lens(self._model, self._layers, dictionary.info.site, directions)
        except SteerdeckError:
            return [Card(i, "") for i in ids]
        logits = logits[:, : self._vocab].cpu()
        n = min(WORDS, logits.shape[-1])
        top, low = logits.topk(n), logits.topk(n, largest=False)
        cards = []
        for at, i in enumerate(ids):
            promoted = self._named(top.indices[at], top.values[at])
            label = token_label([], [token for token, _ in promoted])
            suppressed = self._named(low.indices[at], low.values[at])
            cards.append(
                Card(i, label, promoted=promoted, suppressed=suppressed, labelled_by="tokens")
            )
        return cards

    def _named(self, ids: Tensor, logits: Tensor) -> tuple[tuple[str, float], ...]:
        pairs = zip(ids.tolist(), logits.tolist(), strict=True)
        return tuple((self._texts(i), float(f"{logit:.4g}")) for i, logit in pairs)
