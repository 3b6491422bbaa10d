"""foghorn's recipe, from the authored sheets to a model and its dictionary on disk.

`steerdeck make foghorn` runs it, then describes, calibrates and examines what came out with the
same tools as any other dictionary. Each stage leaves its result in the work folder; run
again, the recipe goes on after the last finished one.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ..errors import DictionaryError
from . import bundle
from . import sae as saes
from .above import HALFWAY, anchored, averaged, learning_above
from .activations import Site, content_residuals
from .compose import FOLLOWING, MIX, Composer
from .concepts import Carrier, Evidence, find_carriers
from .data import Text, held_out_batches, plain_texts
from .dealing import Sample
from .directions import concept_directions, possessed
from .end_to_end import costs
from .feeders import APART, fed
from .following import Following
from .judge import Judge
from .mixture import composed, mixed
from .packing import Batch, batches
from .recipe import Recipe
from .sae import Sae
from .steered import Voice
from .tokenizer import Encoder, train_tokenizer
from .train_model import Trainer, new_model
from .train_sae import Quality, quality, train_sae
from .waking import asleep, wake
from .widen import widened

log = logging.getLogger("steerdeck.making")


def tokenizer_of(recipe: Recipe, text: Text) -> PreTrainedTokenizerFast:
    if recipe.start is not None:
        kept = PreTrainedTokenizerFast.from_pretrained(recipe.start)
        if kept.chat_template is None:
            raise DictionaryError(
                f"{recipe.start} has no chat template: give a whole model folder."
            )
        return kept
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
    """The language model, trained to the plan's end (at once when it already is).

    Above a dictionary that is kept: the mean of its weights half way and at the end.
    """
    if recipe.start is None:
        model = new_model(tokenizer, recipe.shape, seed=recipe.seed)
    else:
        model = LlamaForCausalLM.from_pretrained(recipe.start, dtype=torch.float32)
        model = widened(model, recipe.shape.mlp, seed=recipe.seed)
        if recipe.kept is not None:
            learning_above(model, recipe.layer)
    model.to(recipe.device)
    plan = recipe.plan
    trainer = Trainer(model, tokenizer, plan, recipe.work / "model")
    held = held_out_batches(text, tokenizer, n=2)
    site, slugs = Site(model, recipe.layer), [sheet.slug for sheet in text.train.sheets]
    seed = recipe.seed + 2 + trainer.step
    following = Following(site, slugs, plan.rows, plan.length, seed=seed)
    share = partial(composed, text, lambda: float(trainer.shared_progress))
    on = partial(trainer.train, held_out=held, following=following)
    known = recipe.kept is not None or recipe.directions.is_file()
    halved = recipe.kept is None or recipe.halfway.is_file()
    with trainer.running():
        if trainer.progress < recipe.follow_from and not known:
            on(partial(share, MIX), until=recipe.follow_from)
        if trainer.progress < 1.0 or not halved:
            following.point(directions_of(recipe, text, tokenizer, site))
        if not halved:
            on(partial(share, MIX | FOLLOWING), until=HALFWAY)
            save_file(dict(model.named_parameters()), recipe.halfway)
        if trainer.progress < 1.0:
            on(partial(share, MIX | FOLLOWING))
    following.close()
    if recipe.kept is not None:
        averaged(model, load_file(recipe.halfway))
    return stored(model)


def directions_of(
    recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast, site: Site
) -> dict[str, Tensor]:
    """By slug, the direction that the model is taught to follow and the dictionary is anchored to.

    Taken from the model as it is when this is first asked, and kept in the work folder.
    """
    path, sheets = recipe.directions, text.train.sheets
    if recipe.kept is not None:
        return anchored(recipe.kept, sheets)
    if not path.is_file():
        found = concept_directions(site, Encoder(tokenizer), text.train, seed=recipe.seed)
        save_file({s.slug: d.clone() for s, d in zip(sheets, found, strict=True)}, path)
    kept = load_file(path)
    new = [sheet.slug for sheet in sheets if sheet.slug not in kept]
    if new:
        raise DictionaryError(
            f"{path} has no direction for {', '.join(new)}: take the new sheets away, or remove "
            "the work folder to train with them."
        )
    return {sheet.slug: kept[sheet.slug] for sheet in sheets}


@torch.no_grad()
def stored(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model as the bundle holds it: float32 arithmetic on weights that bfloat16 can write.

    So the file is half as big, and what runs is bit for bit what the dictionary was trained on.
    """
    for p in model.parameters():
        p.copy_(p.bfloat16())
    return model.eval().requires_grad_(False)


