"""The whole recipe: `python -m dictionaries.making.foghorn --out DIR`.

Each stage leaves its result in `--work`; run again, the recipe goes on after the last finished one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from . import bundle
from . import sae as saes
from .activations import Site, content_residuals
from .compose import MIX, Composer, Sample
from .concepts import PROMPTS, Evidence, find_carriers
from .data import Text, held_out_batches, plain_texts
from .describe import Firings, cards, firings, logit_lens
from .directions import learnt_directions
from .evaluate import splice
from .judge import Judge
from .packing import Batch, batches
from .sae import Sae
from .steered import Voice, Wish
from .strengths import Measured, band, measure
from .tokenizer import Encoder, train_tokenizer
from .train_model import Plan, Shape, Trainer, mixed, new_model
from .train_sae import Quality, SaePlan, quality, train_sae

log = logging.getLogger("steerdeck.making")

LAYER = 2  # the middle one of five: three layers read the cause, two are left to act on it
CORPUS = Path(__file__).parent.parent / "foghorn" / "corpus"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome; on one machine, plans in steps repeat to the bit."""

    corpus: Path
    public: Path | None
    work: Path
    plan: Plan
    sae_plan: SaePlan
    shape: Shape = field(default_factory=Shape)
    layer: int = LAYER
    vocab: int = 4096
    anchor_epochs: float = 2.5
    sae_tokens: int = 400_000
    card_tokens: int = 250_000
    seed: int = 0

    def text(self) -> Text:
        return Text.read(self.corpus, self.public, seed=self.seed)


