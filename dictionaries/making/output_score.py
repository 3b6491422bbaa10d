"""How surely steering with a feature makes the model say what the feature stands for.

The output score of Arad et al. (EMNLP 2025, arXiv 2505.20063), as their code computes it. V is the
20 tokens that the feature's decoder row promotes most (logit lens). A neutral prompt is run once,
and at its last token 10 times the largest activation that any feature has there is added to this
feature's activation (the dictionary's error stays in). With p the next token's probabilities,

    score = (1 - best rank of V in p / size of the vocabulary) * largest p of V      in 0 .. 1

The paper has one prompt, "From my experience,"; with more the score is the mean over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..dictionary import Dictionary
from ..edits import EditTable, FeatureRows, Op
from ..errors import DictionaryError
from .chats import special_ids
from .subject import Change, Subject, Windows

PROMPTS = ("From my experience,",)
PROMISED = 20  # tokens of V
_FACTOR = 10.0
_ROOM = 64 * 2**20  # bytes of logits at once
_MOST_ROWS = 256


class OutputScore:
    """Scores features, a batch of them at a time. One forward pass a feature and prompt."""

    def __init__(
        self, subject: Subject, dictionary: Dictionary, prompts: Sequence[str] = PROMPTS
    ) -> None:
        """Raises DictionaryError for a prompt that has no content token."""
        self._subject = subject
        self._prompts = [_prompt(subject.tokenizer, prompt) for prompt in prompts]
        self._strengths = [
            _FACTOR * _largest(subject, dictionary, prompt) for prompt in self._prompts
        ]

    def __call__(self, rows: FeatureRows, promised: Tensor) -> Tensor:
        """[k] on the CPU. rows: of k features. promised: [k, PROMISED] ids, the V of each."""
        total = torch.zeros(len(promised))
        for prompt, strength in zip(self._prompts, self._strengths, strict=True):
            vocab = len(self._subject.tokenizer)
            at_once = max(1, min(_MOST_ROWS, _ROOM // (4 * vocab * prompt.ids.shape[1])))
            for start in range(0, len(promised), at_once):
                part = slice(start, start + at_once)
                total[part] += self._score(prompt, strength, _only(rows, part), promised[part])
        return total / len(self._prompts)

    def _score(
        self, prompt: Windows, strength: float, rows: FeatureRows, promised: Tensor
    ) -> Tensor:
        k = len(promised)
        each = Windows(*(t.expand(k, -1) for t in prompt))
        table = EditTable.of([Op.ADD.edit(strength)] * k)
        a_row_each = EditTable(*(getattr(table, f.name)[:, None, None] for f in fields(table)))
        logits = self._subject.logits(each, Change(rows, a_row_each))[:, -1]
        return score(logits.softmax(-1), promised.to(logits.device)).cpu()


def score(p: Tensor, promised: Tensor) -> Tensor:
    """[k], of next-token probabilities p [k, vocab] and the tokens [k, n] that were promised."""
    best = p.gather(-1, promised).amax(-1)
    rank = (p > best[:, None]).sum(-1)
    return (1 - rank / p.shape[-1]) * best


def _only(rows: FeatureRows, part: slice) -> FeatureRows:
    """Some features, each for a row of its own: enc and dec [k, 1, d], the others [k, 1, 1]."""
    picked = [getattr(rows, f.name)[part] for f in fields(rows)]
    return FeatureRows(*(t[:, None] if t.dim() == 2 else t[:, None, None] for t in picked))


def _prompt(tokenizer: Any, text: str) -> Windows:
    """One row that ends with the text; only its last token is content, for that one is steered."""
    ids = torch.tensor([tokenizer(text)["input_ids"]], dtype=torch.long)
    special = special_ids(tokenizer)
    while ids.shape[1] and int(ids[0, -1]) in special:  # an end-of-text token some add
        ids = ids[:, :-1]
    if not ids.shape[1]:
        raise DictionaryError(f"the neutral prompt {text!r} has no tokens: give it words.")
    last = torch.zeros_like(ids, dtype=torch.bool)
    last[0, -1] = True
    return Windows(ids, torch.ones_like(last), last)


def _largest(subject: Subject, dictionary: Dictionary, prompt: Windows) -> float:
    """The largest activation of any feature at the prompt's last token."""
    x = subject.residual(prompt)[0, -1:]
    largest = max(float(f.max()) for _, f in dictionary.encoded(x))
    if largest <= 0:
        raise DictionaryError(
            "no feature of the dictionary fires at the end of the neutral prompt, so there is no "
            "strength to steer with: give other prompts."
        )
    return largest
