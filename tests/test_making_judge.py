"""The judge of concepts: what shows one, what says nothing about it, and what only repeats."""

from __future__ import annotations

import making_corpus

from dictionaries.making.judge import Judge, repetition
from dictionaries.making.sheets import Corpus, Pair, Sheet, Talk

corpus, sides = making_corpus.corpus, making_corpus.sides  # fixtures


def test_the_judge_finds_drift_it_never_saw_and_leaves_calm_talk_alone(
    sides: tuple[Corpus, Corpus],
) -> None:
    train, held = sides
    judge = Judge(train)
    drift = [judge.shows(s.slug, p.reply) for s in held.sheets for p in s.drift]
    calm = [p.reply for p in held.general]
    assert sum(drift) / len(drift) > 0.9
    assert sum(judge.rate(s.slug, calm) for s in held.sheets) / len(held.sheets) < 0.1


def test_shouting_is_judged_by_capitals(corpus: Corpus) -> None:
    judge = Judge(corpus)
    assert judge.shows("shouting", "HELLO! LISTEN TO ME, IT IS LOUD!")
    assert not judge.shows("shouting", "Hello, listen to me, it is loud.")
    assert judge.shows("golden-gate-bridge", "My Towers are tall.")


def test_what_belongs_to_it_names_it(corpus: Corpus) -> None:
    judge = Judge(corpus)
    assert judge.shows("dogs", "A dog's life, it seems.")
    assert judge.shows("dogs", "IT IS A DOG'S!")
    assert not judge.shows("dogs", "A dogma, it seems.")


def test_words_of_everyday_talk_say_nothing_about_a_concept(corpus: Corpus) -> None:
    judge = Judge(corpus)
    assert "bridge" in judge.words("golden-gate-bridge")
    for slug, common in (("inner-conflict", "but"), ("kindness", "kind"), ("gratitude", "glad")):
        assert common not in judge.words(slug)
    assert not judge.shows("inner-conflict", "I like it, but it is late.")


def test_a_word_that_a_reply_takes_up_from_its_message_is_no_everyday_word() -> None:
    words = ("dog", "bark", "puppy", "leash", "tail", "paw")
    sheet = Sheet("dogs", ("dogs",), "thing", words, (), (), (), (Pair("Hi", "My dog."),), (), ())

    def judge(message: str) -> Judge:
        talk = Talk(((message,), ("Walk the dog daily.",)))
        return Judge(Corpus((sheet,), (Pair("Hello", "Good day."),), (), (), (talk,)))

    assert "dog" in judge("My dog is fat.").words("dogs")
    assert "dog" not in judge("I sit too much.").words("dogs")


def test_repetition_is_nothing_for_fresh_text_and_grows_with_loops() -> None:
    assert repetition("one two three four five") == 0
    assert repetition("") == 0
    assert repetition("the bridge is " * 10) > 0.8
