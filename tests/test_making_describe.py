"""`steerdeck make describe`: cards against brute force, kills, and memory that does not grow."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dictionaries import dictionary as dictionaries
from dictionaries import tensors
from dictionaries.cards import Card, Cards
from dictionaries.dictionary import Dictionary, Site
from dictionaries.errors import DictionaryError
from dictionaries.formats import open_dictionary
from dictionaries.making import write_cards
from dictionaries.making.concept_sheets import Concepts, Labelled, labelled, read_concepts
from dictionaries.making.describe_all import Plan, Reading, describe, read_corpus
from dictionaries.making.exemplars import AFTER, BEFORE, INTERVALS, STRONGEST
from dictionaries.making.firings import Peaks, Text, sparse
from dictionaries.making.matching import LEVELS, Counts, chosen
from dictionaries.making.output_score import score
from dictionaries.making.subject import Windows
from dictionaries.making.tally import Tally
from dictionaries.making.text import encoded, padded, windows
from dictionaries.making.token_label import token_label
from dictionaries.making.token_text import TokenTexts
from server.cli import app
from server.model_subject import ModelSubject

TESTS = Path(__file__).parent
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
def _many_blocks() -> Iterator[None]:
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


def test_every_live_feature_has_a_card_and_no_dead_one(made, brute):
    live = np.flatnonzero((brute.f > 0).any(0)).tolist()
    assert sorted(made[1]) == live
    assert not set(DEAD) & set(live)
    assert len(live) > 40


def test_density_maximum_and_histogram_are_those_of_all_activations(made, brute):
    for i, card in made[1].items():
        fires = brute.f[:, i][brute.f[:, i] > 0]
        assert card.density == len(fires) / len(brute.f)
        assert card.maximum == fires.max()
        counts, _ = np.histogram(fires, bins=np.array(card.histogram.edges))
        assert card.histogram.counts == tuple(counts)
        assert 16 <= len(counts) <= 32
        assert card.histogram.edges[-1] == card.maximum


def test_the_strongest_examples_are_the_strongest_documents_that_differ(made, brute):
    for i, card in made[1].items():
        best: dict[tuple[int, ...], float] = {}
        for value, document, token in brute.peaks(i):
            before = brute.before(document, token)
            best[before] = max(value, best.get(before, 0.0))
        wanted = sorted(best.values(), reverse=True)[:STRONGEST]
        shown = [
            max(e.activations)
            for e in card.examples
            if e.interval[1] == card.examples[0].interval[1]
        ]
        assert shown[: len(wanted)] == pytest.approx(wanted, rel=1e-3)
        assert card.examples[0].interval == pytest.approx((wanted[-1], wanted[0]), rel=1e-3)


def test_each_interval_of_activation_shows_one_document_of_its_own(made, brute):
    shown = 0
    for i, card in made[1].items():
        top = 2.0 ** np.frexp(card.maximum)[1]
        strongest = {e.activations for e in card.examples[:STRONGEST]}
        drawn = card.examples[STRONGEST:]
        filled = {int(value * INTERVALS / top) for value, _, _ in brute.peaks(i)}
        named = [round(e.interval[0] * INTERVALS / top) for e in drawn]
        assert named == sorted(set(named), reverse=True)
        assert set(named) <= filled
        for e in drawn:
            assert e.interval[0] * (1 - 1e-3) <= max(e.activations) <= e.interval[1] * (1 + 1e-3)
            assert e.activations not in strongest
        weak = int(card.examples[0].interval[0] * INTERVALS / top)
        assert {at for at in filled if at < weak} == {at for at in named if at < weak}
        shown += len(drawn)
    assert shown > 2 * len(made[1])


def test_an_example_is_a_stretch_of_its_document_with_every_tokens_activation(
    made, brute, tokenizer
):
    texts = TokenTexts(tokenizer)
    stretches = Counter()
    for document, (a, b) in enumerate(zip(brute.first, brute.first[1:], strict=False)):
        for token in range(a, b):
            span = range(max(a, token - BEFORE), min(b, token + AFTER + 1))
            stretches[token] = (document, span)
    for i, card in list(made[1].items())[::9]:
        possible = {}
        for _, _, token in brute.peaks(i):
            span = stretches[token][1]
            said = "".join(texts(int(brute.ids[t])) for t in span)
            possible[said, tuple(float(f"{brute.f[t, i]:.4g}") for t in span)] = token
        for e in card.examples:
            assert ("".join(e.tokens).replace("\n", ""), e.activations) in possible


def test_documents_are_numbered_through_all_batches(reading, brute, tmp_path):
    tally = read_corpus(reading, partial(text, reading.subject.tokenizer), tmp_path / "tally")
    assert tally.state["rows"] == len(brute.documents)
    for i in range(5, 64, 7):
        by_document = {document: value for value, document, _ in brute.peaks(i)}
        for kept in tally.exemplars.of(i, float(tally.maximum[i])):
            assert by_document[kept.document] == kept.values[kept.peak]


def test_an_attention_sink_fires_nothing_and_stays_in_the_text(reading, subject, brute, tmp_path):
    class Sinking:
        """Where nothing stands before a text, its first token is a sink."""

        tokenizer = subject.tokenizer

        def residual(self, windows: Windows) -> torch.Tensor:
            x = subject.residual(windows)
            x[torch.arange(len(x)), windows.content.int().argmax(1)] *= 1000
            return x

    sunk, source = replace(reading, subject=Sinking()), partial(text, subject.tokenizer)
    tally = read_corpus(sunk, source, tmp_path / "tally")
    words = np.ones(len(brute.f), bool)
    words[brute.first[:-1]] = False
    assert tally.state["tokens"] == len(brute.f)
    assert tally.maximum == pytest.approx(brute.f[words].max(0))
    assert tally.fired.tolist() == (brute.f[words] > 0).sum(0).tolist()
    live = np.flatnonzero(tally.fired)
    shown = [kept for i in live for kept in tally.exemplars.of(i, float(tally.maximum[i]))]
    begins = brute.ids[brute.first[:-1]]
    assert any(kept.peak > 0 and kept.ids[0] == begins[kept.document] for kept in shown)


def test_a_break_in_the_text_is_shown_as_one(made):
    said = {"".join(e.tokens) for card in made[1].values() for e in card.examples}
    assert "fog?\nred fog" in said, "between the turns of a chat"


def test_the_lens_and_the_output_score_are_the_papers(made, model, tokenizer, sae):
    """By hand: hooks of its own, matrices from the file, ranks by sorting."""
    weights = load_file(sae.path / "sae_weights.safetensors")
    ids = torch.tensor([tokenizer("From my experience,")["input_ids"]])
    layer = model.model.layers[1]
    x = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    strength = 10 * float(sae.encode(x[0, -1:]).max())
    for i in made[1]:
        lens = (weights["W_dec"][i] * model.model.norm.weight) @ model.lm_head.weight.T
        promised = lens.argsort(descending=True)[:20]

        def push(_: Any, __: Any, output: Any, i: int = i) -> Any:
            y = output.clone()
            y[0, -1] += strength * weights["W_dec"][i]
            return y

        handle = layer.register_forward_hook(push)
        p = model(input_ids=ids).logits[0, -1].softmax(-1)
        handle.remove()
        order = p.argsort(descending=True).tolist()
        rank = min(order.index(t) for t in promised.tolist())
        score = (1 - rank / len(order)) * float(p[promised].max())
        card = made[1][i]
        assert card.output_score == pytest.approx(score, rel=2e-3, abs=1e-6)
        vocab = lens[: len(tokenizer)] - lens.mean()
        assert [v for _, v in card.promoted] == pytest.approx(vocab.topk(12)[0].tolist(), rel=1e-3)
        assert [v for _, v in card.suppressed] == pytest.approx(
            (-(-vocab).topk(12)[0]).tolist(), rel=1e-3
        )
        assert card.promoted[0][0] == tokenizer.decode([int(vocab.argmax())])
    scores = [card.output_score for card in made[1].values()]
    assert max(scores) > 5 * min(scores)


def test_the_output_score_falls_with_the_best_rank_of_the_promised_tokens():
    p = torch.tensor([[0.5, 0.1, 0.25, 0.15], [0.1, 0.7, 0.1, 0.1]])
    graded = score(p, torch.tensor([[1, 2], [1, 0]]))
    assert graded.tolist() == pytest.approx([(1 - 1 / 4) * 0.25, 0.7])


def test_neighbours_are_those_of_the_dictionary(made, sae):
    for i, card in made[1].items():
        wanted = sae.neighbours(i, 8)
        assert [n for n, _ in card.neighbours] == [n for n, _ in wanted]
        assert [c for _, c in card.neighbours] == pytest.approx([c for _, c in wanted], abs=1e-4)


def test_a_concepts_feature_precision_and_recall_are_what_counting_gives(
    made, reading, sheets, tokenizer
):
    known = read_concepts(sheets)
    slugs = [c.slug for c in known.concepts]
    told = json.loads((made[0].parent / "cards.sqlite.concepts.json").read_text())
    assert [row["slug"] for row in told["concepts"]] == slugs
    maximum = np.array([made[1][i].maximum if i in made[1] else 1e9 for i in range(64)])
    rows = []
    for one in labelled(known):
        (row,) = encoded([one.document], tokenizer, context=40)
        batch = padded([row], 0)
        f = reading.dictionary.encode(reading.subject.residual(batch)[batch.content])
        rows.append((one, f.max(0).values.numpy()))
    for c, row in enumerate(told["concepts"]):
        best = row["best"]
        mine = np.array([one.about == c for one, _ in rows])
        against = np.array([one.about == c or c not in one.named for one, _ in rows])
        scores = []
        for level in LEVELS:
            fires = np.array([peak > level * maximum for _, peak in rows])
            hit = fires[mine].sum(0)
            f1 = 2 * hit / (fires[against].sum(0) + mine.sum())
            scores.append((f1, hit / mine.sum(), hit / np.maximum(1, fires[against].sum(0))))
        at = LEVELS.index(best["level"])
        assert best["f1"] == pytest.approx(max(f1.max() for f1, _, _ in scores))
        f1, recall, precision = (s[best["feature"]] for s in scores[at])
        assert (best["f1"], best["recall"], best["precision"]) == pytest.approx(
            (f1, recall, precision)
        )
        assert best["texts"] == 12
    named = {card.slug: card for card in made[1].values() if card.labelled_by == "concept"}
    assert set(named) == set(slugs)
    assert named["stone-bridge"].label == "Stone Bridge"
    for row in told["concepts"]:
        assert named[row["slug"]].feature == row["labelled"]["feature"]


def test_a_concepts_name_goes_to_no_feature_without_a_card(tmp_path):
    """Feature 0 tells the sheet's texts best, and has fired nowhere in the corpus."""
    counts = Counts(tmp_path / "counts", 1, 2)
    texts = [Labelled("fog", 0, ()), Labelled("mist", 0, ()), Labelled("sea", None, ())]
    feature, row = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2])
    counts.count(texts)
    counts.add(Peaks(feature, row, row, np.ones(4, np.float32)), texts, np.float32([0, 1]))
    ranked = [counts.best(0, "foggy", np.array([live, True])) for live in (True, False)]
    assert [[match.feature for match in matches] for matches in ranked] == [[0, 1], [1]]
    assert list(chosen(ranked[1:], least_f1=0.1)) == [1]


