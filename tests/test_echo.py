"""A prompt said back: where in it each of its tokens begins, by tokenizers of every kind."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from server.echo import echoed
from server.engine.decoding import Vocabulary
from server.engine.types import Token

TEXT = "The fog,  the \u20ac!"


def byte_level(*, trim: bool) -> Tokenizer:
    """As Llama 3's and GPT-2's; the former counts a word's blank to no token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Th", "The", "fo", "fog", "th", "the", "\u0120the", "\u0120fog"]
    merges = [("T", "h"), ("Th", "e"), ("f", "o"), ("fo", "g"), ("t", "h"), ("th", "e")]
    merges += [("\u0120", "the"), ("\u0120", "fog")]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *words, "<s>"])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    trims = processors.ByteLevel(trim_offsets=trim)
    made.post_processor = processors.Sequence([trims, begins])
    return made


def pieces() -> Tokenizer:
    """As Llama 2's: a blank before the text, bytes for what the vocabulary lacks."""
    bytewise = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["\u2581", *"Thefog,t!", "\u2581the", "\u2581t", "\u2581th"]
    vocab = {piece: i for i, piece in enumerate([*bytewise, *words, "<unk>"])}
    merges = [("\u2581", "t"), ("\u2581t", "h"), ("\u2581th", "e")]
    made = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


@pytest.mark.parametrize(
    "backend", [byte_level(trim=True), byte_level(trim=False), pieces()], ids=["3", "gpt2", "2"]
)
def test_the_tokens_tile_the_text_that_was_sent(backend) -> None:
    """What stands from one beginning to the next is the token's own text, blanks and all."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=None)
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    tokens = [Token(i, vocabulary.text(i), vocabulary.bytes_of(i)) for i in ids]
    text, told, starts = echoed(tokenizer, TEXT, tokens, frozenset())
    assert (text, told) == (TEXT, tokens)
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert len(set(starts)) < len(starts)  # of a character of several tokens, and what has no text
    for token, start, stop in zip(told, starts, [*starts[1:], len(TEXT)], strict=True):
        if start < stop and "\ufffd" not in token.text:
            assert TEXT[start:stop] in (token.text, token.text.removeprefix(" "))
