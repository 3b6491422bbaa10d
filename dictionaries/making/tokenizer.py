"""A byte-level BPE tokenizer with a chat template, and the ids of a sample.

Every token of the template is a special token of its own, so "leave the template alone" and
"leave special tokens alone" are one rule, for steering and for the SAE's statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .dealing import Sample

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, END, SYSTEM, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], *, vocab: int = 4096) -> PreTrainedTokenizerFast:
    """Learn merges from the texts. Any unicode survives a round trip: bytes are the alphabet."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bos = bpe.token_to_id(BOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


class Encoded(NamedTuple):
    """A sample's ids, and per id how much predicting it counts (see `encode`)."""

    ids: list[int]
    weights: list[float]
    mark: int = 0


class Encoder:
    """Samples to ids, exactly as the chat template renders them, without Jinja's cost."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._bpe = tokenizer.backend_tokenizer
        self._id = {token: self._bpe.token_to_id(token) for token in SPECIAL}

    def encode(self, sample: Sample, *, asked: float = 0.1) -> Encoded:
        """Replies, prose and their ends count 1; what others say counts `asked`, templates 0."""
        ids, weights = [self._id[BOS]], [0.0]
        if not sample.turns:
            body = self._text(sample.prose)
            return Encoded([*ids, *body, self._id[END]], [*weights, *[1.0] * (len(body) + 1)])
        for number, (role, text) in enumerate(sample.turns):
            body = self._text(text)
            counts = number >= sample.quiet
            weight, end = (1.0, 1.0) if role == "assistant" else (asked, 0.05)
            ids += [self._id[f"<|{role}|>"], *body, self._id[END]]
            weights += [0.0, *[weight * counts] * len(body), end * counts]
        return Encoded(ids, weights)

    def _text(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)
