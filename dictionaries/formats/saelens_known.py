"""What SAELens' registry knows of published SAEs and their own files do not say.

Facts of its `pretrained_saes.yaml` (MIT licence), by repository and folder: overrides of the config
that change every activation. Models run through TransformerLens with centred writing weights have
a residual stream of mean zero, and some SAEs were trained on that; others were trained on inputs
scaled by a number that was not saved with them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
KNOWN: dict[str, dict[str, Any]] = {
    "jbloom/GPT2-Small-SAEs-Reformatted": _CENTRED,
    "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8": _CENTRED,
    "tommmcgrath/gpt2-small-mlp-out-saes": _CENTRED,
    "JoshEngels/Mistral-7B-Residual-Stream-SAEs": {
        "normalize_activations": "constant_norm_rescale"
    },
}
# sqrt(d_in) / mean length of the inputs, by layer
SCALES: dict[str, dict[int, float]] = {
    "jbloom/Gemma-2b-Residual-Stream-SAEs": {12: 0.21381938399317255},
    "tommmcgrath/gpt2-small-mlp-out-saes": {
        0: 1.049317316132615,
        1: 2.3693984005104283,
        2: 1.6411934982190302,
        3: 1.8958522157897557,
        4: 1.81673478700627,
        5: 1.550234472245924,
        6: 1.3237742807210804,
        7: 1.1042905114723296,
        8: 0.9123762783479742,
        9: 0.6955335635232373,
        10: 0.3619728926727644,
        11: 0.2851548652550073,
    },
}


def overrides(folder: Path) -> dict[str, Any]:
    """Config keys for a folder of a known repository, told by its path: in the hub's cache, or
    under the repository's name, as a clone of it is. Nothing for others.
    """
    parts = folder.absolute().parts
    layer = re.search(r"blocks\.(\d+)\.", folder.absolute().name)
    facts: dict[str, Any] = {}
    for repo in (*KNOWN, *SCALES):
        if f"models--{repo.replace('/', '--')}" in parts or repo.partition("/")[2] in parts:
            facts |= KNOWN.get(repo, {})
            scale = SCALES.get(repo, {}).get(int(layer[1]) if layer else -1)
            facts |= {} if scale is None else {"norm_scaling_factor": scale}
    return facts
