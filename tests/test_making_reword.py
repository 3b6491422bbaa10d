"""Laws of the rewording of messages: other words, the same message."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dictionaries.making import synonyms
from dictionaries.making.reword import reword
from dictionaries.making.sheets import Talk
from dictionaries.making.synonyms import about_words, exchanged
from dictionaries.making.talks import Talks


def wordings(text: str, n: int = 300) -> list[str]:
    rng = random.Random(0)
    return [reword(text, rng) for _ in range(n)]


@given(st.text(), st.integers(0, 999))
@example("?!", 0)
@example("?!", 1)
@example("?!", 4)
def test_a_message_that_says_something_still_does(text: str, seed: int) -> None:
    said = reword(text, random.Random(seed))
    assert any(map(str.isalnum, said)) == any(map(str.isalnum, text))
    assert bool(said) == bool(text)


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("How do I get candle wax off a table?", "candle wax table"),
        ("Why do cats purr?", "cats purr"),
        ("What is a volcano?", "volcano"),
        ("What do owls eat?", "owls eat"),
        ("Can you write a letter to Ada?", "write letter ada"),
        ("My train was two hours late.", "train two hours late"),
    ],
)
def test_a_message_comes_in_many_wordings_that_ask_the_same(message: str, kept: str) -> None:
    """But for one slip of the keyboard, what a message is about is in all its wordings."""
    said = wordings(message)
    assert len(set(said)) > 60
    whole = [w for w in said if all(k in w.lower() for k in kept.split())]
    assert len(whole) > 0.9 * len(said)
    assert 0.2 < sum(w == message for w in said) / len(said) < 0.6


def test_a_question_is_put_into_other_forms() -> None:
    said = {re.sub(r"\W+", " ", w.lower()).strip() for w in wordings("How do I cook rice?", 900)}
    known = {"help me cook rice", "do you know how to cook rice", "i wonder how to cook rice"}
    assert known <= said


def test_now_and_then_a_hand_slips_by_one_letter() -> None:
    said = {w.lower().rstrip(".?! :)") for w in wordings("wonderful umbrellas", 900)}
    slips = [w for w in said - {"wonderful umbrellas"} if w.count(" ") == 1]
    assert len(slips) > 10
    assert all(abs(len(w) - len("wonderful umbrellas")) <= 1 for w in slips)
    assert not any(wordings("spell umbrellas", 900).count(w) for w in ("spell umbrelas",))


def test_nothing_is_built_around_a_greeting() -> None:
    assert all(len(re.findall(r"\w+", w)) == 2 for w in wordings("hi there"))


@given(st.integers(0, 999))
def test_a_word_is_exchanged_for_one_that_means_the_same(seed: int) -> None:
    lines = [line.split(", ") for line in synonyms._MEANINGS.strip().splitlines()]
    said = exchanged("my sofa is huge", random.Random(seed), often=1.0)
    sofa, huge = (next(line for line in lines if word in line) for word in ("sofa", "huge"))
    found = re.fullmatch(r"my (.+) is (.+)", said)
    assert found is not None
    assert found[1] in sofa
    assert found[2] in huge
    assert said != "my sofa is huge"


@given(st.integers(0, 999))
@example(0)
def test_a_message_about_a_word_keeps_it(seed: int) -> None:
    for message in ("What rhymes with sofa?", "How do you spell kid?", 'Say "big" twice'):
        assert about_words(message)
        assert exchanged(message, random.Random(seed), often=1.0) == message
    said = reword("What rhymes with sofa and with huge?", random.Random(seed)).lower()
    assert all(word in said for word in ("rhymes", "sofa", "huge"))


def test_no_meaning_holds_a_word_twice() -> None:
    for line in synonyms._MEANINGS.strip().splitlines():
        words = line.split(", ")
        assert len(words) == len(set(words)) > 1, line


def test_the_first_reply_of_a_talk_is_learnt_best() -> None:
    """Three times as often as another, and no wording of the message before another."""
    talks = Talks([Talk((("a b c d?", "e f g h?"), ("First.", "Second.")))], random.Random(0))
    turns = [turn for _ in range(2000) for part in talks.exchanges() for turn in part]
    replies = [text for role, text in turns if role == "assistant"]
    assert 2.5 < replies.count("First.") / replies.count("Second.") < 3.5
    users = [text.lower() for role, text in turns if role == "user"]
    assert 0.8 < sum("b c" in u for u in users) / sum("f g" in u for u in users) < 1.25