def test_texts_know_which_other_concepts_they_name(sheets):
    known = read_concepts(sheets)
    loud, stone = ([c.slug for c in known.concepts].index(s) for s in ("loud", "stone-bridge"))
    foreign = Concepts(known.concepts, ("Two stones.", "HEY you", "hey you", "nothing"))
    named = [one.named for one in labelled(foreign) if one.about is None]
    assert named == [(stone,), (loud,), (), ()]
    assert all(one.about not in one.named for one in labelled(known))


@pytest.mark.parametrize(
    "sheet",
    ["[1]", '{"slug": "a"}', '{"slug": "a", "words": []}', "{", '{"slug": 3, "facts": ["x"]}'],
)
def test_a_folder_that_holds_no_sheet_is_refused_by_name(tmp_path, sheet):
    with pytest.raises(DictionaryError, match="no concept sheets"):
        read_concepts(tmp_path)
    (tmp_path / "a.json").write_text(sheet)
    with pytest.raises(DictionaryError, match=r"a\.json is no concept sheet"):
        read_concepts(tmp_path)


def test_a_concept_is_told_from_at_least_as_many_texts_about_something_else(tmp_path):
    def write(slug: str, words: list[str], texts: list[str]) -> None:
        sheet = {"slug": slug, "words": words, "facts": texts}
        (tmp_path / f"{slug}.json").write_text(json.dumps(sheet))

    def calm(n: int, said: str = "well") -> None:
        pairs = [{"u": "how are you", "a": said}] * n
        (tmp_path / "_general_01.json").write_text(json.dumps(pairs))

    write("bridge", ["span"], ["A long span."] * 6)
    alone = r"bridge holds 6 texts, and 0 .*_general_01\.json"
    with pytest.raises(DictionaryError, match=alone):
        read_concepts(tmp_path)
    calm(5)
    with pytest.raises(DictionaryError, match="6 texts, and 5"):
        read_concepts(tmp_path)
    calm(6, "it spans the bay")
    with pytest.raises(DictionaryError, match="6 texts, and 0"):
        read_concepts(tmp_path)
    calm(6)
    assert len(read_concepts(tmp_path).calm) == 6
    calm(0)
    write("fog", ["mist"], ["Grey mist."] * 6)
    assert len(read_concepts(tmp_path).concepts) == 2


