"""Fields of other servers at the root of a request, and what to say of each.

Refused by name are those that would change the reply, unless they carry a value with which they
do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields that say something about the call and nothing about the reply.
HARMLESS = frozenset(
    {
        "metadata",
        "mode",
        "models",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields of ours that steer nothing at the root of a chat's or a completion's body.
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("edits", "vectors", "preset", "norm", "abort", "guard", "trace", "timeline"),
        "put it inside `steering`",
    ),
    "steer": "what is edited stands in `steering`",
    "extra_body": "put what it holds at the root itself",
    "variants": "send it to /v1/compare",
}
# Where vectors stand that a preset of others brings: ours hold none.
VECTORS = (
    'put it into a folder of directions (dictionaries/README.md, "Directions of your own"), open '
    "that with --dictionary, and add it by its name"
)
# Other servers' words for what can be said here: how, and what of them means nothing.
RENAMED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    **dict.fromkeys(
        ("max_output_tokens", "max_new_tokens", "max_length", "n_predict", "num_predict"),
        ("say max_completion_tokens", (-1,)),
    ),
    **dict.fromkeys(
        ("stop_sequences", "stopping_strings", "custom_stopping_strings"), ("say stop", ([],))
    ),
    **dict.fromkeys(("system", "system_prompt"), ("send it as a message of role system", ("",))),
    "do_sample": ("say temperature 0", (True,)),
    "options": ("put what it holds at the root itself", ({},)),
    "random_seed": ("say seed", ()),
    "repeat_penalty": ("say repetition_penalty", (1,)),
}
NO_TOOLS = ("none", "auto")
# Fields that change the reply, and the values with which they do not.
UNBUILT: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": NO_TOOLS,
    "functions": ([],),
    "function_call": NO_TOOLS,
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    # Other servers' samplers
    "best_of": (1,),
    "encoder_repetition_penalty": (1,),
    "length_penalty": (1,),
    "typical_p": (1,),
    "tfs": (1,),
    "tfs_z": (1,),
    "guidance_scale": (1,),
    **dict.fromkeys(
        (
            "top_a",
            "top_n_sigma",
            "mirostat",
            "mirostat_mode",
            "xtc_probability",
            "dry_multiplier",
            "dynatemp_range",
            "smoothing_factor",
            "epsilon_cutoff",
            "eta_cutoff",
            "penalty_alpha",
            "no_repeat_ngram_size",
            # how far back a penalty looks; 0: over all there is, as here
            "frequency_penalty_range",
            "presence_penalty_range",
            "repetition_penalty_range",
            # tokens that must come
            "min_tokens",
            "min_new_tokens",
            "min_length",
        ),
        (0,),
    ),
    "temperature_last": (False,),
    "dynamic_temperature": (False,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    # and their other extensions
    "echo": (False,),
    "grammar": ("",),
    "json_schema": (),
    "reasoning": (),
    "thinking": (),
    "enable_thinking": (),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "safe_prompt": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "prompt_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "controller": (),
    "interventions": (),
    "features": (),
    "steering_vectors": (),
    **dict.fromkeys(ELSEWHERE, ()),
    **{name: neutral for name, (_, neutral) in RENAMED.items()},
}


def why_not(name: str) -> str:
    """What to say of a field of UNBUILT that would change the reply."""
    if name in ELSEWHERE:
        return f"{name} is not read at the root of this body: {ELSEWHERE[name]}"
    if name == "steering_vectors":
        return (
            f"{name} is another server's word: send each one in steering.vectors, as base64 of a "
            "safetensors file, and add it by an edit"
        )
    if name in RENAMED:
        return f"{name} is another server's word: {RENAMED[name][0]}"
    return f"{name} is not built here and would change the reply: leave it out"
