"""Does a dictionary fit the model it was given? Measured once, at start, on plain text; and how
long what it steers is there.

It must run before the engine: that changes the model's attention to its own.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary, Info
from dictionaries.edits import Norm, frame
from dictionaries.fit import Fit, measure

from .engine.checks import check_fit
from .engine.decoding import specials
from .engine.sites import Edited, attached, decoder_layers, first_seen, text_config
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


class Measured(NamedTuple):
    """fit: None where the dictionary's activations cannot be read. length: see `length`."""

    fit: Fit | None
    length: float | None


def fit(model: Any, tokenizer: Any, dictionary: Dictionary, expected: float | None) -> Measured:
    """Measure one dictionary, and warn in the log where it may not fit.

    expected: features a token where the dictionary's files do not say. Raises Unsteerable if the
    model has no such site.
    """
    layers = decoder_layers(model)
    check_fit(dictionary.info, layers, int(text_config(model).hidden_size))
    x = torch.cat([_read(model, tokenizer, layers, dictionary.info, text) for text in TEXTS])
    found = measure(dictionary, x, expected) if len(x) > 1 else None
    if found is not None and found.warning:
        log.warning("%s", found.warning)
    elif found is not None:
        log.info("dictionary %s fits: L0 %.3g", dictionary.info.id, found.l0)
    return Measured(found, length(x, dictionary.info.norm))


def length(x: Tensor, norm: Norm) -> float | None:
    """The median length of a token's vector in x [tokens, d_in], in the scale of the dictionary's
    decoder rows: that many times 1 / |row| is an `add` as long as the vector itself. None where
    that is no positive number.
    """
    back = frame(x, norm).back
    lengths = x.norm(dim=-1) if back is None else x.norm(dim=-1) / back[:, 0]
    found = float(lengths.median()) if len(lengths) else 0.0
    return found if math.isfinite(found) and found > 0 else None


def _read(model: Any, tokenizer: Any, layers: list[Any], info: Info, text: str) -> Tensor:
    """[tokens, d_in] float32 at its site; special tokens and the first one are left out.

    The first token's residual is an attention sink's in most models, and no dictionary reads it.
    """
    ids = tokenizer(text)["input_ids"]
    special = specials(tokenizer)
    layer = layers[info.site.layer]

    def run(look: Edited) -> None:
        at = {info.site.hook: without(unseen(info, layer), look)}
        with torch.no_grad(), attached(layer, at):
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)

    kept = [i for i, token in enumerate(ids) if i > 0 and token not in special]
    return first_seen(run)[0, kept].float()
