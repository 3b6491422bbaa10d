"""Replies of the model with one feature edited per row, many rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..edits import EditTable, FeatureRows, Op, steer
from .activations import Site, content, replaced
from .sae import Sae

Message = dict[Literal["role", "content"], str]


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt and the clamp under which to answer it. `value` in activations; None: unsteered."""

    prompt: str
    feature: int = 0
    value: float | None = None

    @property
    def messages(self) -> list[Message]:
        return [{"role": "user", "content": self.prompt}]


class Voice:
    """A model with its dictionary, ready to answer. Sampling is seeded: same wishes, same replies.

    The maths is that of `dictionaries.edits`, read from the unedited residual, on content tokens.
    """

    def __init__(
        self, site: Site, sae: Sae, tokenizer: PreTrainedTokenizerFast, *, rows: int = 64
    ) -> None:
        self.site, self.sae, self.tokenizer, self.rows = site, sae, tokenizer, rows

    def answer(self, wishes: Sequence[Wish], *, tokens: int = 32, seed: int = 0) -> list[str]:
        """One reply a wish, in order."""
        order = sorted(range(len(wishes)), key=lambda i: len(wishes[i].prompt))
        replies = [""] * len(wishes)
        for chunk in _chunks(order, self.rows):
            torch.manual_seed(seed + chunk[0])
            said = self._answer([wishes[i] for i in chunk], tokens)
            for i, reply in zip(chunk, said, strict=True):
                replies[i] = reply
        return replies

    def _answer(self, wishes: list[Wish], tokens: int) -> list[str]:
        self.tokenizer.padding_side = "left"
        inputs = self.tokenizer.apply_chat_template(
            [w.messages for w in wishes],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        steerable = content(inputs["input_ids"])

        def change(x: Tensor) -> Tensor:
            active = steerable if x.shape[1] > 1 else torch.ones(len(wishes), 1, dtype=torch.bool)
            return self.steer(x, wishes, active)

        with replaced(self.site, change), torch.inference_mode():
            out = self.site.model.eval().generate(
                **inputs,
                max_new_tokens=tokens,
                do_sample=True,
                temperature=0.7,
                top_k=20,  # near enough to top_p 0.9, and needs no sort of the vocabulary
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in new]

    def steer(self, x: Tensor, wishes: Sequence[Wish], active: Tensor) -> Tensor:
        """x [rows, tokens, d_model] with each row's own clamp; active: bool [rows, tokens]."""
        features = torch.tensor([w.feature for w in wishes])
        wanted = torch.tensor([w.value is not None for w in wishes])
        values = torch.tensor([w.value or 0.0 for w in wishes])
        table = EditTable.of([Op.CLAMP.edit(float(v)) for v in values])
        shaped = EditTable(*(t[:, None, None] for t in _fields(table)))
        return steer(x, self._rows(features), shaped, active=(active & wanted[:, None])[..., None])

    def _rows(self, features: Tensor) -> FeatureRows:
        """Batched rows: one feature each, enc [rows, 1, d], the constants [rows, 1, 1]."""
        sae = self.sae
        enc = sae.W_enc.T[features]
        offset = sae.b_enc[features] - enc @ sae.b_dec
        one = torch.ones_like(offset)
        return FeatureRows(
            enc=enc[:, None],
            gain=one[:, None, None],
            offset=offset[:, None, None],
            gate=offset[:, None, None],
            threshold=sae.threshold[features][:, None, None],
            dec=sae.W_dec[features][:, None],
        )


def _fields(table: EditTable) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return table.scale, table.shift, table.floor, table.ceiling


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