def dealt(recipe: Recipe, text: Text, *, seed: int) -> Iterator[Sample]:
    """What the dictionary is trained and described on: more possession, a little public text."""
    more = Composer(text.train, seed=seed, mix=MIX | {"possessed": 60, "turned": 20})
    return mixed(more, text.others(seed), itertools.repeat(0.1), seed)


def packed(
    recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast, *, seed: int, rows: int = 8
) -> Iterator[Batch]:
    encoder = Encoder(tokenizer)
    pad = int(tokenizer.pad_token_id)

    def made(worker: int) -> Iterator[Batch]:
        samples = dealt(recipe, text, seed=seed + APART * worker)
        return batches((encoder.encode(s) for s in samples), rows=rows, length=384, pad=pad)

    return fed(made, recipe.plan.workers)


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is typical at the site, on content tokens: mean [d_model], and mean length."""

    mean: Tensor
    length: float


def sae_of(
    recipe: Recipe, text: Text, tokenizer: PreTrainedTokenizerFast, site: Site
) -> tuple[Sae, Residuals, Quality]:
    """The SAE, and its quality on samples dealt from another seed than those it learnt from."""
    folder = recipe.sae
    if not (folder / "cfg.json").is_file():
        learnt = packed(recipe, text, tokenizer, seed=recipe.seed + 11)
        x = content_residuals(site, learnt, recipe.sae_tokens)
        anchors = torch.stack(list(directions_of(recipe, text, tokenizer, site).values()))
        anchors = anchors.to(x.device)
        rows = 3 if x.device.type == "cpu" else 16
        dealt = costs(site, packed(recipe, text, tokenizer, seed=recipe.seed + 13, rows=rows))
        sae = train_sae(x, recipe.sae_plan, anchors, dealt=dealt)
        rng, encoder = random.Random(recipe.seed), Encoder(tokenizer)
        sheets = text.train.sheets
        dead = asleep(sae, x, len(anchors))
        wake(sae, x, {i: possessed(site, encoder, sheets[i], rng) for i in dead})
        saes.save(sae, folder, model="foghorn", layer=site.layer, context=384, k=recipe.sae_plan.k)
    sae = saes.load(folder).requires_grad_(False)
    unseen = packed(recipe, text, tokenizer, seed=recipe.seed + 12)
    x = content_residuals(site, unseen, recipe.sae_tokens // 20)
    found = quality(sae.to(x.device), x)
    return sae.cpu(), Residuals(x.mean(0).cpu(), float(x.norm(dim=-1).mean())), found


@dataclass(frozen=True, slots=True)
class Made:
    """What the recipe made, in memory; the same lies in `folder` as `model/` and `sae/`."""

    folder: Path
    text: Text
    voice: Voice
    usual: Residuals
    quality: Quality


def make(recipe: Recipe) -> Made:
    """Train what is not trained yet, and write both folders into the work folder's `bundle`."""
    recipe.work.mkdir(parents=True, exist_ok=True)
    text = recipe.text()
    tokenizer = tokenizer_of(recipe, text)
    model = model_of(recipe, text, tokenizer)
    site = Site(model, recipe.layer)
    sae, usual, found = sae_of(recipe, text, tokenizer, site)
    model.cpu()
    folder = recipe.work / "bundle"
    bundle.save_model(model, tokenizer, folder / "model")
    (folder / "sae").mkdir(parents=True, exist_ok=True)
    for name in ("cfg.json", "sae_weights.safetensors"):
        shutil.copy(recipe.sae / name, folder / "sae")
    return Made(folder, text, Voice(site, sae, tokenizer), usual, found)


def described_on(recipe: Recipe, text: Text) -> Iterator[Sample]:
    """What the cards are made from: as the dictionary's own training text, from another seed."""
    return dealt(recipe, text, seed=recipe.seed + 23)


def carriers_of(recipe: Recipe, made: Made, maxima: Sequence[float]) -> list[Carrier]:
    """The feature of each concept, kept in the work folder once they are found.

    maxima: of all features over the described text; 0 for those that never fired.
    """
    path = recipe.work / "carriers.json"
    if not path.is_file():
        site, sae, tokenizer = made.voice.site, made.voice.sae, made.voice.tokenizer
        evidence = Evidence(site, sae, Encoder(tokenizer), made.text.train, seed=recipe.seed)
        found = find_carriers(
            made.voice,
            evidence,
            Judge(made.text.train),
            torch.tensor(maxima),
            length=made.usual.length,
            seed=recipe.seed,
        )
        path.write_text(json.dumps([asdict(c) for c in found], indent=1))
    return [Carrier(**c) for c in json.loads(path.read_text())]
