"""Text out: characters and stop strings never come apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from server.engine.decoding import Vocabulary, Writer


@pytest.fixture(scope="module")
def pieces() -> PreTrainedTokenizerFast:
    """SentencePiece-like, as Gemma and Llama 2: ▁ for a space, bytes for what is not a piece."""
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁Hello", "▁", "▁▁", "bridge"]
    backend = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_tokens([AddedToken("▁▁", normalized=False)])  # as Gemma has runs of blanks
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def written(vocabulary: Vocabulary, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    writer = Writer(vocabulary, stop)
    return [*(writer.write(i) for i in ids), writer.end()]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20))
def test_no_part_of_a_character_is_ever_given_out(text: str) -> None:
    vocabulary = Vocabulary(BYTES)
    parts = written(vocabulary, BYTES.encode(text))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


def test_an_emoji_comes_whole_with_its_last_token(tokenizer, pieces) -> None:
    ids = tokenizer.encode("🌉")
    assert len(ids) == 4
    assert written(Vocabulary(tokenizer), ids) == ["", "", "", "🌉", ""]
    by_bytes = [pieces.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "🌉".encode()]
    assert written(Vocabulary(pieces), by_bytes) == ["", "", "", "🌉", ""]


def test_a_stop_may_be_the_name_of_a_special_token(tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    name = tokenizer.eos_token
    ids = [
        *tokenizer.encode("a b", add_special_tokens=False),
        tokenizer.eos_token_id,
        *tokenizer.encode("c"),
    ]
    writer = Writer(vocabulary, ("bx", name))
    parts = [writer.write(i) for i in ids]
    assert ("".join(parts), writer.stopped) == ("a b", True), "what was held back is said"
    assert written(vocabulary, ids, ("x",))[-2:] == ["c", ""]


def test_both_kinds_of_vocabulary_decode_as_their_tokenizer(tokenizer, pieces) -> None:
    ids = pieces.convert_tokens_to_ids(["▁Hello", "▁", "bridge", "<0xC3>", "<0xA9>", "▁Hello"])
    assert "".join(written(Vocabulary(pieces), ids)) == pieces.decode(ids) == " Hello bridgeé Hello"
    ids = pieces.convert_tokens_to_ids(["bridge", "▁▁", "bridge"])
    assert ids[1] in pieces.added_tokens_decoder
    assert "".join(written(Vocabulary(pieces), ids)) == pieces.decode(ids) == "bridge  bridge"
    ids = tokenizer.encode("héllo <|end|>🌉!")
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(written(Vocabulary(tokenizer), ids)) == expected == "héllo 🌉!"


def test_half_a_character_at_the_end_is_dropped_and_broken_bytes_are_marked(tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.encode("a🌉")
    assert "".join(written(vocabulary, ids[:-1])) == "a"
    assert "".join(written(vocabulary, [*ids[:-1], *tokenizer.encode("b")])) == "a\ufffdb"


@settings(deadline=None, max_examples=100)
@given(
    st.text("ab🌉", max_size=14),
    st.lists(st.text("ab🌉", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_text_ends_before_the_first_stop_string_and_shows_none_of_it(
    text: str, stop: list[str]
) -> None:
    writer = Writer(Vocabulary(BYTES), stop)
    shown = ""
    for token in BYTES.encode(text):
        shown += writer.write(token)
        assert not any(string in shown for string in stop)
    shown += writer.end()
    # Tokens are bytes here, so a stop string is seen the moment its last character is complete.
    ends = [(text.index(s) + len(s), text.index(s)) for s in stop if s in text]
    if not ends:
        assert shown == text
        assert not writer.stopped
    else:
        first_end = min(end for end, _ in ends)
        assert shown == text[: min(start for end, start in ends if end == first_end)]
        assert writer.stopped


def test_what_might_be_a_stop_string_is_held_back_and_comes_if_it_is_not(tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.encode("x###y")
    assert written(vocabulary, ids, ("####",)) == ["x", "", "", "", "###y", ""]
    assert written(vocabulary, ids[:3], ("####",)) == ["x", "", "", "##"]
    assert "".join(written(vocabulary, ids, ("###",))) == "x"


def test_an_id_beyond_the_vocabulary_is_no_text(tokenizer) -> None:
    assert Vocabulary(tokenizer).bytes_of(10_000) == b""


def _bytes_tokenizer() -> Any:
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


BYTES = _bytes_tokenizer()  # hypothesis and function-scoped fixtures do not mix
