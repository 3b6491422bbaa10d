"""The benchmark runs, on a tiny random model, and reports what it promises. Never how fast."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import admission
import plain
import pytest
import serve
import torch
from hosting import chosen
from report import Point, high, ratio, summary
from traffic import Reply, Round, parse
from transformers.utils.logging import enable_progress_bar

from server.engine import threads

TINY = ["--no-page", "--shape", "tiny", "--concurrent", "1,2", "--rounds", "1", "--max-tokens", "4"]


@pytest.fixture
def bars() -> Iterator[None]:
    """The benchmark puts out everybody's progress bars, for good."""
    yield
    enable_progress_bar()


@pytest.mark.usefixtures("bars")
def test_the_benchmark_ends_with_one_json_document(capsys, monkeypatch):
    monkeypatch.setattr(plain, "fastest", lambda step, most: (step(), 7)[1])
    serve.main([*TINY, "--requests", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    points = [(p["concurrent"], p["steered"], p["replies"]) for p in report["points"]]
    assert points == [(1, False, 1), (1, True, 1), (2, False, 2), (2, True, 2)]
    for point in report["points"]:
        assert 0 < point["tokens"] <= 4 * point["replies"]
        assert point["ttft_ms"] > 0
        assert point["tokens_per_s"] > 0
    for n in "1", "2":
        assert report["steered_over_unsteered"][n]["tokens_per_s"]["median"] > 0
        assert report["steered_over_generate"][n]["tokens_per_s"]["median"] > 0
    assert report["threads"].keys() == {"server", "generate"}
    assert report["threads"]["generate"] == 7
    assert report["cached_prompt_tokens"] == 0
    assert report["ready_s"] > 0
    assert report["memory_gb_per_s"] > 0
    assert report["ceiling_tokens_per_s"] > 0


def stamped(*chunks):
    return [
        (float(i), f"data: {c if isinstance(c, str) else json.dumps(c)}")
        for i, c in enumerate(chunks)
    ]


def test_a_reply_is_timed_by_its_pieces_and_counted_by_its_usage():
    said = [{"choices": [{"delta": {"content": text}}]} for text in ("", "a", "bc")]
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    applied = {"choices": [], "steering": {"applied": [{}, {}]}}
    reply = parse(-1.0, stamped(applied, *said, usage, "[DONE]"))
    assert reply == Reply(-1.0, (2.0, 3.0), 3, 5, 2, "abc")
    assert (reply.first, reply.gaps) == (3.0, [1.0])


def test_ratios_to_generate_say_what_a_prefix_cache_did_for_them():
    details = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {}}
    details["prompt_tokens_details"]["cached_tokens"] = 4
    reply = parse(-1.0, stamped({"choices": [], "usage": details}, "[DONE]"))
    cached = Point(2, True, [Round(1.0, (reply, reply))]).cached
    assert cached == 8
    rates = {"steered_over_unsteered": {}, "generate": {"tokens_per_s": 1.0}}
    rates["steered_over_generate"] = {}
    for kept, flattered in ((cached, True), (0, False)):
        said = summary({**rates, "cached_prompt_tokens": kept})
        assert ("flatter the server: it had 8 prompt tokens" in said) == flattered


def test_a_servers_threads_are_those_that_it_tells_its_log(caplog, tmp_path):
    log, before = tmp_path / "server.log", torch.get_num_threads()
    log.write_text("")
    assert chosen(log) is None
    try:
        with caplog.at_level(logging.INFO, "steerdeck.engine"):
            found = threads.fastest(lambda: None, 2)
    finally:
        torch.set_num_threads(before)
    log.write_text(caplog.text)
    assert chosen(log) == found


async def test_a_reply_that_fails_is_not_one_that_was_admitted(make_engine, make_model):
    sizes = []

    def fail(_module, args):
        sizes.append(args[0].shape[1])
        if len(sizes) > 20 and sizes[-1] > 2:  # the two go on, and here comes the long one
            raise RuntimeError("no room for it")

    model = make_model()
    engine = make_engine(model=model, max_rows=3)
    model.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no room for it"):
        await admission.admit(engine, 2, 100)


@pytest.mark.parametrize(
    ("chunks", "why"),
    [
        ([{"choices": []}], "cut off"),
        ([{"error": {"message": "boom"}}], "boom"),
        (["[DONE]"], "without its usage"),
    ],
)
def test_a_reply_that_does_not_end_well_is_no_measurement(chunks, why):
    with pytest.raises(RuntimeError, match=why):
        parse(0.0, stamped(*chunks))


def test_ratios_are_taken_within_a_round():
    """A machine that turns four times slower half way changes no ratio."""
    assert ratio([80, 90, 20], [100, 100, 25]) == {"median": 0.8, "low": 0.8, "high": 0.9}


@pytest.mark.parametrize(("count", "place"), [(1, 1), (2, 2), (9, 9), (10, 9), (11, 10), (20, 18)])
def test_the_p90_is_a_value_that_nine_tenths_do_not_exceed(count, place):
    assert high(range(count, 0, -1)) == place


def test_a_rate_counts_the_tokens_of_all_replies():
    replies = tuple(Reply(0.0, (1.0,), 1, tokens, 0, "") for tokens in (3, 5))
    assert Point(2, False, [Round(4.0, replies)], [0.5]).row()["tokens_per_s"] == 2.0
    assert Point(2, False, [Round(4.0, replies)], [0.5]).row()["tokens_per_cpu_s"] == 16.0