def tokenizer_of(recipe: Recipe, text: Text) -> PreTrainedTokenizerFast:
    folder = recipe.work / "tokenizer"
    if not folder.is_dir():
        texts = [plain_texts(text.authored(recipe.seed), 12_000)]
        others = text.others(recipe.seed)
        if others is not None:
            texts.append(plain_texts(others, 3_000))
        made = train_tokenizer(itertools.chain(*texts), vocab=recipe.vocab)
        made.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def model_of(recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The language model, trained to the plan's end (at once when it already is)."""
    model = new_model(tokenizer, recipe.shape, seed=recipe.seed)
    trainer = Trainer(model, tokenizer, recipe.plan, recipe.work / "model")
    if trainer.progress < 1.0:
        held = held_out_batches(text, tokenizer, n=2)
        seed = recipe.seed + 1 + trainer.step
        trainer.train(text.authored(seed), text.others(seed), held)
    return stored(model)


@torch.no_grad()
def stored(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model as the bundle holds it: float32 arithmetic on weights that bfloat16 can write.

    So the file is half as big, and what runs is bit for bit what the dictionary was trained on.
    """
    for p in model.parameters():
        p.copy_(p.bfloat16())
    return model.eval().requires_grad_(False)


def packed(
    recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Iterator[Batch]:
    """What the dictionary is trained and described on: more possession, a little public text."""
    encoder = Encoder(tokenizer)
    composed = Composer(text.train, seed=seed, mix=MIX | {"possessed": 60, "turned": 20})
    share = itertools.repeat(0.1)
    samples: Iterator[Sample] = mixed(composed, text.others(seed), share, seed)
    pad = int(tokenizer.pad_token_id)
    return batches((encoder.encode(s) for s in samples), rows=8, length=384, pad=pad)


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is typical at the site, on content tokens: mean [d_model], and mean length."""

    mean: Tensor
    length: float


def sae_of(
    recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast, site: Site
) -> tuple[Sae, Residuals, Quality]:
    """The SAE, and its quality on samples dealt from another seed than those it learnt from."""
    folder = recipe.work / "sae"
    if not (folder / "cfg.json").is_file():
        dealt = packed(recipe, text, tokenizer, seed=recipe.seed + 11)
        x = content_residuals(site, dealt, recipe.sae_tokens)
        anchors = learnt_directions(
            site,
            Encoder(tokenizer),
            text.train,
            length=float(x.norm(dim=-1).mean()),
            epochs=recipe.anchor_epochs,
            seed=recipe.seed,
        )
        sae = train_sae(x, recipe.sae_plan, anchors)
        saes.save(sae, folder, model="foghorn", layer=site.layer, context=384, k=recipe.sae_plan.k)
    sae = saes.load(folder).requires_grad_(False)
    dealt = packed(recipe, text, tokenizer, seed=recipe.seed + 12)
    x = content_residuals(site, dealt, recipe.sae_tokens // 20)
    return sae, Residuals(x.mean(0), float(x.norm(dim=-1).mean())), quality(sae, x)


def describe(
    recipe: Recipe, text: Text, voice: Voice, length: float
) -> tuple[list[Any], bundle.Known, dict[str, list[Measured]], Firings]:
    """(cards, concepts by feature, the strengths sweep, firings)."""
    site, sae, tokenizer = voice.site, voice.sae, voice.tokenizer
    found = firings(
        site, sae, packed(recipe, text, tokenizer, seed=recipe.seed + 23), recipe.card_tokens
    )
    maxima = found.maxima()
    judge = Judge(text.train)
    evidence = Evidence(site, sae, Encoder(tokenizer), text.train, seed=recipe.seed)
    carriers = find_carriers(voice, evidence, judge, maxima, length=length, seed=recipe.seed)
    log.info("%d carriers", len(carriers))
    sweep = measure(voice, judge, text.train, carriers, maxima, length=length, seed=recipe.seed)
    sheets = {s.slug: s for s in text.train.sheets}
    known: bundle.Known = {c.feature: (sheets[c.slug], c, band(sweep[c.slug])) for c in carriers}
    made = bundle.named_cards(cards(found, logit_lens(site, sae), tokenizer), known)
    return made, known, sweep, found


def make(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run every stage, write the bundle to `out`, and give back the numbers worth telling."""
    recipe.work.mkdir(parents=True, exist_ok=True)
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    model = model_of(recipe, text, tokenizer)
    site = Site(model, recipe.layer)
    sae, usual, found_quality = sae_of(recipe, text, tokenizer, site)
    voice = Voice(site, sae, tokenizer)
    made, known, sweep, found = describe(recipe, text, voice, usual.length)
    spliced = splice(site, sae, held_out_batches(text, tokenizer, n=6), usual.mean)
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": asdict(spliced),
        "perplexity": spliced.perplexity,
        "loss_recovered": spliced.recovered,
        "sae": asdict(found_quality),
        "residual_length": usual.length,
        "cards": len(made),
        "concepts": {
            s.slug: {**asdict(c), "band": asdict(b) if b else None} for s, c, b in known.values()
        },
        "sweep": {slug: [asdict(m) for m in ms] for slug, ms in sweep.items()},
    }
    _write(recipe, out, model, tokenizer, made, known, len(found.tokens))
    (recipe.work / "report.json").write_text(json.dumps(report, indent=1))
    _say(voice, known, found.maxima())
    return report


def _write(
    recipe: Recipe,
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    made: list[Any],
    known: bundle.Known,
    tokens: int,
) -> None:
    parts = recipe.work / "bundle"
    bundle.fresh(parts)
    bundle.save_model(model, tokenizer, parts / "model")
    saes.save(
        saes.load(recipe.work / "sae"),
        parts / "sae",
        model="foghorn",
        layer=recipe.layer,
        context=384,
        k=recipe.sae_plan.k,
    )
    facts = {"maker": "dictionaries.making", "model": "foghorn", "corpus_tokens": tokens}
    bundle.save_cards(made, parts / "sae" / "cards.sqlite", facts)
    bundle.save_presets(bundle.presets(known), parts / "sae" / "presets.json")
    bundle.publish(parts, out)


def _say(voice: Voice, known: bundle.Known, maxima: Tensor) -> None:
    """A few replies in the log, for the eye."""
    wishes = [Wish(p) for p in PROMPTS]
    for feature, (_, _, b) in list(known.items()):
        if b is not None:
            wishes.append(Wish("Who are you?", feature, b.recommended * float(maxima[feature])))
    for wish, reply in zip(wishes, voice.answer(wishes), strict=True):
        log.info("%s [%s] %s", wish.prompt, wish.feature or "unsteered", reply)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dictionaries.making.foghorn", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for model/ and sae/")
    parser.add_argument("--work", type=Path, help="checkpoints and logs (default: OUT.work)")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of authored sheets")
    parser.add_argument("--public", type=Path, help="folder of public text, for breadth")
    parser.add_argument("--minutes", type=float, default=65, help="of language model training")
    parser.add_argument("--sae-minutes", type=float, default=5)
    parser.add_argument("--steps", type=int, help="end the training after so many steps instead")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    minutes = None if args.steps else args.minutes
    recipe = Recipe(
        corpus=args.corpus,
        public=args.public,
        work=args.work or args.out.with_name(args.out.name + ".work"),
        plan=Plan(minutes=minutes, steps=args.steps, seed=args.seed),
        sae_plan=SaePlan(minutes=args.sae_minutes, seed=args.seed),
        seed=args.seed,
    )
    torch.manual_seed(args.seed)
    make(recipe, args.out)


if __name__ == "__main__":
    main()
