"""Documentation: what the code has, server/README.md names, and so do the API's own pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from server import errors
from server.cli import app
from server.engine.types import FinishReason, Where
from server.metrics import Metrics
from server.schemas import base, messages, requests, steering
from server.settings import PREFIX, Settings

README = (Path(__file__).resolve().parents[1] / "server" / "README.md").read_text("utf-8")


def subclasses(kind):
    return {kind, *(sub for direct in kind.__subclasses__() for sub in subclasses(direct))}


def told(word):
    return f"`{word}`" in README


FIELDS = sorted(
    {
        name
        for model in (
            *subclasses(base.Wire),
            *subclasses(requests.SamplingFields),
            messages.Message,
            messages.TextPart,
        )
        for name in model.model_fields
    }
)
REFUSALS = sorted(
    {
        (kind.status, kind.code)
        for kind in subclasses(errors.SteerdeckError)
        if kind.__module__ == errors.__name__
    }
)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_request_is_told(field):
    assert told(field)


@pytest.mark.parametrize("op", [*steering.Op])
def test_every_op_is_told(op):
    assert told(op)


@pytest.mark.parametrize("where", [*Where])
def test_every_place_to_steer_is_told(where):
    assert f'`"{where}"`' in README


@pytest.mark.parametrize("reason", [*FinishReason])
def test_every_finish_is_told(reason):
    assert told(reason)


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_every_error_is_a_row_of_the_table(status, code):
    assert f"| {status} | `{code}` |" in README


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_a_row_of_the_table(name):
    (row,) = re.findall(rf"^\| `{PREFIX}{name.upper()}` \|(.*?)\|", README, re.M)
    default = Settings.model_fields[name].default
    if isinstance(default, str | int) and not isinstance(default, bool):
        assert f"`{default}`" in row if default else not row.strip()


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_every_command_is_told(name):
    assert f"steerdeck {name}" in README
    for part in getattr(get_command(app).commands[name], "commands", ()):
        assert re.search(rf"`(steerdeck )?({name} )?{part}\b", README), part


def test_every_metric_is_told():
    text = Metrics().page(None).decode()
    names = set(re.findall(r"^# TYPE (steerdeck_\w+?)(?:_created)? ", text, re.M))
    assert len(names) >= 14
    assert not [name for name in names if name not in README]


def test_every_route_is_told(live):
    paths = live.http.get("/openapi.json").json()["paths"]
    assert len(paths) >= 13
    assert not [path for path in paths if path not in README]


def test_every_body_that_the_reference_fills_in_is_answered(live):
    told = live.http.get("/openapi.json").json()
    tried = set()
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            if not name:
                continue
            (body,) = told["components"]["schemas"][name.rsplit("/", 1)[1]]["examples"]
            tried.add(method)
            if method == "patch":  # of a reply that streams
                body, path = {"prompt": "a", "steering": body}, "/v1/completions"
            short = {} if "/features/" in path else {"max_tokens": 2}
            answer = live.http.post(path, json={**short, **body})
            assert answer.status_code == 200, answer.text
    assert tried == {"post", "patch"}


def test_every_field_of_a_receipt_is_told(live):
    receipt = live.chat(steering={"preset": "loud"})["steering"]["receipt"]
    assert not [name for name in receipt if not told(name)]
    assert not [name for name in receipt["edits"][0] if not told(name)]


def test_no_error_or_setting_is_told_that_is_not_there():
    rows = {(int(s), c) for s, c in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", README, re.M)}
    assert rows == set(REFUSALS)
    variables = {name.lower() for name in re.findall(rf"^\| `{PREFIX}(\w+)`", README, re.M)}
    assert variables == set(Settings.model_fields)


class TestDocuments:
    def test_the_api_page_needs_nothing_from_elsewhere(self, live):
        page = live.http.get("/docs")
        assert page.status_code == 200
        sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(sources) >= 3
        for source in sources:
            assert source.startswith("/docs/static/")
            assert live.http.get(source).status_code == 200
        assert "http" not in re.sub(r"https?://localhost", "", page.text)

    def test_the_schema_describes_request_reply_and_refusal(self, live):
        schema = live.http.get("/openapi.json").json()
        chat = schema["paths"]["/v1/chat/completions"]["post"]
        assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "429" in chat["responses"]
        assert "422" not in str(sorted(chat["responses"]))
        models = schema["components"]["schemas"]
        for name in (
            "ChatRequest",
            "ChatCompletion",
            "WireSteering",
            "FeatureDetail",
            "ErrorReply",
        ):
            assert name in models
        for field in ("edits", "preset", "norm", "trace", "id", "timeline"):
            assert models["WireSteering"]["properties"][field]["description"]

    @pytest.mark.parametrize(
        "path", ["/v1/models", "/v1/features", "/v1/features/{ref}", "/v1/presets/{name}"]
    )
    def test_every_route_is_in_it(self, live, path):
        assert path in live.http.get("/openapi.json").json()["paths"]
