"""A card for every live feature of any dictionary: `steerdeck make describe`.

Three passes, each of which goes on where a killed process left it (in the folder `OUT.making`):

1. the corpus, for what each feature fires on (`Tally`),
2. the texts of authored concepts, if there are any, for which feature stands for which (`match`),
3. the features, for what each of them says: logit lens, output score, neighbours; and their cards.

RAM holds the model, one batch and one block of features, however long the text and wide the
dictionary; the rest is on disk. (A TopK dictionary keeps its encoder, too: `Dictionary.cutoff`.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ..beside import owner
from ..cards import Cards
from ..dictionary import Dictionary
from ..errors import DictionaryError
from .concept_sheets import Concepts
from .digest import digest
from .firings import firings, limited, text_of
from .matching import Counts, chosen, match, report
from .output_score import PROMPTS, OutputScore
from .subject import Subject, Windows
from .tally import Tally
from .workfolder import WorkFolder
from .write_cards import Name, write_cards

Advance = Callable[[float, str], None]


class Advancing(Protocol):
    """Shows how far a pass is: advance(done, note), with done of `total` units so far."""

    def __call__(self, what: str, total: float, unit: str) -> AbstractContextManager[Advance]: ...


def _unseen(what: str, total: float, unit: str) -> AbstractContextManager[Advance]:
    return nullcontext(lambda done, note: None)


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the outcome, besides the text.

    tokens: content tokens to read, rounded up to whole batches. context, rows: of the concepts'
    texts. least_f1: of a feature that takes a concept's name. every: seconds between the copies
    that a killed run comes back to (0: one after each batch); it changes no result.
    """

    tokens: int = 1_000_000
    context: int = 256
    rows: int = 16
    least_f1: float = 0.5
    prompts: Sequence[str] = PROMPTS
    seed: int = 0
    every: float = 60.0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.context < 2 or self.rows < 1 or not self.prompts:
            raise DictionaryError(
                f"{self.tokens} tokens, {self.rows} rows x {self.context} and {len(self.prompts)} "
                "prompts: at least 1, 1 x 2 and 1 are needed."
            )


@dataclass(frozen=True, slots=True)
class Described:
    """live: features with a card. tokens: content tokens read. fresh: False if it was all there."""

    live: int
    tokens: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What is described, and with what."""

    subject: Subject
    dictionary: Dictionary
    plan: Plan
    advancing: Advancing = _unseen


def describe(
    reading: Reading,
    windows: Callable[[], Iterator[Windows]],
    out: Path,
    *,
    facts: Mapping[str, Any],
    concepts: Concepts | None = None,
) -> Described:
    """Write the cards file `out`; with concepts also `<out>.concepts.json`, how well each is found.

    windows: the corpus from its beginning, the same each time it is called. facts: JSON for the
    cards' meta, which a run that goes on must share (model, text, …).
    Raises DictionaryError: `out` is something else or was begun with other settings; no feature
    fires on the text.
    """
    settings = _settings(reading, facts, concepts)
    work = WorkFolder(out, settings)
    if work.finished():
        with Cards.open(out) as cards:
            return Described(len(cards), int(cards.meta["corpus_tokens"]), fresh=False)
    score = OutputScore(reading.subject, reading.dictionary, reading.plan.prompts)
    work.begin()
    tally = read_corpus(reading, windows, work.path / "tally")
    names = find_concepts(reading, concepts, tally, work) if concepts else {}
    tokens, d_sae = int(tally.state["tokens"]), reading.dictionary.info.d_sae
    made = work.path / "cards.sqlite"
    with reading.advancing("cards", d_sae, "features") as advance:
        for done in write_cards(
            reading.subject,
            reading.dictionary,
            tally,
            made,
            tokens=tokens,
            names=names,
            score=score,
        ):
            advance(done, "")
    live = int((tally.fired > 0).sum())
    with Cards.open(made, writable=True) as cards:
        cards.put_meta({**settings, "corpus_tokens": tokens, "dead_features": d_sae - live})
    made.rename(out)
    work.remove()
    return Described(live, tokens, fresh=True)


def _settings(
    reading: Reading, facts: Mapping[str, Any], concepts: Concepts | None
) -> dict[str, Any]:
    info, plan = reading.dictionary.info, reading.plan
    return {
        "maker": "steerdeck make describe",
        **facts,
        **owner(info),
        "tokens_asked": plan.tokens,
        "seed": plan.seed,
        "output_score_prompts": list(plan.prompts),
        "concepts": len(concepts.concepts) if concepts else 0,
        "sheets": digest(concepts) if concepts else None,
        "least_f1": plan.least_f1,
    }


def read_corpus(reading: Reading, windows: Callable[[], Iterator[Windows]], folder: Path) -> Tally:
    """The first pass. The tally's state counts `batches`, `rows` (documents) and `tokens`, and
    holds the `limit` of a residual's length.
    """
    plan = reading.plan
    tally = Tally(folder, reading.dictionary.info.d_sae, seed=plan.seed)
    state = {"batches": 0, "rows": 0, "tokens": 0, "ended": False, **tally.state}
    if state["ended"]:
        return tally
    kept = time.monotonic()
    with reading.advancing("corpus", plan.tokens, "tokens") as advance:
        batches = windows()
        if "limit" not in state:
            state["limit"], batches = limited(reading.subject, batches)
        for batch in islice(batches, state["batches"], None):
            text = text_of(batch)
            for fired in firings(reading.subject, reading.dictionary, batch, state["limit"]):
                tally.add(fired, text, state["rows"])
            state["batches"] += 1
            state["rows"] += text.rows
            state["tokens"] += len(text.ids)
            advance(min(state["tokens"], plan.tokens), f"{tally.live:,} features fire")
            if state["tokens"] >= plan.tokens:
                break
            if time.monotonic() - kept >= plan.every:
                tally.keep(state)
                kept = time.monotonic()
    if not tally.live:
        raise DictionaryError(
            f"no feature fired on the {state['tokens']} content tokens of this text: is there "
            "text, and is the dictionary this model's?"
        )
    tally.keep(state | {"ended": True})
    return tally


def find_concepts(
    reading: Reading, concepts: Concepts, tally: Tally, work: WorkFolder
) -> dict[int, Name]:
    """The second pass: which features get which concepts' names. It also writes the report."""
    plan = reading.plan
    counts = Counts(work.path / "concepts", len(concepts.concepts), len(tally.fired))
    texts = len(concepts.calm) + sum(len(c.texts) for c in concepts.concepts)
    passing = match(
        reading.subject,
        reading.dictionary,
        concepts,
        tally.maximum,
        counts,
        limit=tally.state["limit"],
        context=plan.context,
        rows=plan.rows,
    )
    state: dict[str, Any] = {}
    kept = time.monotonic()
    with reading.advancing("concepts", texts, "texts") as advance:
        for batches in passing:
            state = {"batches": batches}
            advance(min(texts, batches * plan.rows), "")
            if time.monotonic() - kept >= plan.every:
                counts.keep(state)
                kept = time.monotonic()
    if state:
        counts.keep(state)
    live = tally.fired > 0
    ranked = [counts.best(i, c.slug, live) for i, c in enumerate(concepts.concepts)]
    taken = chosen(ranked, least_f1=plan.least_f1)
    found = report(concepts, ranked, taken)
    told = work.out.with_name(work.out.name + ".concepts.json")
    told.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    titles = {c.slug: c.title for c in concepts.concepts}
    return {feature: Name(m.slug, titles[m.slug]) for feature, m in taken.items()}
