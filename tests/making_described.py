"""A tiny dictionary, a text of few words, and its cards: as they are made, and by brute force."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dictionaries import dictionary as dictionaries
from dictionaries import tensors
from dictionaries.cards import Card, Cards
from dictionaries.dictionary import Dictionary
from dictionaries.formats import open_dictionary
from dictionaries.making import write_cards
from dictionaries.making.concept_sheets import Concepts, read_concepts
from dictionaries.making.describe_all import Plan, Reading, describe
from dictionaries.making.subject import Windows
from dictionaries.making.text import windows
from server.model_subject import ModelSubject

DEAD = range(5)  # features of the tiny dictionary that never fire
WORDS = ["bridge", "fog", "red", "gate", "steel", "tower", "sea", "wind", "ship", "light", "cold"]
PLAN = Plan(tokens=10_000, context=40, rows=4, every=0, least_f1=0.05)
FACTS = {"model": "tiny"}


def corpus(documents: int = 60) -> list[Any]:
    draw = random.Random(5)
    texts: list[Any] = [
        " ".join(draw.choices(WORDS, k=draw.randrange(1, 9))) for _ in range(documents)
    ]
    chat = ({"role": "user", "content": "fog?"}, {"role": "assistant", "content": "red fog"})
    return [*texts, chat, *texts[:3]]


def text(tokenizer: Any, documents: int = 60) -> Iterator[Windows]:
    return windows(corpus(documents), tokenizer, context=40, rows=4, rest=True, ahead=4)


def tiny_dictionary(made: Dictionary, folder: Path) -> Dictionary:
    """The same, with features that never fire."""
    shutil.copytree(made.path, folder)
    weights = load_file(folder / "sae_weights.safetensors")
    weights["threshold"][list(DEAD)] = 1e9
    save_file(weights, folder / "sae_weights.safetensors")
    return open_dictionary(folder, id="tiny")


@pytest.fixture(scope="module")
def sae(dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    return tiny_dictionary(dictionary, tmp_path_factory.mktemp("described") / "tiny")


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture(scope="module")
def subject(model: Any, tokenizer: Any, sae: Dictionary) -> ModelSubject:
    return ModelSubject(model, tokenizer, sae.info.site, sae)


@pytest.fixture(scope="module")
def reading(subject: ModelSubject, sae: Dictionary) -> Reading:
    return Reading(subject, sae, PLAN)


@pytest.fixture(scope="module", autouse=True)
def many_blocks() -> Iterator[None]:
    """Blocks of 12 features and chunks of 24, so that 64 of them take several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionaries, "BLOCK", 4 * 32 * 12)
        patch.setattr(dictionaries, "STRIDED", 4 * 32 * 12)
        patch.setattr(tensors, "BUFFER", 4096)  # else its 8 MiB would hide what memory does
        patch.setattr(write_cards, "_CHUNK", 24)
        yield


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    draw = random.Random(9)

    def texts(*words: str) -> list[str]:
        return [" ".join(draw.choices([*words, "is", "it"], k=5)) for _ in range(12)]

    about = {"stone-bridge": ("stone", "arch"), "foggy": ("mist", "grey"), "loud": ("HEY", "NOW")}
    for slug, words in about.items():
        others = ("stone",) if slug == "loud" else ()  # texts that name a concept of another sheet
        sheet = {"slug": slug, "words": list(words), "facts": texts(*words, *others), "self": []}
        (folder / f"{slug}.json").write_text(json.dumps(sheet))
    (folder / "_calm.json").write_text(
        json.dumps([{"u": "how are you", "a": "well"}, {"u": "hm", "a": "a stone"}, ["a", "b"]])
    )
    return folder


@pytest.fixture(scope="module")
def made(reading: Reading, sheets: Path, tmp_path_factory: Any) -> tuple[Path, dict[int, Card]]:
    """An uninterrupted run: its file and its cards."""
    out = tmp_path_factory.mktemp("made") / "cards.sqlite"
    run(reading, out, read_concepts(sheets))
    return out, cards_in(out)


def run(reading: Reading, out: Path, concepts: Concepts | None = None) -> Any:
    source = partial(text, reading.subject.tokenizer)
    return describe(reading, source, out, facts=FACTS, concepts=concepts)


def cards_in(path: Path) -> dict[int, Card]:
    with Cards.open(path) as cards:
        found = [cards.get(i) for i in range(64)]
    return {card.feature: card for card in found if card is not None}


class Brute:
    """Every activation of every content token, in one matrix."""

    def __init__(self, reading: Reading) -> None:
        self.f, self.ids, self.documents = [], [], []
        for batch in text(reading.subject.tokenizer):
            f = reading.dictionary.encode(reading.subject.residual(batch)[batch.content])
            self.documents += batch.content.sum(1).tolist()
            self.f.append(f.numpy())
            self.ids.append(batch.ids[batch.content].numpy())
        self.f, self.ids = np.concatenate(self.f), np.concatenate(self.ids)
        self.first = np.concatenate([[0], np.cumsum(self.documents)])

    def peaks(self, feature: int) -> list[tuple[float, int, int]]:
        """(value, document, token) of each document in which it fires."""
        found = []
        for document, (a, b) in enumerate(zip(self.first, self.first[1:], strict=False)):
            own = self.f[a:b, feature]
            if len(own) and own.max() > 0:
                found.append((float(own.max()), document, int(a + own.argmax())))
        return found

    def before(self, document: int, token: int) -> tuple[int, ...]:
        return tuple(self.ids[max(self.first[document], token - 7) : token + 1])


@pytest.fixture(scope="module")
def brute(reading: Reading) -> Brute:
    return Brute(reading)
