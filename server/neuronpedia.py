"""A feature as Neuronpedia names it -> the loaded dictionary that is meant, and its unit there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dictionaries.catalog import pairing
from dictionaries.dictionary import Dictionary
from dictionaries.edits import Norm
from dictionaries.making.neuronpedia_source import contradictions, folded

from .errors import BadRequest

_TUNED = re.compile(r"(it|instruct|chat|base|pt)$")


def meant(
    dictionaries: Mapping[str, Dictionary], source: str, model: str, where: str
) -> Dictionary:
    """The one of this name, or the only one that is what source and model say ("" for nothing).

    Another of the same layer has other features under the same numbers. Raises BadRequest.
    """
    if source in dictionaries:
        return dictionaries[source]
    against = {
        name: next(_wrong(name, one, source, model), "") for name, one in dictionaries.items()
    }
    fitting = [dictionaries[name] for name, why in against.items() if not why]
    if len(fitting) == 1:
        return fitting[0]
    told = ", ".join(
        f"{name} {why or f'({dictionaries[name].info.site}) may be meant'}"
        for name, why in against.items()
    )
    raise BadRequest(
        f"{where}.source {source[:80]!r} of model {model[:80]!r} does not tell one of the loaded "
        f"dictionaries: {told or 'none'}. Send the name of one as source if it is the same"
    )


def row_length(dictionary: Dictionary, index: int, where: str) -> float:
    """Of a feature's decoder row, in lengths of Neuronpedia's. Raises BadRequest where a strength
    there is none here.
    """
    info = dictionary.info
    if info.norm is not Norm.NONE:
        raise BadRequest(
            f"{where}: {info.id} scales its features by each token's own length, so a strength of "
            "Neuronpedia's, which moves all tokens as far, cannot be carried over exactly"
        )
    if not folded(info) or not 0 <= index < info.d_sae:  # which is refused with the whole preset
        return 1.0
    return float(dictionary.rows([index]).dec.norm()) or 1.0


def _wrong(name: str, dictionary: Dictionary, source: str, model: str) -> Iterator[str]:
    info = dictionary.info
    layer = re.match(r"[0-9]{1,6}(?![0-9])", source)
    if source and (layer is None or int(layer[0]) != info.site.layer):
        yield f"sits at {info.site}"
    yield from contradictions({"id": source}, dictionary)
    entry = pairing(name)
    published = (entry.neuronpedia or "").partition("/")[0] if entry else ""
    known = [_bare(one) for one in (published, info.model or "") if one]
    said = _bare(model)
    if said and known and not any(said in one or one in said for one in known):
        yield f"was made for {published or info.model}"


def _bare(model: str) -> str:
    """As publishers' spellings of it have in common: "google/gemma-2-2b-it" is "gemma22b"."""
    name = re.sub(r"[^a-z0-9]", "", model.lower().rpartition("/")[2])
    return _TUNED.sub("", name)
