"""Compiled layers in place of a running model's: found or made in the background, proved, put in.

A layer becomes compiled between two passes, by a new `forward`; its hooks stay where they are and
run as ever, so nothing about steering is compiled. A layer that is steered in its inside, or that
cannot be compiled, or whose code gives something else, stays as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..attention import STEP, SlotStep
from ..batch import Batch, Span
from ..cache import SlotCache
from ..joined import groups, together
from ..sites import attention_of, decoder_layers
from .call import Call, Kind, Uncompilable, kind_key, leaves, small, tensors, varying
from .opaque import RUNNING, Opaque, linears
from .store import Store

log = logging.getLogger("steerdeck.engine")

State = Literal["running", "on", "failed"]
_TOKENS = 11, 6  # of the two passes in which the layers' calls are seen
_FLOAT32, _HALF = 1e-4, 3e-2  # how far code may differ, as a part of the largest number


class Compiled:
    """The forward of a layer that was compiled; what it was is `plain`."""

    def __init__(self, layer: Any, code: Any, kind: Kind) -> None:
        self.plain: Callable[..., Tensor] = layer.forward
        opaque = linears(layer)
        products = map(together, groups(layer, opaque))
        self._opaque = Opaque(tuple(products), attention_of(layer))
        named = small(layer, opaque)
        self._own = [named[name] for name in kind.small]
        self._run = code.run
        self._count = len(tensors(kind.calls[0].args, kind.calls[0].kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        given = tensors(args, kwargs)
        if len(given) != self._count:
            return self.plain(*args, **kwargs)
        RUNNING.set(self._opaque)
        output: Tensor = self._run([*(one.contiguous() for one in given), *self._own])[0]
        return output


class Compilation:
    """Of one model on the CPU. `swap` is for the thread that runs it, between two passes.

    run: a pass of that many tokens. What is in `folder` is used at once, the rest compiled in the
    background and kept there. exact: all of it is float32; elsewhere a rounding may fall to either
    side, and more is forgiven. found: called by the background's thread once it has layers for
    `swap`.
    """

    def __init__(
        self,
        model: Any,
        folder: Path,
        run: Callable[[int], object],
        *,
        exact: bool,
        found: Callable[[], object],
    ) -> None:
        self.state: State = "running"
        self._layers = decoder_layers(model)
        self._store = Store(folder, model)
        self._tolerance = _FLOAT32 if exact else _HALF
        self._device = model.device
        self._found = found
        self._ready: dict[int, Compiled] | None = None
        self._thread = threading.Thread(target=self._make, name="steerdeck-compile", daemon=True)
        try:
            self._kinds = self._observe(run)
        except Exception as error:  # a model that it cannot even look at runs eagerly
            self._fail(error)
            return
        self._codes = {kind: self._store.load(kind) for kind in self._kinds.values()}
        if all(self._codes.values()):
            self._prove()
            self.swap()
        else:
            self._thread.start()

    def swap(self) -> None:
        """Put compiled layers in, if there are any new ones."""
        if self._ready is None:
            return
        ready, self._ready = self._ready, None
        for index, compiled in ready.items():
            self._layers[index].forward = compiled
        self.state = "on"
        log.info("%d of %d layers run compiled", len(ready), len(self._layers))

    def close(self) -> None:
        self._store.close()
        if self._thread.is_alive():
            self._thread.join()

    def _observe(self, run: Callable[[int], object]) -> dict[int, Kind]:
        """The kind of every layer that may be compiled."""
        if self._device.type != "cpu":
            raise Uncompilable(f"this is for a CPU, and the model is on {self._device}")
        seen = _calls(self._layers, run)
        kinds: dict[int, Kind] = {}
        known: dict[str, Kind] = {}
        why = "its layers are steered in their inside"
        for index, layer in enumerate(self._layers):
            opaque = linears(layer)
            if any(_hooked(m) for m in layer.modules() if m is not layer):
                continue
            calls = seen[index]
            try:
                varying(calls)
            except Uncompilable as error:
                why = str(error)
                continue
            key = kind_key(layer, calls, opaque)
            made = Kind(key, index, calls, tuple(small(layer, opaque)))
            kinds[index] = known.setdefault(key, made)
        if not kinds:
            raise Uncompilable(why)
        return kinds

    def _make(self) -> None:
        """The thread: compile what is missing, then load and prove everything."""
        began = time.monotonic()
        missing = [kind for kind, code in self._codes.items() if code is None]
        log.info("compiling %d kinds of layers in the background", len(missing))
        try:
            self._store.make(missing)
            self._codes |= {kind: self._store.load(kind) for kind in missing}
        except Exception as error:
            self._fail(error)
            return
        log.info("compiled in %.0f s", time.monotonic() - began)
        self._prove()
        self._found()

    def _prove(self) -> None:
        """Make `_ready` of the layers whose code gives what they give."""
        made: dict[int, Compiled] = {}
        try:
            for index, kind in self._kinds.items():
                compiled = Compiled(self._layers[index], self._codes[kind], kind)
                if self._agrees(compiled, kind):
                    made[index] = compiled
        except Exception as error:
            self._fail(error)
            return
        if made:
            self._ready = made
        else:
            self._fail(Uncompilable("their code gives something else"))

    def _fail(self, error: Exception) -> None:
        self.state = "failed"
        if self._store.closed:
            return
        log.warning("layers are not compiled, which is slower: %s", error)

    def _agrees(self, compiled: Compiled, kind: Kind) -> bool:
        tolerance = self._tolerance
        for call in (*kind.calls, _first_token(kind.calls)):
            expected = _alone(compiled.plain, call)
            got = _alone(compiled, call)
            atol = tolerance * expected.abs().max().item()
            if not torch.allclose(got, expected, rtol=tolerance, atol=atol):
                log.warning("a compiled layer gives something else and stays as it was")
                return False
        return True


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _calls(layers: Sequence[nn.Module], run: Callable[[int], object]) -> list[tuple[Call, Call]]:
    """Each layer's `forward` in both passes: what its hooks made of its input, and its output."""
    seen: list[list[Call]] = [[] for _ in layers]

    def watch(index: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = plain(*args, **kwargs)
            seen[index].append(Call(args, kwargs, output))
            return output

        return forward

    plains = [layer.forward for layer in layers]
    try:
        for index, layer in enumerate(layers):
            layer.forward = watch(index, plains[index])
        for tokens in _TOKENS:
            run(tokens)
    finally:
        for layer in layers:
            del layer.forward
    return [(one, two) for one, two in seen]


def _first_token(calls: tuple[Call, Call]) -> Call:
    """The first call cut to its first token."""
    call, axes = calls[0], iter(varying(calls))

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        for axis in next(axes):
            leaf = leaf.narrow(axis, 0, 1)
        return leaf

    feed = iter([cut(leaf) for leaf in leaves(call.args, call.kwargs)])
    args = tuple(_filled(value, feed) for value in call.args)
    return Call(args, {name: _filled(value, feed) for name, value in call.kwargs.items()}, None)


def _filled(value: Any, feed: Iterator[Any]) -> Any:
    return tuple(next(feed) for _ in value) if isinstance(value, tuple | list) else next(feed)


def _alone(forward: Callable[..., Tensor], call: Call) -> Tensor:
    """Its output for a prompt of its own, over slots of its own."""
    x = next(leaf for leaf in leaves(call.args, call.kwargs) if isinstance(leaf, Tensor))
    tokens = x.shape[1]
    span = Span(0, 0, (0,) * tokens, (True,) * tokens, True)
    token = STEP.set(SlotStep(SlotCache(1, tokens), Batch(0, [], [], [], (span,)), x.device))
    try:
        with torch.no_grad():
            return forward(*call.args, **call.kwargs)
    finally:
        STEP.reset(token)
