"""Documents as rows of tokens: cut, shuffled, chats turn by turn, and which tokens people wrote."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import pytest
import torch

from dictionaries.errors import DictionaryError
from dictionaries.making.sources import LONGEST
from dictionaries.making.text import encoded, pieces, shuffled, windows

HELLO = ({"role": "user", "content": "user"}, {"role": "assistant", "content": "hello user"})


@pytest.mark.parametrize(
    "text", ["fog.\n\n" * 9000, "fog and\n" * 9000, "fog " * 9000, "x" * 50_000]
)
def test_a_long_document_is_cut_where_it_may_be(text):
    found = list(pieces([text, "short", HELLO]))
    assert found[-2:] == ["short", HELLO]
    cut = [piece for piece in found[:-2] if isinstance(piece, str)]
    assert "".join(cut) == text
    assert max(map(len, cut)) <= LONGEST
    assert len(cut) < 2 + 2 * len(text) / LONGEST
    if " " in text or "\n" in text:
        assert all(piece.startswith("fog") for piece in cut)


def test_shuffling_keeps_every_item_and_follows_the_seed():
    items = list(range(500))
    one = list(shuffled(items, seed=3, buffer=64))
    assert sorted(one) == items
    assert one == list(shuffled(items, seed=3, buffer=64))
    assert one != list(shuffled(items, seed=4, buffer=64))
    assert one != items
    assert sum(a < b for a, b in itertools.pairwise(one[:400])) < 300
    seen: list[int] = []
    next(shuffled((seen.append(i) or i for i in itertools.count()), seed=0, buffer=64))
    assert len(seen) == 65


def said(tokenizer: Any, row: Any) -> str:
    """The text, each stretch of content tokens in brackets."""
    marked = ""
    for content, group in itertools.groupby(range(len(row.ids)), lambda i: row.content[i]):
        part = tokenizer.decode([row.ids[i] for i in group])
        marked += f"[{part}]" if content else part
    return marked


@pytest.mark.parametrize("strip", [False, True])
def test_content_is_what_people_wrote_in_a_chat(strip, tokenizer, monkeypatch):
    """The words of roles are not content, though a message says the same; nor are special tokens,
    though a message has one.
    """
    if strip:
        template = tokenizer.chat_template.replace("['content']", "['content'].strip()")
        monkeypatch.setattr(tokenizer, "chat_template", template)
    chat = ({"role": "user", "content": " user\n"}, {"role": "assistant", "content": "a<|end|>b"})
    (row,) = encoded([chat], tokenizer, context=99)
    assert tokenizer.decode(row.ids) == tokenizer.apply_chat_template(list(chat), tokenize=False)
    user, end = "[user]" if strip else "[ user\n]", "<|end|>\n"
    turns = [f"<|role|>user\n{user}{end}", f"<|role|>assistant\n[a]<|end|>[b]{end}"]
    assert said(tokenizer, row) == "<|begin|>" + "".join(turns)


def test_a_chat_without_a_template_is_its_contents(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    (row,) = encoded([HELLO], tokenizer, context=99)
    assert tokenizer.decode(row.ids) == "user\nhello user"


def test_chats_that_the_template_refuses_are_left_out_unless_all_are(
    tokenizer, monkeypatch, caplog
):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", refusing + tokenizer.chat_template)
    bad = ({"role": "system", "content": "Be short."},)
    assert len(list(encoded([bad, HELLO, *[bad] * 200], tokenizer, context=99))) == 1
    assert caplog.messages[0].startswith("1 of 1 chats are left out so far")
    assert caplog.messages[-1].startswith("201 of 202 chats are left out of this text")
    assert len(caplog.messages) < 12
    with pytest.raises(DictionaryError, match="refused the first 100 chats"):
        list(encoded([bad] * 100, tokenizer, context=99))


class Led:
    """A tokenizer that puts BOS in front of every text and EOS behind it."""

    all_special_ids = (256, 258)
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    chat_template = None
    pad_token_id, eos_token_id = None, 258

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [256, *text.encode(), 258]}


def test_a_long_text_is_cut_or_goes_on_with_its_special_tokens_in_front():
    (row,) = encoded(["abcdefgh"], Led(), context=5)
    assert row.ids == [256, *b"abcd"]
    rows = list(encoded(["abcdefgh"], Led(), context=5, rest=True))
    assert [r.ids for r in rows] == [[256, *b"abcd"], [256, *b"efgh"]]
    assert all(r.content == [False, *[True] * 4] for r in rows)
    (short,) = encoded(["ab"], Led(), context=5, rest=True)
    assert short.content == [False, True, True, False]


TURNS = ("u" * 66, "a" * 225, "u" * 8, "a" * 36)


@pytest.mark.parametrize("preamble", ["", "You are a lighthouse, and proud of it. " * 3])
def test_a_long_chat_goes_on_turn_by_turn(preamble, tokenizer, monkeypatch):
    """Its rows hold all that people wrote, once; each says first whose words they are."""
    template = tokenizer.chat_template.replace("<|begin|>", "<|begin|>" + preamble)
    monkeypatch.setattr(tokenizer, "chat_template", template)
    roles = itertools.cycle(("user", "assistant"))
    chat = tuple({"role": role, "content": said} for role, said in zip(roles, TURNS, strict=False))
    rows = list(encoded([chat], tokenizer, context=80, rest=True))
    assert len(rows) > 4
    assert max(len(row.ids) for row in rows) <= 80
    words = [i for row in rows for i, content in zip(row.ids, row.content, strict=True) if content]
    assert tokenizer.decode(words) == "".join(TURNS)
    for row in rows:
        marked = said(tokenizer, row)
        assert marked.startswith("<|begin|>")
        assert row.content.index(True) <= 20
        role = {"u": "user", "a": "assistant"}[marked.split("[")[1][0]]
        assert marked.split("[")[0].endswith(f"{role}\n")


def test_a_chat_in_which_nothing_is_to_read_is_told(tokenizer, monkeypatch, caplog):
    template = tokenizer.chat_template.replace("<|begin|>", "<|begin|>" + "Be brief. " * 9)
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert not list(encoded([HELLO], tokenizer, context=40))
    assert "1 of 1 chats are left out of this text: none of its first 40 tokens" in caplog.text
    assert list(encoded([HELLO], tokenizer, context=40, rest=True))


def test_windows_pad_on_the_right_and_lose_nothing(tokenizer):
    texts = ["a" * 7, "b" * 2, "c" * 9, "d" * 4, "e"]
    plain = list(windows(texts, tokenizer, context=8, rows=2))
    assert [tuple(w.ids.shape) for w in plain] == [(2, 7), (2, 8), (1, 1)]
    for batch in plain:
        assert torch.equal(batch.content, batch.attended)
        lengths = batch.attended.sum(-1, keepdim=True)
        assert torch.equal(batch.attended, torch.arange(batch.ids.shape[1]) < lengths)
    assert tokenizer.decode(plain[1].ids[1][plain[1].content[1]]) == "dddd"
    sorted_ = list(windows(texts, tokenizer, context=8, rows=2, rest=True, ahead=9))
    assert sum(int(w.content.sum()) for w in sorted_) == sum(map(len, texts))
    assert sum(w.ids.numel() for w in sorted_) < sum(w.ids.numel() for w in plain) + 3
