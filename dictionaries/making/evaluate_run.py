"""The whole evaluation, from opened things to a report in a folder; started again it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..cards import Cards
from ..dictionary import Dictionary
from ..errors import DictionaryError
from .baselines import Means, check_calm
from .calibrate_cards import Plan as Calibration
from .digest import digest
from .evaluate_steering import STEERED, Evaluation
from .exam import Exam, Plan
from .forced import Teacher
from .judge import Judge
from .ledger import Ledger
from .sheets import Corpus, Sheet
from .steering_report import write_report
from .subject import Speaker, Subject

Advance = Callable[[float, str], None]
Watched = Callable[[str, float, str], AbstractContextManager[Advance]]


def evaluate(
    subject: Subject,
    speaker: Speaker,
    dictionary: Dictionary,
    cards: Cards,
    corpus: Corpus,
    out: Path,
    *,
    plan: Plan,
    watched: Watched,
    only: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes replies.jsonl as it goes and report.json and report.md at the end; gives the summary.

    only: slugs; None: every concept that has a card. facts: more settings that two runs must share
    for one to go on with the other's replies. Raises DictionaryError for slugs without a sheet,
    and for sheets with drift but no calm text beside them.
    """
    wanted = _wanted(corpus, cards, only)
    check_calm(corpus, wanted)
    teacher = Teacher(subject)
    exam = Exam(teacher, speaker, plan)
    vectors = Calibration(seed=plan.seed)  # their strengths are found as a feature's is
    settings = {
        **(facts or {}),
        "dictionary": [dictionary.info.id, dictionary.info.revision],
        "calm": digest(corpus.general),
        "vectors": vectors.settings(),
        **exam.settings(),
    }
    ledger = Ledger(out / "replies.jsonl", settings)
    gauges = vectors.gauges(subject, speaker, dictionary)
    means = Means(subject, teacher, corpus, seed=plan.seed)
    judge = Judge(corpus)
    evaluation = Evaluation(exam, gauges, means, judge, cards, ledger, seed=plan.seed)
    todo = [sheet for sheet in wanted if not evaluation.known(sheet)]
    earlier = len(wanted) - len(todo)
    with watched("evaluated", len(wanted), "concepts") as advance:
        advance(earlier, "")
        for done, record in enumerate(evaluation.run(todo), earlier + 1):
            steered = record["arms"].get(STEERED)
            rate = f"{steered['scores']['concept']:.2f}" if steered else "not steered"
            advance(done, f"{record['key']} {rate}")
    return write_report(ledger, out, [sheet.slug for sheet in wanted])


def _wanted(corpus: Corpus, cards: Cards, only: Sequence[str] | None) -> list[Sheet]:
    known = {sheet.slug: sheet for sheet in corpus.sheets}
    unknown = [slug for slug in only or () if slug not in known]
    if unknown:
        raise DictionaryError(
            f"there is no sheet for {', '.join(unknown)}: the concepts are {', '.join(known)}."
        )
    found = [known[s] for s in only or known if only or cards.by_slug(s)]
    if not found:
        raise DictionaryError(
            f"no concept has a card in {cards.path}: `steerdeck make describe --concepts FOLDER` "
            "names features after the sheets."
        )
    return found
