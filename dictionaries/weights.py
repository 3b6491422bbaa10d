"""One SAE's weights where they lie on disk, and how they fold into rows that steer exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .edits import FeatureRows
from .errors import DictionaryError
from .per_feature import PerFeature
from .tensors import Stored


class Rows(Protocol):
    """A matrix on disk, seen feature by feature."""

    @property
    def features(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """As stored; what is read is float32."""
        ...

    @property
    def contiguous(self) -> bool:
        """Whether a feature's numbers lie in one piece on disk."""
        ...

    def rows(self, ids: Sequence[int]) -> Tensor:
        """[len(ids), width] float32."""
        ...

    def block(self, start: int, stop: int) -> Tensor:
        """[stop - start, width] float32."""
        ...

    def raw(self, start: int, stop: int) -> Tensor:
        """[stop - start, width] as stored, in any order of memory."""
        ...


class Matrix(NamedTuple):
    """A stored matrix seen feature by feature: `axis` is the one that counts the features."""

    stored: Stored
    axis: int

    @property
    def features(self) -> int:
        return self.stored.shape[self.axis]

    @property
    def width(self) -> int:
        return self.stored.shape[1 - self.axis]

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    @property
    def contiguous(self) -> bool:
        return self.stored.contiguous(self.axis)

    def rows(self, ids: Sequence[int]) -> Tensor:
        return self.stored.gather(self.axis, ids)

    def block(self, start: int, stop: int) -> Tensor:
        return self.stored.block(self.axis, start, stop)

    def raw(self, start: int, stop: int) -> Tensor:
        return self.stored.raw(self.axis, start, stop)


class DecoderNorm(Enum):
    """What the lengths |W_dec[j]| do to activations, in SAEs whose sparsity penalty had them."""

    IGNORED = "ignored"
    IN_ACTIVATIONS = "in activations"  # f = z |W_dec[j]|, decoded along the unit vector
    IN_GATE = "in gate"  # z |W_dec[j]| decides whether it fires, f is z itself


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of an SAE in the terms of `FeatureRows`, before folding.

    With h the normalised input, n = |W_dec[j]| as stored, z = (h - b_dec if centred) . W_enc[j]:

        fires where  z + gate > threshold,   f = relu(gain * z + offset)

    (times n as `decoder_norm` says), and x_hat = sum_j f_j W_dec[j] dec_scale + b_dec.
    """

    enc: Rows | None  # None: activations cannot be read feature by feature
    dec: Rows
    b_dec: Tensor  # [d_in]
    gate: PerFeature  # [d_sae]
    offset: PerFeature | None = None  # [d_sae]; None: same as gate
    gain: PerFeature | None = None  # [d_sae]; None: 1
    threshold: PerFeature | None = None  # [d_sae]; None: 0
    centred: bool = False
    mean_free: bool = False  # the encoder sees h minus its mean over d_in
    enc_scale: float = 1.0
    dec_scale: PerFeature | None = None  # [d_sae]; None: 1
    decoder_norm: DecoderNorm = DecoderNorm.IGNORED

    @property
    def d_sae(self) -> int:
        return self.dec.features

    @property
    def d_in(self) -> int:
        return self.dec.width

    def rows(self, ids: Sequence[int]) -> FeatureRows:
        """Chosen features, everything folded in; they read 0 where there is no `enc`."""
        picked = torch.tensor(ids, dtype=torch.long)
        enc = None if self.enc is None else self.enc.rows(ids)
        dec = self.dec.rows(ids)
        n = self._lengths(dec, "decoder", picked)
        return self._fold(enc, n, self._decoder(dec, n, picked), picked)

    def encoder(self, start: int, stop: int) -> FeatureRows:
        """Neighbouring features for reading only: their `dec` is [stop - start, 0]."""
        ids = torch.arange(start, stop)
        enc = None if self.enc is None else self.enc.block(start, stop)
        n = torch.ones(len(ids))
        if self.decoder_norm is not DecoderNorm.IGNORED:
            n = self._lengths(self.dec.block(start, stop), "decoder", ids)
        return self._fold(enc, n, torch.empty(len(ids), 0), ids)

    def directions(self, start: int, stop: int) -> Tensor:
        """Neighbouring features for writing only: decoder rows [stop - start, d_in]."""
        ids = torch.arange(start, stop)
        dec = self.dec.block(start, stop)
        return self._decoder(dec, self._lengths(dec, "decoder", ids), ids)

    def _fold(self, enc: Tensor | None, n: Tensor, dec: Tensor, ids: Tensor) -> FeatureRows:
        one, zero = torch.ones(len(ids)), torch.zeros(len(ids))
        if enc is None:
            return FeatureRows(torch.zeros(len(ids), self.d_in), zero, zero, zero, zero, dec)
        self._lengths(enc, "encoder", ids)
        e = enc * self.enc_scale
        centre = e @ self.b_dec if self.centred else zero
        if self.mean_free:
            e = e - e.mean(-1, keepdim=True)
        gain = one if self.gain is None else self.gain[ids]
        gate = self.gate[ids] - centre
        offset = gate if self.offset is None else self.offset[ids] - gain * centre
        threshold = zero if self.threshold is None else self.threshold[ids]
        if self.decoder_norm is not DecoderNorm.IGNORED:
            e, gate = e * n[:, None], gate * n
            if self.decoder_norm is DecoderNorm.IN_ACTIVATIONS:
                offset = offset * n
            else:
                gain = gain / _divisor(n)
        return FeatureRows(e, gain, offset, gate, threshold, dec)

    def _decoder(self, dec: Tensor, n: Tensor, ids: Tensor) -> Tensor:
        if self.dec_scale is not None:
            dec = dec * self.dec_scale[ids][:, None]
        if self.decoder_norm is DecoderNorm.IN_ACTIVATIONS:
            dec = dec / _divisor(n)[:, None]
        return dec

    def _lengths(self, rows: Tensor, which: str, ids: Tensor) -> Tensor:
        """|row| of each, which also shows the rows that are damaged."""
        n: Tensor = rows.norm(dim=-1)
        bad = ~n.isfinite()
        if bad.any():
            raise DictionaryError(
                f"the {which} row of feature {int(ids[bad][0])} holds NaN or infinity: the file is "
                "damaged. Download it again."
            )
        return n


def _divisor(n: Tensor) -> Tensor:
    """A dead feature's decoder row is all zero, and stays so."""
    return torch.where(n > 0, n, 1.0)
