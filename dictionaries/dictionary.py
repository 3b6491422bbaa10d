"""One opened SAE dictionary: what it is, and its features, read on demand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .edits import FeatureRows, Norm, frame, read, topk_cutoff
from .errors import DictionaryError
from .info import HOOKS, Info, Site
from .memory import room
from .scan import Nearest, cutoffs, largest
from .weights import Rows, Weights

if TYPE_CHECKING:
    from .whole import Whole

__all__ = ["HOOKS", "Dictionary", "Info", "Site"]

BLOCK = 8 * 2**20  # bytes of float32 rows streamed at a time ..
STRIDED = 64 * 2**20  # .. and where a row lies in pieces, so that each piece is long enough
CACHE = 64 * 2**20  # bytes of folded rows kept for the next request


class Dictionary:
    """Features of one SAE. Safe to use from many threads; nothing is loaded until it is asked for.

    What a file holds is checked when it is read: NaN in a row raises DictionaryError naming it.
    """

    def __init__(
        self, info: Info, path: Path, weights: Weights, whole: Whole | None = None
    ) -> None:
        self.info = info
        self.path = path
        self._weights = weights
        self._whole = whole
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, FeatureRows] = OrderedDict()
        self._room = max(1, CACHE // (8 * info.d_in))  # features: two float32 rows each
        self._encoders: dict[torch.device, FeatureRows] = {}  # TopK: see `keep_encoder`
        self._keeping = threading.Lock()
        self._nearest = Nearest()

    @property
    def weights(self) -> Weights:
        """Its tensors where they lie, before folding."""
        return self._weights

    def rows(self, ids: Sequence[int]) -> FeatureRows:
        """Folded rows of these features, in this order, on the CPU: [k, d_in] and [k].

        Unless `info.reads_exactly`, they read 0 for every activation: only `add` may use them.
        Raises DictionaryError for an id that the dictionary does not have.
        """
        for i in ids:
            self._check(i)
        with self._lock:
            missing = sorted({i for i in ids if i not in self._kept})
            if missing:
                read_now = self._weights.rows(missing)
                for at, i in enumerate(missing):
                    self._kept[i] = read_now.of([at])  # a copy, so the others' memory goes
            found = [self._kept[i] for i in ids]
            for i in ids:
                self._kept.move_to_end(i)
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return FeatureRows.joined(found) if found else self._weights.rows([])

    def encode(self, x: Tensor) -> Tensor:
        """Every activation, exactly as the format defines it: [.., d_in] -> [.., d_sae] float32.

        W_enc is streamed in blocks, for a TopK that is not kept twice (see `cutoff`).
        """
        out = torch.empty(*x.shape[:-1], self.info.d_sae, device=x.device)
        for start, f in self.encoded(x):
            out[..., start : start + f.shape[-1]] = f
        return out

    def encoded(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """`encode`, a block of features at a time: (id of its first, [.., features])."""
        for start, (f,) in self.encoded_each([x]):
            yield start, f

    def encoded_each(self, xs: Sequence[Tensor]) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """`encoded` of several x, of each in its turn, in one pass (TopK: two) over the encoder."""
        self._reads()
        hs = [frame(x, self.info.norm).h for x in xs]
        framed = [*zip(hs, self._cutoffs(hs), strict=True)]
        for start, rows in self._encoder(hs[0].device):
            yield start, (read(h, rows, cutoff) for h, cutoff in framed)

    def top(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """The n largest activations of each vector, and their features: both [.., n].

        x: [.., d_in]. Largest first; the last may be 0. Memory holds one block of activations.
        """
        return largest(self.encoded(x), n)

    @property
    def joint(self) -> bool:
        """Whether `coded` needs all its vectors at once: they are one sequence, or one batch."""
        return self._whole is not None and self._whole.joint

    def coded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(activations [n, d_sae], reconstruction [n, d_out]) of x [n, d_in], as the format has it.

        It is defined for more than can be steered: transcoders, signed and grouped activations.
        """
        if self._whole is not None:
            return self._whole(self, x)
        f = self.encode(x)
        return f, self.decode(f, x)

    def directions(self) -> Iterator[tuple[int, Tensor]]:
        """Every decoder row, in blocks: (id of the first, [features, d_out])."""
        for start, stop in self._blocks(self._weights.dec):
            yield start, self._weights.directions(start, stop)

    def decode(self, f: Tensor, x: Tensor) -> Tensor:
        """The reconstruction [.., d_out] of activations f [.., d_sae].

        x: the vectors that were encoded; SAEs that normalise each token decode to its scale.
        """
        out = torch.zeros(*f.shape[:-1], self.info.width, device=f.device)
        for start, stop in self._blocks(self._weights.dec):
            part = f[..., start:stop].float()
            if part.any():
                out += part @ self._weights.directions(start, stop).to(f.device)
        return self.whole_again(out, x)

    def rebuilt(self, values: Tensor, ids: Tensor, x: Tensor) -> Tensor:
        """`decode` of activations given as their values and features, both [n, k], as from `top`.

        Only the decoder rows of these features are read.
        """
        seen = sorted({*ids.flatten().tolist()})
        at = torch.searchsorted(torch.tensor(seen, device=ids.device), ids)
        f = torch.zeros(len(ids), len(seen), device=x.device).scatter_add_(1, at, values)
        return self.whole_again(f @ self.rows(seen).dec.to(x.device), x)

    def whole_again(self, out: Tensor, x: Tensor) -> Tensor:
        """A sum of decoder rows as the reconstruction of x: with b_dec, in x's own scale."""
        out = out + self._weights.b_dec.to(out.device)
        back = frame(x, self.info.norm).back
        if back is not None:
            out = out * back
        if self.info.norm is Norm.LAYER_NORM:
            out = out + x.float().mean(-1, keepdim=True)
        return out

    def cutoff(self, h: Tensor) -> Tensor | None:
        """TopK: the threshold [.., 1] of each token that its k largest exceed. None for others.

        h: [.., d_in], from `edits.frame`. It takes the whole encoder: kept if it fits into memory
        (see `keep_encoder`), else streamed from disk every time.
        """
        return self._cutoffs([h])[0]

    def _cutoffs(self, hs: Sequence[Tensor]) -> list[Tensor | None]:
        """`cutoff` of each; the encoder is streamed once."""
        if self.info.k is None:
            return [None for _ in hs]
        self._reads()
        device = hs[0].device
        if self.can_keep_encoder(device):
            self.keep_encoder(device)
        if device not in self._encoders:
            return [*cutoffs(self._encoder(device), hs, self.info.k)]
        return [self._held_cutoff(h, self._encoders[device], self.info.k) for h in hs]

    def _held_cutoff(self, h: Tensor, held: FeatureRows, k: int) -> Tensor:
        at_once = max(1, BLOCK // (4 * self.info.d_sae))
        parts = torch.split(h.reshape(-1, self.info.d_in), at_once)
        found = [topk_cutoff(part @ held.enc.T + held.gate, k) for part in parts]
        return torch.cat(found).view(*h.shape[:-1], 1)

    def can_keep_encoder(self, device: torch.device) -> bool:
        """Whether the encoder, 4 * d_in * d_sae bytes, is in memory or could be."""
        return device in self._encoders or 4 * self.info.d_in * self.info.d_sae <= room(device)

    def keep_encoder(self, device: torch.device) -> None:
        """Load the encoder of a TopK dictionary, once: it takes all of it to read one activation.

        Raises DictionaryError if it is larger than half of what memory the device has.
        """
        with self._keeping:
            if device in self._encoders:
                return
            if not self.can_keep_encoder(device):
                raise DictionaryError(
                    f"reading an activation of the TopK dictionary {self.info.id!r} takes its "
                    f"whole encoder, {4e-9 * self.info.d_in * self.info.d_sae:.1f} GB, and half "
                    f"of the memory is {1e-9 * room(device):.1f} GB. Use the op 'add'."
                )
            enc = torch.empty(self.info.d_sae, self.info.d_in, device=device)
            rest = []
            for start, rows in self._encoder(device):
                enc[start : start + len(rows.enc)] = rows.enc
                rest.append(replace(rows, enc=rows.enc[:, :0]))
            self._encoders[device] = replace(FeatureRows.joined(rest), enc=enc)

    def neighbours(self, feature: int, n: int = 10) -> list[tuple[int, float]]:
        """The n other features whose decoder rows point most nearly the same way: (id, cosine).

        All `decoder_bytes` are streamed: a second or so a gigabyte. `scan.nearest` is for many.
        """
        self._check(feature)
        own = self._weights.directions(feature, feature + 1)
        return self._nearest.of(self.directions, own, feature, max(n, 0))

    @property
    def decoder_bytes(self) -> int:
        """What has to be read to look at every direction."""
        return self.info.d_sae * self.info.width * self._weights.dec.dtype.itemsize

    def _check(self, feature: int) -> None:
        if not 0 <= feature < self.info.d_sae:
            raise DictionaryError(
                f"dictionary {self.info.id!r} has features 0 to {self.info.d_sae - 1}, "
                f"not {feature}."
            )

    def _reads(self) -> None:
        if not self.info.reads_exactly:
            raise DictionaryError(self.info.why_not)

    def _blocks(self, matrix: Rows) -> Iterator[tuple[int, int]]:
        at_once = BLOCK if matrix.contiguous else STRIDED
        step = max(1, at_once // (4 * matrix.width))
        for start in range(0, self.info.d_sae, step):
            yield start, min(start + step, self.info.d_sae)

    def _encoder(self, device: torch.device) -> Iterator[tuple[int, FeatureRows]]:
        """Every encoder row, a block of features at a time, from memory or from disk."""
        held = self._encoders.get(device)
        for start, stop in self._blocks(self._weights.enc or self._weights.dec):
            if held is not None:
                yield start, held.of(slice(start, stop))
            else:
                yield start, self._weights.encoder(start, stop).map(lambda t: t.to(device))
