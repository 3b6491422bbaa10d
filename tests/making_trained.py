"""A tiny model, a text of few words, and a dictionary trained on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dictionaries.dictionary import Site
from dictionaries.making.train import train
from dictionaries.making.train_plan import Origin, TrainPlan
from server.model_subject import ModelSubject

ORIGIN = Origin("tiny", ("corpus",))
PLAN = TrainPlan(
    tokens=30_000,
    d_sae=96,
    k=8,
    batch=256,
    lr=3e-3,
    context=32,
    rows=16,
    buffer=6_000,
    measured=800,
)
WORDS = ["bridge", "fog", "red", "gate", "steel", "tower", "sea", "wind", "ship", "light", "cold"]


def corpus(documents: int = 400) -> list[str]:
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(3, 9))) for _ in range(documents)]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model()


@pytest.fixture(scope="module")
def tiny(model: Any, tokenizer: Any) -> ModelSubject:
    return ModelSubject(model, tokenizer, Site(1, "resid_post"))


def text() -> Iterator[str]:
    return iter(corpus())


@pytest.fixture(scope="module")
def made(tiny: ModelSubject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(the folder, its metrics, every line of progress)."""
    out = tmp_path_factory.mktemp("train") / "sae"
    told: list[tuple[str, float, str]] = []

    @contextmanager
    def showing(what: str, total: float, unit: str) -> Iterator[Callable[[float, str], None]]:
        yield lambda done, note: told.append((what, done, note))

    return out, train(tiny, text, PLAN, out, ORIGIN, showing=showing), told
