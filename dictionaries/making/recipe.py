"""What decides the outcome of `steerdeck make foghorn`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import LlamaConfig

from ..errors import DictionaryError
from .data import Text
from .train_model import Plan, Shape
from .train_sae import SaePlan


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome; on one machine's CPU, plans in steps repeat to the bit.

    Raises DictionaryError for a dictionary to keep that is none, or without the model it reads.
    """

    corpus: Path
    public: Path | None
    work: Path
    plan: Plan
    sae_plan: SaePlan
    start: Path | None = None  # a model folder whose tokenizer and weights it goes on from, widened
    kept: Path | None = None  # the dictionary of `start`, to be left as it is: see `above`
    few: bool = False  # of its talks only those that the corpus names, see `few`
    shape: Shape = field(default_factory=Shape)
    vocab: int = 4096
    follow_from: float = 0.4  # progress at which directions are taken, and begin to be learnt
    sae_tokens: int = 400_000
    samples: int = 6_000  # composed texts that the cards are made from
    device: str = "cpu"  # on which both are trained; all that follows runs on the CPU
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kept and not (self.start and (self.kept / "cfg.json").is_file()):
            raise DictionaryError(
                f"{self.kept} cannot be kept: give the sae folder of a foghorn (with cfg.json), "
                "and the model folder beside it as the start."
            )

    @property
    def layer(self) -> int:
        """Of the dictionary: half of the layers read the cause, half are left to act on it."""
        layers = self.shape.layers
        if self.start is not None:
            layers = int(LlamaConfig.from_pretrained(self.start).num_hidden_layers)
        return layers // 2 - 1

    @property
    def sae(self) -> Path:
        return self.kept or self.work / "sae"

    @property
    def halfway(self) -> Path:
        """The weights at half of the plan, where a dictionary is kept: see `averaged`."""
        return self.work / "halfway.safetensors"

    @property
    def directions(self) -> Path:
        """Put there before, those that `start` follows already: they are followed at once."""
        return self.work / "directions.safetensors"

    def text(self) -> Text:
        return Text.read(self.corpus, self.public, seed=self.seed, only_few=self.few)
