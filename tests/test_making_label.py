"""`steerdeck make label`: what a run labels, what it keeps, how it ends; and the command."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import label_stub
import pytest
from label_stub import FOG, Answer, Stub, labels, says
from typer.testing import CliRunner

from dictionaries.cards import Card, Cards
from dictionaries.errors import DictionaryError
from dictionaries.making.label import label_cards
from server.cli import app
from server.errors import SteerdeckError

stub, cards, endpoint = label_stub.stub, label_stub.cards, label_stub.endpoint  # fixtures


def test_every_card_gets_its_own_label_signed_and_keeps_the_rest(cards, stub, endpoint):
    stub.answer = lambda _, body: says(f"it was {body['messages'][-1]['content'].count('<<')}")
    done = label_cards(cards, endpoint(), by="m")
    assert (done.labelled, done.refused, len(stub.bodies)) == (12, 0, 12)
    assert labels(cards)[4] == ("it was 3", "m")
    assert labels(cards)[10] == ("it was 0", "m")
    assert cards.get(3) == replace(FOG, label="it was 3", labelled_by="m")
    assert cards.by_slug("the-bridge").feature == 10
    assert cards.search("fires")[1] == 0, "the old label is not found any more"


def test_nonsense_is_asked_for_again_and_then_the_card_keeps_its_label(cards, stub, endpoint):
    seven = iter(["I cannot.", "unknown", None, "I cannot.", "unknown", "a good label"])
    only = {"concurrency": 1, "by": "m"}
    stub.answer = lambda n, _: says(next(seven) if n < 6 else "fine label")
    done = label_cards(cards, endpoint(), **only)
    assert (done.labelled, done.refused) == (11, 1)
    assert labels(cards)[0] == ("fires on 0", "tokens")
    assert labels(cards)[1] == ("a good label", "m")
    again = label_cards(cards, endpoint(), **only)
    assert (again.labelled, again.refused) == (1, 0), "what had no label is asked again"


def test_a_card_is_asked_about_again_in_another_way(cards, stub, endpoint):
    """At the temperature 0 the same reply would come."""
    stub.answer = lambda *_: says("unknown")
    label_cards(cards, endpoint(), by="m", most=1)
    warmth = [body["temperature"] for body in stub.bodies]
    assert warmth[0] == 0
    assert warmth == sorted(set(warmth))
    assert len(warmth) == 3


@pytest.mark.parametrize("thought", ["<think>\nOkay, let's see", None, "Golden Gate"])
def test_replies_that_are_cut_off_are_no_labels_and_the_error_says_so(
    cards, stub, endpoint, thought
):
    stub.answer = lambda *_: says(thought, ended=False)
    with pytest.raises(DictionaryError, match=r"cut off at 200 tokens.*--max-tokens 2000") as told:
        label_cards(cards, endpoint(), by="m")
    assert "another model" not in str(told.value)
    assert len(stub.bodies) == 12
    stub.answer = lambda n, _: says("fog", ended=n % 3 > 0)
    done = label_cards(cards, endpoint(), by="m")
    assert (done.labelled, done.refused, done.cut) == (8, 4, 4)


def test_a_model_that_only_talks_nonsense_is_given_up(cards, stub, endpoint):
    stub.answer = lambda *_: says("I'm sorry")
    with pytest.raises(DictionaryError, match=r"no usable label for 12 features.*I'm sorry"):
        label_cards(cards, endpoint(), by="m")
    assert "m" not in {by for _, by in labels(cards).values()}


def test_a_model_that_fails_now_and_then_is_not_given_up(tmp_path):
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, "", promoted=((" yes" if i % 8 == 0 else " no", 1.0),)) for i in range(40))
        done = label_cards(
            many, lambda asked, _: "fog" if "yes" in asked[1]["content"] else "unknown", by="m"
        )
    assert (done.labelled, done.refused) == (5, 35)


def test_cards_that_were_refused_before_do_not_end_the_next_run(tmp_path):
    """They come first, all in a row, and say nothing of those that no run has come to."""
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, "", promoted=((" yes" if i % 8 == 0 else " no", 1.0),)) for i in range(40))

        def complete(asked: Any, _: float) -> str:
            return "fog" if "yes" in asked[1]["content"] else "unknown"

        label_cards(many, complete, by="m", most=25)
        done = label_cards(many, complete, by="m")
    assert (done.labelled, done.refused) == (1, 35)


def test_what_others_wrote_onto_a_card_while_the_model_thought_stays(cards):
    def complete(*_: Any) -> str:
        with Cards.open(cards.path, writable=True) as theirs:
            theirs.put([replace(theirs.get(0), onset=0.5, breakdown=2.0, strength=1.0)])
        return "fog"

    label_cards(cards, complete, by="m", most=1)
    labelled = cards.get(0)
    assert (labelled.label, labelled.onset, labelled.breakdown) == ("fog", 0.5, 2.0)


def test_only_unlabelled_leaves_concepts_and_other_models_alone(cards, stub, endpoint):
    done = label_cards(cards, endpoint(), by="m", only_unlabelled=True)
    assert done.labelled == len(stub.bodies) == 10
    assert labels(cards)[10] == ("The Bridge", "concept")
    assert labels(cards)[11] == ("old label", "other-model")


def test_a_run_that_breaks_off_keeps_what_it_has_and_goes_on_there(cards, stub, endpoint):
    stub.answer = lambda n, _: says(f"label {n}") if n < 5 else (401, {}, {"error": "no credit"})
    with pytest.raises(SteerdeckError, match=r"refused with 401.*no credit"):
        label_cards(cards, endpoint(), by="m", concurrency=1)
    with Cards.open(cards.path) as reread:
        kept = {i for i, (_, by) in labels(reread).items() if by == "m"}
    assert kept == {0, 1, 2, 3, 4}
    stub.answer = lambda n, _: says(f"later {n}")
    assert label_cards(cards, endpoint(), by="m").labelled == 7
    assert labels(cards)[2] == ("label 2", "m")
    assert label_cards(cards, endpoint(), by="m").labelled == 0


def test_a_run_that_is_stopped_asks_no_more_and_wakes_what_waits(cards):
    stop, numbers = threading.Event(), itertools.count()
    asked: list[int] = []
    woken: list[bool] = []

    def complete(*_: Any) -> str:
        asked.append(number := next(numbers))
        if number == 0:
            return "fog"
        woken.append(stop.wait(5))
        return "unknown"  # no label: it would be asked for again

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_cards(cards, complete, by="m", concurrency=3, stop=stop, told=interrupt)
    assert len(asked) <= 3
    assert all(woken)


def test_no_more_requests_are_under_way_than_allowed(cards, stub, endpoint):
    three = threading.Barrier(3)

    def meet(number: int, _: Any) -> Answer:
        three.wait(20)  # passes only if three requests are here together
        return says(f"label {number}")

    stub.answer = meet
    assert label_cards(cards, endpoint(), by="m", concurrency=3).labelled == 12
    assert stub.most_at_once == 3


def test_a_limit_bounds_the_run(cards, stub, endpoint):
    assert label_cards(cards, endpoint(), by="m", most=4).labelled == len(stub.bodies) == 4


# --- The command ---


def command(cards: Cards, stub: Stub, *more: str) -> Any:
    base = ["make", "label", "--cards", str(cards.path), "--base-url", stub.url]
    return CliRunner().invoke(app, [*base, *more])


def test_the_command_labels_and_says_so(cards, stub, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    done = command(cards, stub, "--only-unlabelled", "--key-env", "MY_KEY")
    assert done.exit_code == 0, done.output
    assert "10 features labelled by first-model" in done.output
    assert "secret-key" not in done.output
    assert {h["authorization"] for h in stub.headers} == {"Bearer secret-key"}
    assert {body["model"] for body in stub.bodies} == {"first-model"}
    again = command(cards, stub, "--only-unlabelled", "--key-env", "MY_KEY")
    assert "nothing to do: every feature has a label by first-model, or another's" in again.output
    assert len(stub.bodies) == 10
    assert "2 features labelled" in command(cards, stub, "--key-env", "MY_KEY").output
    whole = command(cards, stub, "--key-env", "MY_KEY").output
    assert "nothing to do: every feature has a label by first-model\n" in whole


def test_the_command_stops_at_once_while_the_server_is_busy(cards, stub, monkeypatch):
    @contextmanager
    def interrupting(*_: object) -> Iterator[Callable[..., None]]:
        def advance(done: float, note: str) -> None:
            if done:
                raise KeyboardInterrupt

        yield advance

    busy = (429, {"retry-after": "30"}, "slow down")
    stub.answer = lambda n, _: busy if n < 3 else says("fog")
    monkeypatch.setattr("server.cli.make_label.advancing", interrupting)
    began = time.monotonic()
    done = command(cards, stub, "--concurrency", "4")
    assert done.exit_code == 130
    assert time.monotonic() - began < 15


def test_the_command_tells_with_its_progress_that_it_waits(cards, stub, monkeypatch):
    told: list[tuple[float, str]] = []

    @contextmanager
    def listening(*_: object) -> Iterator[Callable[..., None]]:
        yield lambda done, note: told.append((done, note))

    busy = (429, {"retry-after": "0.01"}, "slow down")
    stub.answer = lambda n, _: busy if n == 2 else says("fog")
    monkeypatch.setattr("server.cli.make_label.advancing", listening)
    assert command(cards, stub, "--concurrency", "1").exit_code == 0
    assert told[2] == (2, "0 refused; the endpoint is busy (429), asked again in 0 s")
    assert [done for done, _ in told] == [1, 2, 2, *range(3, 13)]


def test_the_commands_refusals_are_sentences(cards, stub, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_KEY", raising=False)
    for more, message in (
        (["--key-env", "NO_KEY"], "NO_KEY is empty"),
        (["--model", "tokens"], "cannot sign labels"),
        (["--cards", str(tmp_path / "none.sqlite")], "there is no cards file"),
    ):
        refused = command(cards, stub, *more)
        assert refused.exit_code == 1, more
        assert message in refused.output
    assert not stub.bodies