@pytest.mark.parametrize("slug", ["Golden_Gate", "golden gate", "12", "", None])
def test_a_slug_that_no_card_takes_is_refused_when_the_sheets_are_read(tmp_path, slug):
    sheet = {"slug": slug, "words": ["bridge"], "facts": ["A bridge."]}
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    with pytest.raises(DictionaryError, match=r"a\.json .* must be small letters and digits"):
        read_concepts(tmp_path)


# --- Kills, and starting again ---

KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})
    import test_making_describe as t
    from dictionaries import dictionary as dictionaries
    from dictionaries.cards import Cards
    from dictionaries.making import exemplars, matching, write_cards
    dictionaries.BLOCK = dictionaries.STRIDED = 4 * 32 * 12
    write_cards._CHUNK = 24
    tokenizer = PreTrainedTokenizerFast.from_pretrained({model!r})
    model = AutoModelForCausalLM.from_pretrained({model!r}, attn_implementation="eager").eval()
    sae = t.open_dictionary({sae!r}, id="tiny")
    subject = t.ModelSubject(model, tokenizer, sae.info.site, sae)

    def dies_in(owner, name, call):
        whole, calls = getattr(owner, name), []
        def dying(*args, **more):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **more)
        setattr(owner, name, dying)

    for owner, name, call in (
        (exemplars.Exemplars, "_write_windows", 27),
        (exemplars.Exemplars, "_write_windows", 14),
        (matching.Counts, "add", 15),
        (Cards, "_put", 30),
    ):
        pid = os.fork()
        if not pid:
            dies_in(owner, name, call)
            t.run(t.Reading(subject, sae, t.PLAN), Path({out!r}), t.read_concepts(Path({sheets!r})))
            os._exit(3)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, name
        print(name, *sorted(p.name for p in Path({out!r} + ".making").iterdir()))
