"""What /metrics tells, on a registry of its own so that two apps in one process do not mix."""

from __future__ import annotations

import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from .engine.seam import Stats
from .engine.types import Finish, Request

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Names end in their unit; counters never go down."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.first_token = Histogram(
            "steerdeck_time_to_first_token_seconds",
            "From admission to the first token, the wait in the queue included",
            buckets=SECONDS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "steerdeck_inter_token_seconds",
            "Between two tokens of one reply",
            buckets=(0.001, 0.0025, *SECONDS),
            registry=registry,
        )
        self.http = Histogram(
            "steerdeck_http_request_seconds",
            "From a request's first byte to its reply's last",
            ("method", "route", "status"),
            buckets=SECONDS,
            registry=registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read")
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens that were known and not computed"
        )
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated")
        self.edited_tokens = self._counter("edited_tokens", "Positions at which an edit acted")
        self.replies = self._counter("replies", "Replies that ended, by how", "reason")
        self.edits = self._counter("edits", "Edits admitted or changed to, by op", "op")
        self.refused = self._counter("refused", "Requests refused, by error code", "code")
        self.cancelled = self._counter(
            "cancelled", "Replies cut off: hung_up by their reader, or asked by DELETE", "by"
        )
        self.alarms = self._counter(
            "guard_alarms", "What the guard noticed, and did about it", "signal", "action"
        )
        self.failed = self._counter("failed", "Replies that ended in an error")
        self.running = Gauge("steerdeck_running", "Rows being computed", registry=registry)
        self.waiting = Gauge("steerdeck_waiting", "Rows in the queue", registry=registry)
        self.kept = Gauge(
            "steerdeck_prefix_cache_tokens", "Positions kept for prompts to come", registry=registry
        )
        self.ready = Gauge("steerdeck_ready", "1 once the model is loaded", registry=registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"steerdeck_{name}", about, labels, registry=self.registry)

    def admitted(self, request: Request) -> None:
        for edit in request.steering.edits:
            self.edits.labels(str(edit.op)).inc()

    def finished(self, finish: Finish) -> None:
        self.prompt_tokens.inc(finish.prompt_tokens)
        self.cached_tokens.inc(finish.cached_tokens)
        self.edited_tokens.inc(finish.tokens_edited)
        self.replies.labels(str(finish.reason)).inc()
        for alarm in finish.alarms:
            self.alarms.labels(str(alarm.signal), str(alarm.action)).inc()

    def page(self, stats: Stats | None) -> bytes:
        """The text format. stats: the engine's, None while loading."""
        self.ready.set(int(stats is not None and stats.alive))
        self.running.set(stats.running if stats else 0)
        self.waiting.set(stats.waiting if stats else 0)
        self.kept.set(stats.cached if stats else 0)
        return generate_latest(self.registry)


class Clock:
    """Times the tokens of one request's rows. started: when it was admitted, by time.monotonic."""

    def __init__(self, metrics: Metrics, started: float) -> None:
        self._metrics, self._started = metrics, started
        self._last: dict[int, float] = {}

    def delta(self, row: int, tokens: int) -> None:
        now = time.monotonic()
        self._metrics.generated_tokens.inc(tokens)
        if row not in self._last:
            self._metrics.first_token.observe(now - self._started)
        elif tokens:
            gap = (now - self._last[row]) / tokens
            for _ in range(tokens):
                self._metrics.inter_token.observe(gap)
        self._last[row] = now
