"""Text from files and data sets: which documents they hold, and what is no text."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dictionaries.errors import DictionaryError
from dictionaries.making.feed import held_out
from dictionaries.making.files import text_state
from dictionaries.making.sources import LONGEST, hub_name
from dictionaries.making.text import documents

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
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, '
            '{"type": "image_url"}, {"type": "text", "text": "b"}]}]}',
            [({"role": "user", "content": "a\nb"},)],
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
