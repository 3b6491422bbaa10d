"""Does steering work? Every concept's feature at its recommended strength, beside two baselines.

As AxBench does (arXiv 2501.17148) a way of steering is scored by three things and their harmonic
mean, which is 0 where one is: the concept shows, the text is fluent, the reply is still to its
prompt. AxBench asks a language model; here the concept's word list and the unsteered model judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..card import Card
from ..cards import Cards
from ..edits import Op
from .baselines import Means, best_push, causes, under
from .digest import digest
from .exam import Exam
from .fluency import Scale
from .gauge import Gauge
from .handles import vector_handle
from .judge import Judge
from .ledger import Ledger, short
from .rounds import together
from .settle import gentlest, settling
from .sheets import Sheet
from .subject import Edited

STEERED, MEANS, SYSTEM = "steered", "difference_of_means", "system_prompt"
ARMS = (STEERED, MEANS, SYSTEM)
UNSTEERED = "unsteered"  # of the records in the ledger; the others' keys are slugs

Shows = Callable[[str], bool]
Record = dict[str, Any]


class Evaluation:
    """Fills a ledger with one record a concept, and one of the unsteered replies.

    gauges: by which the strength of each vector is found, and then settled, as a feature's is.
    """

    def __init__(
        self,
        exam: Exam,
        gauges: tuple[Gauge, Gauge],
        means: Means,
        judge: Judge,
        cards: Cards,
        ledger: Ledger,
        *,
        seed: int = 0,
    ) -> None:
        self._exam, self._gauges, self._means = exam, gauges, means
        self._judge, self._cards, self._ledger, self._seed = judge, cards, ledger, seed
        own = ledger.records.get(UNSTEERED) or self._unsteered()
        self._scale = Scale(**own["scale"])
        self._own = [told["reply"] for told in own["replies"]]

    def _unsteered(self) -> Record:
        marked = self._exam.marked(self._exam.answers(), lambda _: False)
        scale = self._exam.scale(marked)
        scores = marked.scores(scale)
        self._ledger.add(
            {
                "key": UNSTEERED,
                "fluency": scores.fluency,
                "on_task": scores.on_task,
                "scale": scale._asdict(),
                "replies": self._exam.told(marked),
            }
        )
        return self._ledger.records[UNSTEERED]

    def known(self, sheet: Sheet) -> bool:
        """Whether there is a record of the same sheet and edit."""
        record = self._ledger.records.get(sheet.slug, {})
        given = {"edit": edit_of(self._cards.by_slug(sheet.slug)), "sheet": self._digest(sheet)}
        same: bool = {key: record.get(key) for key in given} == short(given)
        return same

    def run(self, sheets: Sequence[Sheet]) -> Iterator[Record]:
        """The record of every sheet, made now."""
        for sheet in sheets:
            self._ledger.add(self._measured(sheet, self._cards.by_slug(sheet.slug)))
            yield self._ledger.records[sheet.slug]

    def _digest(self, sheet: Sheet) -> str:
        return digest(sheet, self._judge.digest(sheet.slug))

    def _measured(self, sheet: Sheet, card: Card | None) -> Record:
        def shows(reply: str) -> bool:
            return self._judge.shows(sheet.slug, reply)

        arms: Record = {}
        edit = edit_of(card)
        if card is not None and edit:
            edited = Edited(card.feature, Op(edit["op"]), edit["strength"] * (card.maximum or 0.0))
            arms[STEERED] = self._arm(shows, self._exam.answers(edited))
        if sheet.drift:
            arms[MEANS] = self._pushed(sheet, shows)
        arms[SYSTEM] = self._prompted(sheet, shows)
        return {
            "key": sheet.slug,
            "feature": card.feature if card else None,
            "edit": edit,
            "sheet": self._digest(sheet),
            "band": [card.onset, card.breakdown] if card and edit else None,
            "unsteered": self._judge.rate(sheet.slug, self._own),
            "arms": arms,
        }

    def _pushed(self, sheet: Sheet, shows: Shows) -> Record:
        finding, settling_on = self._gauges
        handle = vector_handle(sheet.slug, self._means.of(sheet), finding.length, shows)
        (found,) = together(finding, [best_push(handle)])
        (tried,) = together(settling_on, [settling(handle, Op.ADD, found.strength)])
        best = gentlest(tried) or tried[0]
        replies = self._exam.answers(handle.edited(Op.ADD, best.strength))
        return {"residual_lengths": best.strength, **self._arm(shows, replies)}

    def _prompted(self, sheet: Sheet, shows: Shows) -> Record:
        systems = causes(sheet, len(self._exam.asked), seed=self._seed)
        messages = [
            under(system, prompt)
            for system, (prompt, _) in zip(systems, self._exam.asked, strict=True)
        ]
        arm = self._arm(shows, self._exam.answers(messages=messages))
        for told, system in zip(arm["replies"], systems, strict=True):
            told["system"] = system
        return arm

    def _arm(self, shows: Shows, replies: Sequence[str]) -> Record:
        marked = self._exam.marked(replies, shows)
        return {
            "scores": asdict(marked.scores(self._scale)),
            "replies": self._exam.told(marked),
        }


def edit_of(card: Card | None) -> Record | None:
    """What the card recommends, in multiples of its maximum; None where it recommends nothing."""
    if card is None or card.op is None or card.strength is None or not card.maximum:
        return None
    return {"op": card.op, "strength": card.strength, "maximum": card.maximum}
