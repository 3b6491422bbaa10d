"""The unsteered row beside a steered reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .scheduler import Ticket

if TYPE_CHECKING:
    from .reply import Reply


class Shadow(Ticket):
    """The unsteered row beside a reply: it is fed the reply's tokens and chooses none itself."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(length=reply.length, paced=True)
        self.reply = reply
        self.ended: Tensor | None = None

    @property
    def origin(self) -> Reply | Shadow:
        """The reply's own where no edit acts on the prompt: then both have the same."""
        source = self.reply.origin
        assert not isinstance(source, Shadow)
        assert self.reply.steered is not None
        return (source.shadow or source) if self.reply.steered.acts[0] else source

    @property
    def proved(self) -> bool:
        """Whether finite logits have shown that what its row holds is finite."""
        return self.reply.proved

    @property
    def computed(self) -> int:
        """Positions whose keys and values are in the cache."""
        return self.done if self.reply.count == 0 else self.reply.computed
