"""What a model's makers recommend in its generation_config.json, and what of it is not done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .deck import Defaults
from .schemas.foreign import UNBUILT

log = logging.getLogger("steerdeck.generation")

# Of transformers' `generate`: each changes which tokens come, and none of them is built.
_NOT_DONE = (
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "force_words_ids",
    "constraints",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "top_h",
    "guidance_scale",
    "penalty_alpha",
    "num_beams",
)


def defaults(model: Any) -> Defaults:
    """The sampling its makers recommend, where they say so. Warns of what is not done here."""
    config: Mapping[str, Any] = model.generation_config.to_diff_dict()
    unbuilt = {name: config[name] for name in _NOT_DONE if _asks(name, config.get(name))}
    if unbuilt:
        log.warning(
            "the model's generation_config asks for %s, which is not done here: replies differ "
            "from those of its makers' settings, greedy ones too",
            ", ".join(f"{name} {value}" for name, value in unbuilt.items()),
        )
    temperature = config.get("temperature")
    return Defaults(
        temperature=Defaults.temperature if temperature is None else float(temperature),
        top_p=float(config.get("top_p") or 1.0),
        top_k=max(int(config.get("top_k") or 0), 0),  # vLLM says -1 for all
        min_p=float(config.get("min_p") or 0.0),
        repetition_penalty=float(config.get("repetition_penalty") or 1.0),
        unbuilt=unbuilt,
    )


def _asks(name: str, value: object) -> bool:
    """Whether this changes anything: None, nothing at all, 0 and the neutral values do not."""
    return bool(value) and value not in UNBUILT.get(name, ())
