"""Text from files and data sets: documents, rows, and which tokens people wrote."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from dictionaries.errors import DictionaryError
from dictionaries.making.feed import held_out
from dictionaries.making.files import text_state
from dictionaries.making.sources import LONGEST, hub_name
from dictionaries.making.text import documents, encoded, pieces, shuffled, windows

HELLO = ({"role": "user", "content": "user"}, {"role": "assistant", "content": "hello user"})


def read(*sources: Path | str, field: str = "text") -> list[Any]:
    return list(documents([str(s) for s in sources], field=field))


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "one\ntwo\n\n \n\nthree\n", ["one\ntwo", "three"]),
        ("a.txt", "one\ntwo\n", ["one\ntwo"]),
        ("a.md", "# one\n\ntwo\n", ["# one\n\ntwo"]),
        ("a.jsonl", '{"text": "one"}\n\n"two"\n{"text": " "}\n', ["one", "two"]),
        ("a.json", '[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
        ("a.json", '{"text": "one"}', ["one"]),
        ("a.json", '[{"text": null}, null, {"text": "one"}, {"messages": null}]', ["one"]),
        ("a.jsonl", json.dumps({"text": None, "messages": HELLO}), [HELLO]),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": null}]}',
            [({"role": "user", "content": "hi"}, {"role": "tool", "content": ""})],
        ),
        ("a.jsonl", r'{"text": "a \ud83d\ude00 \ud83d"}', ["a \U0001f600 \ufffd"]),
        (
            "a.jsonl",
            r'{"messages": [["user", "\udc00"]]}',
            [({"role": "user", "content": "\ufffd"},)],
        ),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ("a.jsonl", json.dumps({"messages": HELLO}), [HELLO]),
        ("a.jsonl", json.dumps({"turns": [["user", "user"], ["gpt", "hello user"]]}), [HELLO]),
        (
            "a.jsonl",
            '{"conversations": [{"from": "human", "value": "user"}, '
            '{"from": "gpt", "value": "hello user"}]}',
            [HELLO],
        ),
    ],
)
def test_every_kind_of_file_gives_its_documents(name, text, expected, packed, tmp_path):
    assert read(write(tmp_path / (name + packed), text)) == expected


def test_the_field_may_have_another_name(tmp_path):
    file = write(tmp_path / "a.jsonl", '{"body": "one", "id": 3}')
    assert read(file, field="body") == ["one"]
    with pytest.raises(DictionaryError, match=r"has body, id: its text is looked for in 'text'"):
        read(file)


def test_a_folder_is_all_its_texts_and_sources_take_turns(tmp_path):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    write(tmp_path / "d" / "b.txt", "b1\n\nb2")
    write(tmp_path / "d" / "deep" / "c.md", "c1")
    write(tmp_path / "d" / "image.png", "no text")
    other = write(tmp_path / "a.txt", "a1\n\na2\n\na3\n\na4")
    assert read(tmp_path / "d" / "b.txt", other) == ["b1", "a1", "b2", "a2", "a3", "a4"]
    assert sorted(read(tmp_path / "d")) == ["b1", "b2", "c1"]
    assert "c1" in read(tmp_path / "d")[:2]
    assert read(tmp_path / "d", other)[1::2][:3] == ["a1", "a2", "a3"]


def test_who_stops_early_has_read_of_every_file_and_measures_on_several(tmp_path):
    for name in ("a-code", "b-news", "c-novels"):
        rows = (json.dumps({"text": f"{name} {i}"}) for i in range(300))
        write(tmp_path / f"{name}.jsonl", "\n".join(rows))

    def text(seed: int = 0) -> Any:
        return documents([str(tmp_path)], seed=seed)

    def share(some: Any, many: int) -> Counter[str]:
        return Counter(document.split()[0] for document in itertools.islice(some, many))

    assert share(text(), 90) == {"a-code": 30, "b-news": 30, "c-novels": 30}
    assert len(share(held_out(text, seed=1), 8)) == 3
    assert len({next(text(seed)) for seed in range(9)}) > 1


def test_the_first_held_out_tokens_are_not_all_of_the_first_document():
    book = "once upon a time " * (9 * LONGEST // 17)
    held = list(held_out(lambda: iter([book, *map(str, range(2000))])))
    of_it = [len(document) > 9 for document in held]
    assert sum(of_it) >= 9
    assert sum(of_it[:9]) < 5


def test_of_many_files_a_few_dozen_are_open_drawn_by_the_seed(tmp_path, caplog):
    caplog.set_level("INFO")
    for i in range(100):
        write(tmp_path / f"{i:03}.txt", f"{i}\n\n{i}")
    whole = read(tmp_path)
    assert sorted(whole) == sorted([str(i) for i in range(100)] * 2)
    first = documents([str(tmp_path)])
    assert max(int(next(first)) for _ in range(20)) > 50
    first.close()
    assert "text of 20 of its 100 files was read" in caplog.text


def test_what_is_hidden_or_written_by_the_command_is_no_text(tmp_path):
    for name in (
        "a.txt",
        ".git/b.md",
        "d/.c.txt",
        "sae/cfg.json",
        "sae.work/made.json",
        "saett.md",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, '{"text": 1}' if "json" in name else name)
    out = tmp_path / "sae"
    before = text_state([str(tmp_path)], out)
    assert sorted(documents([str(tmp_path)], without=out)) == ["a.txt", "saett.md"]
    write(tmp_path / "sae" / "metrics.json", "{}")
    assert text_state([str(tmp_path)], out) == before
    with pytest.raises(DictionaryError, match=r"json, record 0 has"):
        read(tmp_path)


def test_a_text_is_told_by_its_files(tmp_path):
    file, other = write(tmp_path / "a.txt", "one"), tmp_path / "elsewhere"
    sources = [str(tmp_path), "hf:org/name"]
    seen = [text_state(sources)]
    assert text_state(sources) == seen[0]
    write(file, "one\n\ntwo")
    seen.append(text_state(sources))
    write(tmp_path / "0.txt", "zero")
    seen.append(text_state(sources))
    other.mkdir()
    seen.append(text_state([str(write(other / "a.txt", "three"))]))
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.txt", " \n\n", "holds no text"),
        ("a.jsonl", '{"text": "one"}\n{"text', "line 2 is not JSON"),
        ("a.jsonl", "[1, 2]", "is no object"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "holds a turn that is no message"),
        ("a.pdf", "x", "is none of .txt, .md"),
        ("a.txt.gz", None, "cannot be read"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.json", "[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_text_is_named(name, text, why, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"not gzip" if text is None else text.encode())
    with pytest.raises(DictionaryError, match=why):
        read(path)


def test_a_damaged_gzip_file_is_named(tmp_path):
    whole = gzip.compress(bytes(range(32, 127)) * 40)
    damaged = tmp_path / "a.txt.gz"
    damaged.write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    with pytest.raises(DictionaryError, match=r"a\.txt\.gz cannot be read"):
        read(damaged)


@pytest.mark.parametrize("line", ["fog and a bridge\n", "fog and a bridge "])
def test_a_text_without_blank_lines_is_several_documents(line, tmp_path):
    text = line * 5000
    found = read(write(tmp_path / "a.txt", text))
    assert len(found) > 2  # one is held out, and there is one to train on
    assert max(map(len, found)) <= LONGEST
    assert "".join("".join(found).split()) == "".join(text.split())


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


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DictionaryError, match="give a file, a folder, or hf:org/name"):
        read(tmp_path / "gone.txt")
    with pytest.raises(DictionaryError, match=r"holds no \.txt"):
        read(tmp_path)
    with pytest.raises(DictionaryError, match="no text was named"):
        read()


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    broken = '{"text": "one"}\n{"text": "two"}\nnot json\n'
    stream = documents([str(write(tmp_path / "a.jsonl", broken))])
    assert list(itertools.islice(stream, 2)) == ["one", "two"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:a/b", ("a/b", None, "train")),
        ("hf:a/b:test", ("a/b", None, "test")),
        ("hf:a/b:en", ("a/b", "en", "train")),
        ("hf:a/b:en:dev", ("a/b", "en", "dev")),
        ("hf:a/b::dev", ("a/b", None, "dev")),
    ],
)
def test_a_data_sets_name_says_configuration_and_split(source, expected):
    assert hub_name(source) == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_data_set_is_streamed(tmp_path, monkeypatch):
    """A folder is a data set to the library as well: it opens it by the same call as the Hub's."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", '{"body": "one"}\n{"body": "two"}\n')
    write(tmp_path / "set" / "test.jsonl", '{"body": "three"}\n')
    assert read(f"hf:{tmp_path}/set", field="body") == ["one", "two"]
    assert read(f"hf:{tmp_path}/set:test", field="body") == ["three"]
    with pytest.raises(DictionaryError, match="cannot be read"):
        read(f"hf:{tmp_path}/set:validation", field="body")


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
