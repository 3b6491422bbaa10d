"""Does a dictionary fit the model it was given? Measured once, at start, on plain text.

It must run before the engine: that changes the model's attention to its own.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary, Info
from dictionaries.fit import Fit, measure

from .engine.checks import check_fit
from .engine.decoding import specials
from .engine.sites import attach, decoder_layers, text_config
from .engine.value_bias import unseen, without

log = logging.getLogger("steerdeck.fit")

# Everyday talk, news, narrative, instruction and explanation: what most dictionaries were made of.
TEXTS = (
    "How was your day? I had a long one at work, and then my sister called me about the weekend. "
    "She wants to visit with the children, so we will have to clean the house before Saturday.",
    "The city council voted on Tuesday to close the old bridge for repairs. Work is expected to "
    "begin in March and to take about eighteen months, the mayor said, at a cost of 40 million.",
    "The old man pushed the boat down to the water before sunrise. There was no wind yet, and the "
    "harbour lay so still that he could see the lights of the town in it, one beside the other.",
    "Preheat the oven to 200 degrees. Mix the flour with the butter and a pinch of salt, add the "
    "eggs one at a time, and let the dough rest for half an hour in a cold place.",
    "Plants take in carbon dioxide through small openings in their leaves. With the energy of "
    "light they turn it, together with water from the roots, into sugar, and release oxygen.",
)


class _Reached(Exception):
    """The pass has come to the site, and nothing after it is wanted."""


def fit(model: Any, tokenizer: Any, dictionary: Dictionary, expected: float | None) -> Fit | None:
    """Measure one dictionary, and warn in the log where it may not fit.

    expected: features a token where the dictionary's files do not say. None if its activations
    cannot be read. Raises Unsteerable if the model has no such site.
    """
    layers = decoder_layers(model)
    check_fit(dictionary.info, layers, int(text_config(model).hidden_size))
    x = torch.cat([_read(model, tokenizer, layers, dictionary.info, text) for text in TEXTS])
    found = measure(dictionary, x, expected) if len(x) > 1 else None
    if found is not None and found.warning:
        log.warning("%s", found.warning)
    elif found is not None:
        log.info("dictionary %s fits: L0 %.3g", dictionary.info.id, found.l0)
    return found


def _read(model: Any, tokenizer: Any, layers: list[Any], info: Info, text: str) -> Tensor:
    """[tokens, d_in] float32 at its site; special tokens and the first one are left out.

    The first token's residual is an attention sink's in most models, and no dictionary reads it.
    """
    ids = tokenizer(text)["input_ids"]
    special = specials(tokenizer)
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x)
        raise _Reached

    layer = layers[info.site.layer]
    handles = attach(layer, info.site.hook, without(unseen(info, layer), look))
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    kept = [i for i, token in enumerate(ids) if i > 0 and token not in special]
    return seen[0][0, kept].float()
