"""Links restore racks; exported code runs."""

from __future__ import annotations

import ast
import json
import random
import shlex
from typing import Any
from urllib.parse import parse_qs

import pytest

from ui import chat, rack, share
from ui.errors import LinkError
from ui.rack import Entry
from ui.session import Session
from ui.settings import Settings
from ui.timing import ALWAYS, Condition, Timing, Window

HARD = 'it\'s "quoted" $HOME `id` \\ \n{{x}} ${y} 橋 </script>'
BODY: dict[str, Any] = {
    "model": "foghorn",
    "messages": [{"role": "system", "content": HARD}, {"role": "user", "content": "Who are you?"}],
    "temperature": 0.7,
    "steering": {"edits": [{"feature": "foghorn/12", "op": "clamp", "strength": 2.5}]},
}


TIMES = (
    ALWAYS,
    Timing(window=Window(first=2, last=30), decay=12.5),
    Timing(when=Condition(feature="a b:c,d/7&é", value=-1.5, latch=True), thinking="only"),
    Timing(abort=(Condition(feature=3, op="below", value=2, unit="raw"),)),
)


def drawn(seed: int) -> list[Entry]:
    """A rack of any size with any settings; references may hold what links are made of."""
    rng = random.Random(seed)
    return [
        Entry(
            feature="".join(rng.choices("az09._- ,:+&=%/é", k=12)) + f"/{i}",
            op=rng.choice(rack.OPS),
            strength=rng.randint(-80, 80) / 8,
            unit=rng.choice(["max", "raw"]),
            where=rng.choice(["all", "prompt", "generated"]),
            on=rng.random() < 0.5,
            timing=rng.choice(TIMES),
        )
        for i in range(rng.randint(0, rack.MOST))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_link_carries_every_setting_of_a_rack(seed: int) -> None:
    held = drawn(seed)
    query = parse_qs(share.encode(tuple(held), keep_norm=True), strict_parsing=bool(held))
    edits = share.decode(query.get("steer", [""])[0])
    fields = ("feature", "op", "strength", "unit", "where", "on")
    assert edits == [
        {name: getattr(entry, name) for name in fields} | entry.timing.wire() for entry in held
    ]
    assert (query.get("norm") == ["keep"]) == bool(held)


def test_no_two_ops_share_a_letter() -> None:
    assert set(share.LETTERS) == set(rack.OPS)
    assert len(share.OPS) == len(rack.OPS)


def test_a_link_holds_no_label_and_an_empty_rack_needs_none() -> None:
    held = (Entry(feature="foghorn/12", label="<b>secret</b>", strength=2.5),)
    assert share.encode(held, keep_norm=False) == "steer=foghorn/12:c:2.5"
    assert share.encode((), keep_norm=True) == ""


@pytest.mark.parametrize(
    "steer",
    [
        "foghorn/12",
        "a:c",
        "a:zz:1",
        ":c:1",
        "a:c:nan",
        "a:c:inf",
        "a:c:1e9",
        "a:c:x",
        "a:c:1:r:9",
        "a:c:1::{}:",
    ],
)
def test_a_link_that_makes_no_sense_is_refused_with_a_sentence(steer: str) -> None:
    with pytest.raises(LinkError, match=r"^The link.*\.$"):
        share.decode(steer)


def test_a_link_with_too_many_features_is_refused() -> None:
    with pytest.raises(LinkError, match="17 features; at most 16"):
        share.decode(",".join(f"a/{i}:c:1" for i in range(17)))


def test_the_shell_sends_exactly_the_body() -> None:
    words = shlex.split(share.curl("http://127.0.0.1:8000", BODY, key=True).replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert json.loads(words[words.index("-d") + 1]) == BODY
    assert "Authorization: Bearer $STEERDECK_API_KEY" in words


def test_the_python_program_compiles_and_asks_exactly_the_body() -> None:
    program = share.python("http://127.0.0.1:8000", BODY, key=False)
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    create = next(call for call in calls if ast.unparse(call.func).endswith("completions.create"))
    sent = {str(word.arg): ast.literal_eval(word.value) for word in create.keywords}
    extra = sent.pop("extra_body")
    assert sent.pop("stream") is True
    assert sent | extra == BODY


def test_the_python_program_asks_for_the_model_where_none_is_known_yet() -> None:
    unnamed = {name: value for name, value in BODY.items() if name != "model"}
    program = share.python("http://h", unnamed, key=False)
    compile(program, "export", "exec")
    assert "model=client.models.list().data[0].id," in program
    assert chat.request(Session(), [], (), Settings(), None).keys() == {
        "messages",
        "max_completion_tokens",
    }


def test_the_python_program_takes_a_key_from_the_environment_where_one_is_needed() -> None:
    program = share.python("http://h", BODY, key=True)
    compile(program, "export", "exec")
    assert 'os.environ["STEERDECK_API_KEY"]' in program
    assert "\nimport os\n" in program
