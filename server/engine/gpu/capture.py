"""Capturing on an NVIDIA GPU: all graphs in one pool of memory, since one runs at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


class CudaCapture:
    """Captures for a device. Raises what torch raises where that cannot be done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], object]:
        """run: writes to tensors that it keeps nothing but fixed places of. It is called twice: to
        warm up, on the stream of the capture, and to be captured, when nothing is computed.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            main = torch.cuda.current_stream()
            self._stream.wait_stream(main)
            with torch.cuda.stream(self._stream):
                run()
            main.wait_stream(self._stream)
            torch.cuda.synchronize()
            collecting = gc.isenabled()
            gc.disable()  # what it frees may be on the device
            try:
                # Other threads may go on using the device: they read dictionaries to it.
                with torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    run()
            finally:
                if collecting:
                    gc.enable()
        return _Replay(graph, self._device)


class _Replay:
    def __init__(self, graph: torch.cuda.CUDAGraph, device: torch.device) -> None:
        self._graph, self._device = graph, device

    def __call__(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()