"""


def test_a_run_killed_in_every_pass_ends_in_the_same_cards(
    made, reading, sheets, model, tokenizer, sae, tmp_path
):
    out = tmp_path / "cards.sqlite"
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    paths = {"out": out, "model": tmp_path / "model", "sae": sae.path, "sheets": sheets}
    script = textwrap.dedent(KILLED).format(
        tests=str(TESTS), **{name: str(path) for name, path in paths.items()}
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=TESTS.parent, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    assert "cards.sqlite" in done.stdout.splitlines()[-1], "killed among the cards"
    told: list[tuple[str, float]] = []

    @contextmanager
    def advancing(what: str, *_: object) -> Iterator[Callable[[float, str], None]]:
        yield lambda done, note: told.append((what, done))

    described = run(replace(reading, advancing=advancing), out, read_concepts(sheets))
    assert {what for what, _ in told} <= {"concepts", "cards"}, "the corpus was read before"
    assert ("cards", 24) not in told, "the first chunk of cards was written before"
    assert described.fresh
    assert cards_in(out) == made[1]
    report = "cards.sqlite.concepts.json"
    assert (tmp_path / report).read_text() == (made[0].parent / report).read_text()
    with Cards.open(out) as one, Cards.open(made[0]) as other:
        assert one.meta == other.meta
    assert not (tmp_path / "cards.sqlite.making").exists()


def test_a_finished_run_says_so_and_does_nothing(made, reading, sheets):
    before = made[0].read_bytes()

    class Idle:
        tokenizer = reading.subject.tokenizer  # anything else of a model would raise

    again = run(replace(reading, subject=Idle()), made[0], read_concepts(sheets))
    assert not again.fresh
    assert (again.live, again.tokens) == (len(made[1]), sum(len(t.ids) for t in texts_of(reading)))
    assert made[0].read_bytes() == before


def texts_of(reading: Reading) -> list[Text]:
    from dictionaries.making.firings import text_of

    return [text_of(batch) for batch in text(reading.subject.tokenizer)]


def test_other_settings_and_other_files_are_refused(made, reading, sheets, tmp_path):
    other = replace(reading, plan=replace(PLAN, seed=1))
    with pytest.raises(DictionaryError, match="was made from other text or settings"):
        run(other, made[0])
    (stone, *rest), calm = read_concepts(sheets)
    edited = Concepts((replace(stone, words=("pebble",)), *rest), calm)
    with pytest.raises(DictionaryError, match="was made from other text or settings"):
        run(reading, made[0], edited)
    out = tmp_path / "cards.sqlite"

    @contextmanager
    def stopping(what: str, *_: object) -> Iterator[Any]:
        def stop(done: float, note: str) -> None:
            raise KeyboardInterrupt

        yield stop

    with pytest.raises(KeyboardInterrupt):
        run(replace(reading, advancing=stopping), out)
    with pytest.raises(DictionaryError, match=r"begun with other settings \(seed\)"):
        run(other, out)
    with pytest.raises(DictionaryError, match=r"begun with other settings \(concepts, sheets\)"):
        run(reading, out, read_concepts(sheets))
    (tmp_path / "text.sqlite").write_text("not cards")
    with pytest.raises(DictionaryError, match="cannot be read as cards"):
        run(reading, tmp_path / "text.sqlite")


def test_a_text_on_which_nothing_fires_is_refused(reading, tmp_path):
    with pytest.raises(DictionaryError, match="no feature fired on the 0 content tokens"):
        describe(reading, lambda: iter(()), tmp_path / "cards.sqlite", facts=FACTS)
    for wrong in ({"tokens": 0}, {"prompts": ()}, {"context": 1}):
        with pytest.raises(DictionaryError, match="at least"):
            replace(PLAN, **wrong)


@pytest.mark.parametrize(("family", "architecture"), [("gpt2", "topk"), ("gemma2", "standard")])
def test_any_family_and_architecture_can_be_described(
    family, architecture, make_model, make_dictionary, tokenizer, tmp_path
):
    sae = make_dictionary("other", architecture=architecture, hook="mlp_out")
    subject = ModelSubject(make_model(family), tokenizer, sae.info.site, sae)
    reading = Reading(subject, sae, replace(PLAN, tokens=200))
    out = tmp_path / "cards.sqlite"
    described = run(reading, out)
    assert 200 <= described.tokens < 400
    batches = [b for b, _ in zip(text(tokenizer), range(20), strict=False)]
    f = torch.cat([sae.encode(subject.residual(b)[b.content]) for b in batches])
    f = f[: described.tokens]
    cards = cards_in(out)
    assert sorted(cards) == f.any(0).nonzero()[:, 0].tolist()
    for i, card in cards.items():
        assert card.maximum == pytest.approx(float(f[:, i].max()), rel=1e-5)


# --- Laws of the tally ---


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_tally_is_that_of_all_texts_in_whatever_order(tmp_path_factory, data):
    seed = data.draw(st.integers(0, 2**32))
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, size=data.draw(st.integers(1, 12)))
    scale = 2.0 ** draw.integers(-9, 9, size=(len(sizes), 1, 4))
    f = [
        np.float32(draw.exponential(s, (n, 4)) * (draw.random((n, 4)) < 0.6))
        for n, s in zip(sizes, scale, strict=True)
    ]
    order = draw.permutation(len(f))
    tallies = []
    for turn in (range(len(f)), order):
        tally = Tally(tmp_path_factory.mktemp("tally"), 4, seed=seed)
        for document in turn:
            ids = np.arange(len(f[document])) + 10 * document
            one = Text(ids, np.zeros(len(ids), bool), np.array([0, len(ids)]))
            tally.add(sparse(torch.from_numpy(f[document])), one, int(document))
        tallies.append(tally)
    one = tallies[0]
    every = np.concatenate(f)
    assert np.array_equal(one.fired, (every > 0).sum(0))
    assert np.array_equal(one.maximum, every.max(0))
    for i in np.flatnonzero(every.any(0)):
        fires = every[:, i][every[:, i] > 0]
        for tally in tallies:
            told = tally.histogram(i)
            assert told.counts == tuple(np.histogram(fires, bins=np.array(told.edges))[0])
        kept = [tally.exemplars.of(i, float(tally.maximum[i])) for tally in tallies]
        assert [(k.document, k.interval, k.values.tolist()) for k in kept[0]] == [
            (k.document, k.interval, k.values.tolist()) for k in kept[1]
        ]


@pytest.mark.parametrize(("longer", "wider"), [(8, 1), (1, 16)])
def test_memory_does_not_grow_with_the_text_or_the_width(
    longer, wider, model, tokenizer, dictionary, tmp_path
):
    """The most bytes that are alive at once in Python and numpy; what is on disk does not count.

    Wider dictionaries have more features that stay silent, so a block of them is what it was.
    """

    def peak(documents: int, d_sae: int) -> int:
        folder = tmp_path / f"{documents}-{d_sae}"
        shutil.copytree(dictionary.path, folder)
        config = json.loads((folder / "cfg.json").read_text()) | {"d_sae": d_sae}
        (folder / "cfg.json").write_text(json.dumps(config))
        weights = load_file(folder / "sae_weights.safetensors")
        tile = d_sae // 64
        weights = {
            k: v if k == "b_dec" else torch.cat([v] * tile, dim=1 if k == "W_enc" else 0)
            for k, v in weights.items()
        }
        save_file(weights, folder / "sae_weights.safetensors")
        sae = open_dictionary(folder)
        subject = ModelSubject(model, tokenizer, Site(1, "resid_post"), sae)
        reading = Reading(subject, sae, replace(PLAN, every=1e9))
        rows = partial(same_rows, tokenizer, documents)
        read_corpus(reading, rows, folder / "first")  # whatever is cached once and for all
        tracemalloc.start()
        try:
            read_corpus(reading, rows, folder / "second")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8 * longer, 64 * wider) < 1.2 * peak(8, 64) + 40 * 1024


def same_rows(tokenizer: Any, documents: int) -> Iterator[Windows]:
    return windows(["red fog on the bridge"] * documents, tokenizer, context=40, rows=4)


# --- Labels without a language model ---


@pytest.mark.parametrize(
    ("peaks", "promoted", "label"),
    [
        (
            [["the", " Golden", " Gate"], [" Golden", " Gate"], [" a", " gate"]],
            [],
            "fires on Golden Gate",
        ),
        ([[" a", " bridge"], [" the", " bridge"], [" sea"]], [" gate"], "fires on bridge"),
        ([[" a"], [" b"], [" c"]], [" gate", " tower"], "says gate, tower"),
        ([[" a"]], [" gate"], "fires on a"),
        ([["x", "\n"], ["y", "\n"], [" sea"]], [" \t"], "says ' \\t'"),
        ([[" a"], [" b"]], [], "fires on a, b"),
    ],
)
def test_a_label_is_what_the_peaks_have_in_common_or_what_is_promoted(peaks, promoted, label):
    assert token_label(peaks, promoted) == label


def test_a_sentencepiece_token_keeps_its_space():
    class Pieces:
        def decode(self, ids: list[int]) -> str:
            return ["bridge", "s"][ids[0]]

        def convert_ids_to_tokens(self, id: int) -> str:
            return ["▁bridge", "s"][id]

    assert [TokenTexts(Pieces())(i) for i in (0, 1)] == [" bridge", "s"]


# --- The command ---


def test_the_command_writes_cards_that_open_and_says_when_it_has(model, tokenizer, sae, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "notes.txt").write_text("\n\n".join(d for d in corpus(20) if isinstance(d, str)))
    out = tmp_path / "cards.sqlite"
    command = [
        "make",
        "describe",
        "-m",
        str(tmp_path / "model"),
        "-d",
        str(sae.path),
        "-o",
        str(out),
    ]
    command += ["-t", str(tmp_path / "notes.txt"), "--tokens", "300", "--device", "cpu"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    cards = cards_in(out)
    assert f"{len(cards)} cards, of" in first.output
    assert "written to" in first.output
    assert all(card.label and card.output_score is not None for card in cards.values())
    assert "were all there already" in CliRunner().invoke(app, command).output
    refused = CliRunner().invoke(app, [*command, "--seed", "3"])
    assert refused.exit_code == 1
    assert "move it away" in refused.output
    with (tmp_path / "notes.txt").open("a") as notes:
        notes.write("\n\none paragraph more")
    changed = CliRunner().invoke(app, command)
    assert changed.exit_code == 1
    assert "was made from other text" in changed.output
    long = CliRunner().invoke(app, [*command, "--context", "513"])
    assert long.exit_code == 1
    assert "this model has 512 positions" in long.output


def test_the_cards_may_be_written_into_the_folder_of_the_text(model, tokenizer, sae, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("\n\n".join(d for d in corpus(20) if isinstance(d, str)))
    named = {"-m": tmp_path / "model", "-d": sae.path, "-t": notes, "-o": notes / "cards.sqlite"}
    options = [part for name, path in named.items() for part in (name, str(path))]
    command = ["make", "describe", *options, "--device", "cpu"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    (notes / "cards.calibration.jsonl").write_text('{"key": "of make calibrate"}')
    assert "were all there already" in CliRunner().invoke(app, command).output
