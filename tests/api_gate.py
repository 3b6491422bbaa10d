"""A server with one row, whose steps a test lets through, and how to read what it streams."""

from __future__ import annotations

import threading
import time

import pytest

LONG = {"ignore_eos": True, "max_tokens": 20, "seed": 1}
FOG = {"feature": "fog", "op": "clamp", "strength": 4.0}
HUNG_UP = 'steerdeck_cancelled_total{by="hung_up"}'


class Gate:
    """Lets through as many forward passes as were allowed; open at first."""

    def __init__(self):
        self.condition = threading.Condition()
        self.allowed = None
        self.raising = None

    def __call__(self):
        with self.condition:
            assert self.condition.wait_for(lambda: self.allowed is None or self.allowed > 0, 20)
            if self.allowed is not None:
                self.allowed -= 1
            error, self.raising = self.raising, None
        if error is not None:
            raise error

    def allow(self, steps):
        """This many more steps; None for any number."""
        with self.condition:
            self.allowed = steps
            self.condition.notify_all()

    def fail(self, error):
        self.raising = error


@pytest.fixture(scope="module")
def gate():
    return Gate()


@pytest.fixture(scope="module")
def narrow(make_deck, serve, gate):
    """A server with one row, and one place to wait."""
    return serve(make_deck(before_step=gate, max_rows=1, max_waiting=1))


@pytest.fixture(autouse=True)
def open_again(gate):
    yield
    gate.raising = None
    gate.allow(None)


def until(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def counts(live):
    stats = live.service.stats()
    return stats.running, stats.waiting


def idle(live):
    return counts(live) == (0, 0) and not live.service.jobs


def metric(live, name):
    lines = live.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def text_of(events):
    chunks = [c for e in events if e != "[DONE]" for c in e["choices"]]
    return "".join(chunk["delta"].get("content", "") for chunk in chunks)


def receipt_of(events):
    return next(e["steering"]["receipt"] for e in events if "receipt" in e.get("steering", {}))
