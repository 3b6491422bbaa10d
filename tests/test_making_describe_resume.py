"""A description that is killed goes on and ends in the same cards; a finished one stays."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import making_described
import pytest
from making_described import PLAN, cards_in, run, text

from dictionaries.cards import Cards
from dictionaries.errors import DictionaryError
from dictionaries.making.concept_sheets import Concepts, read_concepts
from dictionaries.making.describe_all import Reading
from dictionaries.making.firings import Text

sae, model = making_described.sae, making_described.model  # fixtures
subject, reading = making_described.subject, making_described.reading  # fixtures
sheets, made = making_described.sheets, making_described.made  # fixtures
many_blocks = making_described.many_blocks  # fixture: every test has it, unasked

TESTS = Path(__file__).parent

KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    import making_described as t
    from dictionaries import dictionary as dictionaries
    from dictionaries.cards import Cards
    from dictionaries.making import exemplars, matching, write_cards
    dictionaries.BLOCK = dictionaries.STRIDED = 4 * 32 * 12
    write_cards._CHUNK = 24
    tokenizer = PreTrainedTokenizerFast.from_pretrained({model!r})
    model = AutoModelForCausalLM.from_pretrained({model!r}, attn_implementation="eager").eval()
    sae = t.open_dictionary({sae!r}, id="tiny")
    subject = t.ModelSubject(model, tokenizer, sae.info.site, sae)

    def dies_in(owner, name, call):
        whole, calls = getattr(owner, name), []
        def dying(*args, **more):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **more)
        setattr(owner, name, dying)

    for owner, name, call in (
        (exemplars.Exemplars, "_write_windows", 27),
        (exemplars.Exemplars, "_write_windows", 14),
        (matching.Counts, "add", 15),
        (Cards, "_put", 30),
    ):
        pid = os.fork()
        if not pid:
            dies_in(owner, name, call)
            t.run(t.Reading(subject, sae, t.PLAN), Path({out!r}), t.read_concepts(Path({sheets!r})))
            os._exit(3)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, name
        print(name, *sorted(p.name for p in Path({out!r} + ".making").iterdir()))
"""


def test_a_run_killed_in_every_pass_ends_in_the_same_cards(
    made, reading, sheets, model, tokenizer, sae, tmp_path
):
    out = tmp_path / "cards.sqlite"
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    paths = {"out": out, "model": tmp_path / "model", "sae": sae.path, "sheets": sheets}
    script = textwrap.dedent(KILLED).format(
        tests=str(TESTS), **{name: str(path) for name, path in paths.items()}
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TESTS.parent, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    assert "cards.sqlite" in done.stdout.splitlines()[-1], "killed among the cards"
    told: list[tuple[str, float]] = []

    @contextmanager
    def advancing(what: str, *_: object) -> Iterator[Callable[[float, str], None]]:
        yield lambda done, note: told.append((what, done))

    described = run(replace(reading, advancing=advancing), out, read_concepts(sheets))
    assert {what for what, _ in told} <= {"concepts", "cards"}, "the corpus was read before"
    assert ("cards", 24) not in told, "the first chunk of cards was written before"
    assert described.fresh
    assert cards_in(out) == made[1]
    report = "cards.sqlite.concepts.json"
    assert (tmp_path / report).read_text() == (made[0].parent / report).read_text()
    with Cards.open(out) as one, Cards.open(made[0]) as other:
        assert one.meta == other.meta
    assert not (tmp_path / "cards.sqlite.making").exists()


def test_a_finished_run_says_so_and_does_nothing(made, reading, sheets):
    before = made[0].read_bytes()

    class Idle:
        tokenizer = reading.subject.tokenizer  # anything else of a model would raise

    again = run(replace(reading, subject=Idle()), made[0], read_concepts(sheets))
    assert not again.fresh
    assert (again.live, again.tokens) == (len(made[1]), sum(len(t.ids) for t in texts_of(reading)))
    assert made[0].read_bytes() == before


def texts_of(reading: Reading) -> list[Text]:
    from dictionaries.making.firings import text_of

    return [text_of(batch) for batch in text(reading.subject.tokenizer)]


def test_other_settings_and_other_files_are_refused(made, reading, sheets, tmp_path):
    other = replace(reading, plan=replace(PLAN, seed=1))
    with pytest.raises(DictionaryError, match="was made from other text or settings"):
        run(other, made[0])
    (stone, *rest), calm = read_concepts(sheets)
    edited = Concepts((replace(stone, words=("pebble",)), *rest), calm)
    with pytest.raises(DictionaryError, match="was made from other text or settings"):
        run(reading, made[0], edited)
    out = tmp_path / "cards.sqlite"

    @contextmanager
    def stopping(what: str, *_: object) -> Iterator[Any]:
        def stop(done: float, note: str) -> None:
            raise KeyboardInterrupt

        yield stop

    with pytest.raises(KeyboardInterrupt):
        run(replace(reading, advancing=stopping), out)
    with pytest.raises(DictionaryError, match=r"begun with other settings \(seed\)"):
        run(other, out)
    with pytest.raises(DictionaryError, match=r"begun with other settings \(concepts, sheets\)"):
        run(reading, out, read_concepts(sheets))
    (tmp_path / "text.sqlite").write_text("not cards")
    with pytest.raises(DictionaryError, match="cannot be read as cards"):
        run(reading, tmp_path / "text.sqlite")
