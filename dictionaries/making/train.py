"""A dictionary of any model from any text: `steerdeck make train`.

DIR gets SAELens' cfg.json and sae_weights.safetensors, and at last metrics.json; until then the
state of the training lies in DIR.work. Started again, it goes on after the last checkpoint and
ends with the same bits; finished, it says so.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DictionaryError
from ..formats import open_dictionary
from . import sae as saes
from .feed import Text, held_out
from .splice import Measured, Spliceable, measure
from .text import windows
from .train_plan import Origin, TrainPlan, check_same, made
from .train_run import Advance, Run, write

log = logging.getLogger("steerdeck.making")

METRICS = "metrics.json"
_MEASURED_ROWS = 4  # at once: each has logits over the whole vocabulary

Showing = Callable[[str, float, str], AbstractContextManager[Advance]]


def _unseen(what: str, total: float, unit: str) -> AbstractContextManager[Advance]:
    return nullcontext(lambda done, note: None)


def train(
    subject: Spliceable,
    text: Text,
    plan: TrainPlan,
    out: Path,
    origin: Origin,
    *,
    showing: Showing = _unseen,
) -> dict[str, Any]:
    """Train, save and measure; returns what is in metrics.json.

    text: opens the documents anew each time. showing: what, total, unit -> a context in which
    progress is reported. Raises DictionaryError where the plan or the text will not do, or `out`
    holds the result of another plan.
    """
    plan.check(subject.d_in)
    out = out.absolute()
    wanted = made(plan, origin, subject.site, subject.d_in)
    if (out / METRICS).is_file():
        known: dict[str, Any] = json.loads((out / METRICS).read_text("utf-8"))
        check_same(known.get("made", {}), wanted, out)
        log.info("%s is finished already; remove it to make it again", out)
        return known
    work = out.with_name(out.name + ".work")
    if (out / "cfg.json").exists() and not work.is_dir():
        raise DictionaryError(f"{out} holds a dictionary that was not made here: choose another.")
    run = Run(subject, text, plan, work, wanted)
    with showing("training", plan.tokens, "tokens") as advance:
        run.go(advance)
    _save(run, subject, out, origin)
    with showing("measuring", plan.measured, "tokens") as advance:
        measured = _measured(run, subject, text, out, advance)
    found = {
        **asdict(measured),
        "dead_in_training": run.learner.dead,
        "trained_tokens": run.tokens,
        "passes": run.feed.place.epoch + 1,
        "made": wanted,
    }
    write(out / METRICS, json.dumps(found, indent=2) + "\n")
    shutil.rmtree(work)
    return found


def _save(run: Run, subject: Spliceable, out: Path, origin: Origin) -> None:
    bos = subject.tokenizer.bos_token_id
    saes.save(
        run.learner.finished(),
        out,
        model=origin.model,
        layer=subject.site.layer,
        hook=subject.site.hook,
        context=run.plan.context,
        k=run.plan.k,
        dataset=" ".join(origin.sources),
        prepend_bos=bos is not None and bos in subject.tokenizer("x")["input_ids"],
    )


def _measured(run: Run, subject: Spliceable, text: Text, out: Path, advance: Advance) -> Measured:
    """The saved dictionary, as the service opens it, on the held-out documents."""
    batches = windows(
        held_out(text, seed=run.plan.seed),
        subject.tokenizer,
        context=run.plan.context,
        rows=min(_MEASURED_ROWS, run.plan.rows),
        rest=True,
        ahead=4,
    )
    assert run.feed.limit is not None  # found in the first round
    return measure(
        subject,
        open_dictionary(out),
        batches,
        mean=run.learner.mean,
        limit=run.feed.limit,
        tokens=run.plan.measured,
        advance=advance,
    )
