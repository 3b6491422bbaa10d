"""What each feature does, measured: when it fires (over a corpus) and what it says (logit lens)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..card import Card, Example, Histogram
from .activations import Site, content, residuals
from .packing import Batch
from .sae import Sae

_BINS = 20
_EXAMPLES = 6
_BEFORE, _AFTER = 14, 8  # tokens shown around an example's peak
_WORDS = 12  # promoted and suppressed tokens on a card


@dataclass(frozen=True, slots=True)
class Firings:
    """Every nonzero activation over a corpus of content tokens, ordered by feature.

    tokens: the corpus, [n] ids; starts: for each token the first and last position of its sample.
    feature, token, value: one entry a firing. first: [d_sae + 1], where each feature's begin.
    """

    tokens: Tensor
    bounds: Tensor  # [n, 2]
    token: Tensor
    value: Tensor
    first: Tensor

    def of(self, feature: int) -> tuple[Tensor, Tensor]:
        """(token positions, activations) of one feature."""
        a, b = int(self.first[feature]), int(self.first[feature + 1])
        return self.token[a:b], self.value[a:b]

    def maxima(self) -> Tensor:
        """[d_sae], 0 for features that never fired."""
        top = torch.zeros(len(self.first) - 1)
        owner = torch.repeat_interleave(torch.arange(len(top)), self.first.diff())
        return top.scatter_reduce(0, owner, self.value, "amax")


def firings(site: Site, sae: Sae, packed: Iterable[Batch], tokens: int) -> Firings:
    """Run the model and the SAE over about that many content tokens (whole batches)."""
    ids, bounds, feature, token, value = [], [], [], [], []
    seen = 0
    for batch in packed:
        keep = content(batch.ids) & (batch.segment > 0)
        f = sae.encode(residuals(site, batch)[keep])
        at, which = f.nonzero(as_tuple=True)
        feature.append(which.to(torch.int32))
        token.append((at + seen).to(torch.int32))
        value.append(f[at, which])
        ids.append(batch.ids[keep])
        bounds.append(_bounds(batch, keep) + seen)
        seen += int(keep.sum())
        if seen >= tokens:
            break
    owner = torch.cat(feature)
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=sae.d_sae)
    first = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return Firings(
        torch.cat(ids), torch.cat(bounds), torch.cat(token)[order], torch.cat(value)[order], first
    )


def _bounds(batch: Batch, keep: Tensor) -> Tensor:
    """[n, 2] for the kept tokens, counted from 0: the stretch of their own sample."""
    rows = torch.arange(len(batch.ids))[:, None] * (int(batch.segment.max()) + 1)
    sample = (rows + batch.segment)[keep]
    _, inverse, counts = torch.unique_consecutive(sample, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    return torch.stack([(ends - counts)[inverse], ends[inverse]], dim=-1)


@torch.inference_mode()
def logit_lens(site: Site, sae: Sae) -> Tensor:
    """[d_sae, vocab]: each decoder row through the final norm's gain and the unembedding.

    The norm's division is left out: it scales all tokens alike, and not their order. Centred over
    the vocabulary, so that 0 is a token the feature does nothing for.
    """
    gain = site.model.model.norm.weight
    logits = (sae.W_dec * gain) @ site.model.lm_head.weight.T
    centred: Tensor = logits - logits.mean(-1, keepdim=True)
    return centred


def cards(
    found: Firings, lens: Tensor, tokenizer: PreTrainedTokenizerFast, *, least: int = 5
) -> list[Card]:
    """A card for every feature that fired at least `least` times."""
    texts = token_texts(tokenizer)
    made = []
    for feature in range(len(found.first) - 1):
        at, value = found.of(feature)
        if len(at) < least:
            continue
        order = value.argsort(descending=True)
        top, low = lens[feature].topk(_WORDS), (-lens[feature]).topk(_WORDS)
        counts, edges = np.histogram(value.numpy(), bins=_BINS, range=(0.0, float(value.max())))
        made.append(
            Card(
                feature=feature,
                label=_label(found.tokens[at[order[:40]].long()], top.indices, texts),
                density=len(at) / len(found.tokens),
                maximum=float(value.max()),
                histogram=Histogram(tuple(edges.tolist()), tuple(counts.tolist())),
                promoted=_named(top.indices, top.values, texts),
                suppressed=_named(low.indices, -low.values, texts),
                examples=_examples(found, at, value, order, texts),
            )
        )
    return made


def token_texts(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text of every id, alone; a byte that is no character by itself shows as U+FFFD."""
    return [tokenizer.decode([i]) for i in range(len(tokenizer))]


def _named(ids: Tensor, logits: Tensor, texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    pairs = zip(ids.tolist(), logits.tolist(), strict=True)
    return tuple((texts[i], round(float(v), 4)) for i, v in pairs)


def _label(peaks: Tensor, promoted: Tensor, texts: Sequence[str]) -> str:
    """The commonest tokens it peaks on, or where no token is common, what it promotes."""
    common = [(i, n) for i, n in Counter(peaks.tolist()).most_common(3) if n >= 3]
    ids = [i for i, _ in common] or promoted[:3].tolist()
    said = [texts[i].strip() or repr(texts[i]) for i in ids]
    verb = "fires on" if common else "says"
    return f"{verb} " + ", ".join(dict.fromkeys(said))


def _examples(
    found: Firings, at: Tensor, value: Tensor, order: Tensor, texts: Sequence[str]
) -> tuple[Example, ...]:
    """Its strongest peaks, each from another sample."""
    by_token = dict(zip(at.tolist(), value.tolist(), strict=True))
    taken: list[Example] = []
    used: set[int] = set()
    for i in order.tolist():
        peak = int(at[i])
        start, end = (int(b) for b in found.bounds[peak])
        if start in used:
            continue
        used.add(start)
        span = range(max(start, peak - _BEFORE), min(end, peak + _AFTER + 1))
        taken.append(
            Example(
                tuple(texts[int(found.tokens[t])] for t in span),
                tuple(round(by_token.get(t, 0.0), 3) for t in span),
            )
        )
        if len(taken) == _EXAMPLES:
            break
    return tuple(taken)
