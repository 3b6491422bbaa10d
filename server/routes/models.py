"""What can be asked for by name: the model, its presets as models, and what the engine can do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast, get_args

from fastapi import APIRouter

from dictionaries.edits import Op
from dictionaries.fit import Fit

from ..deck import Deck
from ..engine import vectors
from ..engine.conditions import CONDITIONS, Thinking
from ..engine.guard import Mode
from ..engine.types import Where
from ..errors import UnknownModel
from ..presets import Preset
from ..receipt import versions
from ..schemas.compare import MAX_VARIANTS
from ..schemas.conditions import Unit
from ..schemas.listings import DictionaryList, DictionaryReply, FitReply, ModelList, ModelReply
from ..schemas.steering import Traced
from ..schemas.vectors import MAX_VECTORS
from ..steering import SEPARATOR
from ..vectors import FLOATS
from .common import DeckDep
from .presets import preset_reply

router = APIRouter(tags=["models"])


def model_reply(deck: Deck, preset: Preset | None = None) -> ModelReply:
    name = f"{deck.model}{SEPARATOR}{preset.name}" if preset else deck.model
    reply: ModelReply = {
        "id": name,
        "object": "model",
        "created": deck.created,
        "owned_by": "steerdeck",
        "max_model_len": deck.engine.capabilities.max_context,
    }
    if preset:
        reply["steering_preset"] = preset_reply(preset)
    return reply


def fit_reply(fit: Fit | None) -> FitReply | None:
    return None if fit is None else cast(FitReply, asdict(fit))


@router.get("/models", summary="The model, and one entry per preset")
async def models(deck: DeckDep) -> ModelList:
    presets = deck.presets.all()
    return {
        "object": "list",
        "data": [model_reply(deck), *(model_reply(deck, preset) for preset in presets)],
    }


@router.get("/models/{id:path}", summary="One model or preset")
async def model(id: str, deck: DeckDep) -> ModelReply:
    found = {reply["id"]: reply for reply in (await models(deck))["data"]}
    if id not in found:
        raise UnknownModel(
            f"{id!r} is not served here; GET /v1/models lists what is", param="model"
        )
    return found[id]


@router.get("/dictionaries", summary="The opened dictionaries (SAEs)")
def dictionaries(deck: DeckDep) -> DictionaryList:
    data: list[DictionaryReply] = []
    for name, dictionary in deck.dictionaries.items():
        info = dictionary.info
        data.append(
            {
                "id": name,
                "object": "dictionary",
                "format": info.format,
                "architecture": info.architecture,
                "site": {"layer": info.site.layer, "hook": info.site.hook},
                "d_in": info.d_in,
                "d_sae": info.d_sae,
                "model": info.model,
                "revision": info.revision,
                "cards": len(deck.cards[name]) if name in deck.cards else 0,
                "reads_exactly": info.reads_exactly,
                "why_not": info.why_not,
                "source": deck.sources.get(name),
                "fit": fit_reply(deck.fits.get(name)),
            }
        )
    return {"object": "list", "data": data}


@router.get("/capabilities", summary="What this server can do, and its limits")
async def capabilities(deck: DeckDep) -> dict[str, Any]:
    told = deck.engine.capabilities
    return {
        "object": "capabilities",
        "model": deck.model,
        "model_revision": deck.revision,
        "device": told.device,
        "dtype": told.dtype,
        "compilation": deck.engine.compilation,
        "layers": told.layers,
        "d_model": told.d_model,
        "vocab_size": told.vocab_size,
        "limits": {
            "context_tokens": told.max_context,
            "edits": told.max_edits,
            "conditions": CONDITIONS,
            "rows": told.max_rows,
            "waiting": told.max_waiting,
            "variants": MAX_VARIANTS,
            "vectors": 0 if told.no_vectors else MAX_VECTORS,
        },
        "vectors": {"hooks": vectors.HOOKS, "dtypes": list(FLOATS)},
        "prefix_cache": {"bytes": told.prefix_bytes, "tokens": told.prefix_tokens},
        "ops": list(Op),
        "units": get_args(Unit),
        "where": list(Where),
        "norm": ["keep"],
        "trace": get_args(Traced),
        "thinking": list(Thinking) if told.thinks else [],
        "guard": list(Mode),
        "defaults": {
            "temperature": deck.defaults.temperature,
            "top_p": deck.defaults.top_p,
            "top_k": deck.defaults.top_k,
            "min_p": deck.defaults.min_p,
            "repetition_penalty": deck.defaults.repetition_penalty,
            "max_completion_tokens": deck.defaults.max_tokens,
        },
        "not_built": dict(deck.defaults.unbuilt),
        "dictionaries": list(deck.dictionaries),
        "versions": versions(),
    }
