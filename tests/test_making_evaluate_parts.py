"""Parts of the evaluation: the difference of means, replies on task, the harmonic mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import making_evaluated
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dictionaries.making.baselines import Means
from dictionaries.making.fluency import Nats, harmonic
from dictionaries.making.forced import Teacher
from dictionaries.making.heard import Heard
from dictionaries.making.neutral import EVALUATION, said
from dictionaries.making.on_task import on_task
from dictionaries.making.sheets import Pair

corpus = making_evaluated.corpus  # fixture


def test_the_direction_is_the_difference_of_the_replies_means(planted, subject, corpus) -> None:
    teacher, spans = Teacher(subject), corpus.sheets[0]

    def mean(pairs: Sequence[Pair]) -> torch.Tensor:
        found = []
        for pair in pairs:
            row = teacher.spoken(said(pair.user), pair.reply)
            x = subject.residual(teacher.batch([row]).windows)[0]
            found.append(x[torch.tensor(row.reply)])
        return torch.cat(found).mean(0)

    expected = mean(spans.drift) - mean(corpus.general)
    vector = Means(subject, teacher, corpus, seed=0).of(spans)
    assert float(vector.norm()) == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(vector, expected / expected.norm(), atol=1e-4)


def test_an_attention_sink_has_no_part_in_the_direction(planted, subject, corpus) -> None:
    class Sinking:
        """The last token of every text is a sink."""

        def __getattr__(self, name: str) -> Any:
            return getattr(subject, name)

        def residual(self, windows: Any) -> torch.Tensor:
            x = subject.residual(windows)
            last = windows.content.cumsum(1).argmax(1)
            x[torch.arange(len(x)), last] *= 1000
            return x

    def shortened(pairs: Sequence[Pair]) -> torch.Tensor:
        rows = [Teacher(subject).spoken(said(pair.user), pair.reply) for pair in pairs]
        batches = [subject.residual(Teacher(subject).batch([row]).windows)[0] for row in rows]
        own = [x[torch.tensor(row.reply)][:-1] for x, row in zip(batches, rows, strict=True)]
        return torch.cat(own).mean(0)

    expected = shortened(corpus.sheets[0].drift) - shortened(corpus.general)
    vector = Means(Sinking(), Teacher(subject), corpus, seed=0).of(corpus.sheets[0])
    assert torch.allclose(vector, expected / expected.norm(), atol=1e-4)


class Fitting:
    """Finds a reply likely under the prompt that it quotes."""

    def spoken(self, messages: Any, reply: str) -> tuple[str, str]:
        return messages[0]["content"], reply

    def nats(self, rows: Sequence[tuple[str, str]]) -> list[Nats]:
        return [Nats(1.0 if prompt in reply else 5.0, 4) for prompt, reply in rows]


def test_a_reply_is_on_task_if_its_own_prompt_fits_it_best() -> None:
    teacher, prompts = Fitting(), EVALUATION[:6]
    asked = [prompts[0], prompts[1], prompts[2], prompts[3]]
    replies = [prompts[0], "anything", " ".join(prompts), ""]
    rows = zip(asked, replies, strict=True)
    nats = teacher.nats([teacher.spoken(said(p), r) for p, r in rows])
    nats[3] = Nats(0.0, 0)
    heard = [Heard(r, False, 0.0, n) for r, n in zip(replies, nats, strict=True)]
    assert on_task(teacher, prompts, asked, heard) == [True, False, False, False]  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_and_is_nothing_if_one_is(values: list[float]) -> None:
    found = harmonic(*values)
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9
    assert found <= sum(values) / len(values) + 1e-9
    assert harmonic(*values, 0.0) == 0.0
