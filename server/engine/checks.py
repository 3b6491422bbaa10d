"""What cannot be done, or not exactly as asked: refused before anything is queued."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from dictionaries.dictionary import Info, Site
from dictionaries.errors import DictionaryError

from ..errors import BadRequest, TooLong, Unsteerable
from .conditions import CONDITIONS, SHORTEST, Condition
from .seam import Capabilities
from .sites import depth, heads_width, post_normed
from .tables import only_adds
from .types import FeatureEdit, Request, Steering, Where
from .vectors import info_of


def check_sizes(request: Request, engine: Capabilities) -> None:
    """Raise BadRequest or TooLong for a request that this engine has no room for, ever."""
    prompt, wanted = len(request.prompt), request.sampling.max_tokens
    if prompt == 0 or wanted < (0 if request.echo else 1):
        raise BadRequest(
            f"{prompt} prompt tokens and {wanted} to generate came: both must be 1 or more."
        )
    if len(request.steerable) != prompt:
        raise BadRequest(f"{prompt} prompt tokens have {len(request.steerable)} flags.")
    if min(request.prompt) < 0 or max(request.prompt) >= engine.vocab_size:
        raise BadRequest(f"Token ids must lie in 0 to {engine.vocab_size - 1}.", param="prompt")
    if prompt + wanted > engine.max_context:
        raise TooLong(
            f"The prompt is too long: it has {prompt} tokens and {wanted} more may be generated, "
            f"{prompt + wanted} in all, and this model's maximum context length is "
            f"{engine.max_context} tokens. Shorten it or lower max_completion_tokens.",
            param="max_completion_tokens",
        )
    if request.shadowed and engine.max_rows < 2:
        raise BadRequest(
            "To compare with the unsteered model takes a second row, and this server has one: "
            'leave "kl" and "top" out of trace and kl out of guard, or start it with more '
            "--max-rows.",
            param="steering.trace",
        )


def check_room(rows: int, engine: Capabilities) -> None:
    """Raise BadRequest where so many rows are more than there will ever be places for."""
    places = engine.max_rows + engine.max_waiting
    if rows > places:
        raise BadRequest(
            f"This request needs {rows} rows, and this server has {engine.max_rows} and lets "
            f"{engine.max_waiting} more wait: ask for fewer replies at once, or start it with more "
            "--max-rows.",
            param="n",
        )


def check_fit(info: Info, layers: Sequence[nn.Module], d_model: int) -> None:
    """Raise Unsteerable for a dictionary of another model."""
    try:
        info.fits(len(layers), d_model)
    except DictionaryError as error:
        raise Unsteerable(f"{str(error)[:1].upper()}{str(error)[1:]}") from error
    if info.site.hook == "hook_z":
        width = heads_width(layers[info.site.layer])
        if info.width != width:
            raise Unsteerable(
                f"Dictionary {info.id!r} at hook_z has vectors of {info.width} numbers, but the "
                f"heads of this model are {width} wide together: it was made for another model."
            )
    of_module = info.of_module and info.site.hook in ("attn_out", "mlp_out")
    if of_module and post_normed(layers[info.site.layer]):
        raise Unsteerable(
            f"Dictionary {info.id!r} was trained on what the module itself puts "
            f"out, and this model normalises that before it is added: its {info.site.hook} is "
            "another vector. Use a dictionary of the residual stream."
        )


def check_steering(steering: Steering, loaded: Mapping[str, Info], max_edits: int) -> None:
    """Raise Unsteerable for the first edit that cannot be made; `loaded` are the dictionaries."""
    if len(steering.edits) > max_edits:
        raise _refused(f"{len(steering.edits)} edits came; one reply may have {max_edits}.")
    if len(steering.conditions) > CONDITIONS:
        raise _refused(
            f"{len(steering.conditions)} different conditions came; one reply may have "
            f"{CONDITIONS}."
        )
    for condition in steering.conditions:
        _check_condition(condition, loaded)
    seen: set[tuple[str, Where]] = set()
    for edit in steering.edits:
        info = loaded.get(edit.dictionary) if edit.vector is None else info_of(edit.vector)
        if info is None:
            known = ", ".join(loaded) or "none"
            raise _refused(f"Dictionary {edit.dictionary!r} is not loaded; loaded: {known}.")
        _check_edit(edit, info)
        _check_timing(edit, info.site, loaded)
        places = (Where.PROMPT, Where.GENERATED) if edit.where is Where.ALL else (edit.where,)
        keys = {(edit.ref, place) for place in places}
        if keys & seen:
            raise _refused(
                f"Feature {edit.ref} is edited twice on the same tokens: "
                "keep one of the edits, or give them different `where`."
            )
        seen |= keys


def _name(edit: FeatureEdit) -> str:
    return edit.ref if edit.vector else f"feature {edit.feature} of {edit.dictionary!r}"


def _check_edit(edit: FeatureEdit, info: Info) -> None:
    name = _name(edit)
    if not 0 <= edit.feature < info.d_sae:
        raise _refused(f"There is no {name}: it has features 0 to {info.d_sae - 1}.")
    numbers = edit.edit
    if any(map(math.isnan, numbers)) or any(map(math.isinf, numbers[:2])):
        raise _refused(
            f"The edit of {name} is not finite: scale {numbers.scale}, shift {numbers.shift}."
        )
    if not info.reads_exactly and not only_adds(numbers):
        raise _refused(
            f"{edit.op.value!r} needs the activation of {name}, which cannot be read exactly: "
            f"{info.why_not} Use `add`."
        )


def _check_condition(condition: Condition, loaded: Mapping[str, Info]) -> None:
    name = f"feature {condition.feature} of {condition.dictionary!r}"
    if condition.dictionary not in loaded:
        raise _refused(f"A condition reads {name}; loaded are {', '.join(loaded) or 'none'}.")
    info = loaded[condition.dictionary]
    if not 0 <= condition.feature < info.d_sae:
        raise _refused(f"A condition reads {name}: it has features 0 to {info.d_sae - 1}.")
    if not math.isfinite(condition.value):
        raise _refused(f"A condition compares {name} with {condition.value}: send a number.")
    if not info.reads_exactly:
        raise _refused(f"A condition reads {name}, which cannot be read exactly: {info.why_not}")


def _check_timing(edit: FeatureEdit, own: Site, loaded: Mapping[str, Info]) -> None:
    timing, name = edit.timing, _name(edit)
    if timing.when is not None and depth(loaded[timing.when.dictionary].site) > depth(own):
        raise _refused(
            f"The edit of {name} at {own} waits for feature {timing.when.feature} of "
            f"{timing.when.dictionary!r} at {loaded[timing.when.dictionary].site}, which the model "
            "computes later: a condition must read at the edit's own site or before it."
        )
    if edit.where is Where.PROMPT and (timing.skips_prompt or timing.last is not None):
        raise _refused(
            f"The edit of {name} acts on the prompt only, and its window or `thinking` only lets "
            "it act on the reply: leave one of them out."
        )
    first, last = timing.first or 0, timing.last
    if first < 0 or (last is not None and last < first):
        raise _refused(f"The edit of {name} has a window from reply token {first} to {last}.")
    if timing.half_life is not None and not SHORTEST <= timing.half_life < math.inf:
        raise _refused(
            f"The edit of {name} has a half-life of {timing.half_life} tokens: {SHORTEST} is the "
            "shortest."
        )


def _refused(why: str) -> Unsteerable:
    return Unsteerable(why, param="steering.edits")
