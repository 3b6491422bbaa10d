"""How the page draws a conversation: Markdown, chips, and a log that comes in parts.

The thread stands alone on an empty page, without Gradio and without a service.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ui_browser
from ui_service import parts

from ui import assets
from ui.rack import Entry
from ui.transcript import Transcript

blank, mounted = ui_browser.blank, ui_browser.mounted  # fixtures
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]

DRAWN = """([script, text, offsets]) => {
    const mark = () => Object.assign(document.createElement("mark"), { textContent: "|" });
    const nodes = new Function(script + "; return markdown;")()(text, offsets, mark);
    const root = document.createElement("div");
    root.append(...nodes);
    root.querySelectorAll("[dir]").forEach((node) => node.removeAttribute("dir"));
    return root.innerHTML;
}"""


@pytest.fixture
def thread(mounted: Callable[..., Any]) -> Any:
    """The page with an empty conversation on it."""
    return mounted(parts().thread, "")


@pytest.mark.parametrize(
    ("text", "offsets", "html"),
    [
        (
            "```py\nf(*a, **b)  # `x`\n\n- 2**3**2\n```\nend",
            [],
            "<pre><code>f(*a, **b)  # `x`\n\n- 2**3**2</code></pre><p>end</p>",
        ),
        ("a\n```\nx\n```\nb", [2], "<p>a</p><pre><code><mark>|</mark>x</code></pre><p>b</p>"),
        ("```\nx\n```\nb", [6], "<pre><code>x<mark>|</mark></code></pre><p>b</p>"),
        ("`a*b`", [2], "<p><code>a<mark>|</mark>*b</code></p>"),
        ("2*3*4 = a*b*c", [], "<p>2*3*4 = a*b*c</p>"),
        ("*so* **it is**, **x*", [], "<p><em>so</em> <strong>it is</strong>, **x*</p>"),
        ("- a\n- b", [4], "<ul><li>a</li><li><mark>|</mark>b</li></ul>"),
        ("# T\nx", [0], "<h4><mark>|</mark>T</h4><p>x</p>"),
        ("So:\n- a\n- b\nEnd", [], "<p>So:</p><ul><li>a</li><li>b</li></ul><p>End</p>"),
        (
            "1. a\n   - b\n2. c\n   d",
            [],
            '<ol start="1"><li>a<ul><li>b</li></ul></li><li>c<br>d</li></ol>',
        ),
        ("It was\n2024. Yes", [], "<p>It was<br>2024. Yes</p>"),
        ("a\n\n", [3], "<p>a</p><p><mark>|</mark></p>"),
    ],
)
def test_no_character_of_a_reply_is_lost_and_code_stays_as_it_was_written(
    blank: Any, text: str, offsets: list[int], html: str
) -> None:
    script = assets.script("markdown.js")
    assert blank.evaluate(DRAWN, [script, text, offsets]) == html


def talked(*texts: str, label: str = "sea") -> Transcript:
    """A conversation of these questions, each with a finished reply of a steered model."""
    talk = Transcript()
    acting = (Entry(feature="a/1", label=label), Entry(feature="a/2", label="ships"))
    for text in texts:
        reply = talk.reply(talk.ask(text), "steered", acting, pair=False)
        talk.grow(reply, f"So you say: {text}", [], 4)
        talk.end(reply, "stop", 1.0)
    return talk


def show(page: Any, log: str) -> list[str]:
    """The questions that stand in the conversation once the page has got this log."""
    page.evaluate("log => thread.show(log)", log)
    return list(page.locator(".sd-user").all_inner_texts())


def test_a_label_of_a_sentence_makes_no_balloon_of_its_chip(thread: Any) -> None:
    show(thread, talked("Hello", label="words about bridges " * 12).log())
    heights = [chip.bounding_box()["height"] for chip in thread.locator(".sd-chip").all()]
    assert len(heights) == 2
    assert max(heights) < 30


def test_a_log_that_comes_in_parts_is_the_same_conversation(thread: Any) -> None:
    talk = talked("one", "two")
    assert show(thread, talk.log()) == ["one", "two"]
    thread.locator(".sd-exchange").first.evaluate("node => node.dataset.kept = 'yes'")
    thread.locator(".sd-again").last.focus()
    talk.take_back()
    talk.end(talk.reply(talk.ask("two!"), "steered", (), pair=False), "stop", 1.0)
    assert show(thread, talk.latest()) == ["one", "two!"]
    assert thread.locator("[data-kept]").count() == 1  # no turn before it is drawn anew
    assert thread.evaluate("document.activeElement.dataset.reply") == "3"
    talk.ask("three")
    missed = talk.latest()
    talk.ask("four")
    assert show(thread, talk.latest()) == ["one", "two!"]
    assert thread.evaluate("thread.sent") == [["whole", {}]]
    assert show(thread, talk.log()) == ["one", "two!", "three", "four"]
    assert json.loads(missed.split("\n")[0])["from"] > 0
    talk.clear()
    assert show(thread, talk.log()) == []
    assert show(thread, missed) == []


def test_an_answer_that_comes_late_takes_no_line_back(thread: Any) -> None:
    """One that is no stream may be overtaken by the last frame of a reply: no other follows."""
    talk = Transcript()
    late = [talk.log()]
    reply = talk.reply(talk.ask("one"), "steered", (), pair=False)
    late.append(talk.log())
    talk.grow(reply, "Yes.", [], 1)
    talk.end(reply, "stop", 1.0)
    show(thread, talk.latest())
    for log in late:
        assert show(thread, log) == ["one"]
        assert thread.locator(".sd-body").all_inner_texts() == ["Yes."]
        assert not thread.evaluate("document.body.classList.contains('sd-busy')")


def test_the_last_question_goes_back_into_the_field_where_that_is_free(thread: Any) -> None:
    field = '<div id="prompt"><textarea></textarea></div>'
    thread.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", field)
    talk = talked("one", "two")
    show(thread, talk.log())
    edit = thread.get_by_role("button", name="Edit")
    assert edit.count() == 1
    thread.locator("#prompt textarea").fill("typed")
    edit.press("Enter")  # the field lies over it here
    assert thread.evaluate("thread.sent") == []
    thread.locator("#prompt textarea").fill("")
    edit.press("Enter")
    assert thread.locator("#prompt textarea").input_value() == "two"
    assert thread.evaluate("thread.sent") == [["edit", {}]]
    late = talk.log()
    talk.shorten()
    assert show(thread, talk.log()) == ["one"]
    assert show(thread, late) == ["one"]
    talk.shorten()
    assert show(thread, talk.log()) == []


def test_a_conversation_is_saved_with_its_seeds_and_receipts(thread: Any, tmp_path: Path) -> None:
    talk = talked("one")
    turn = talk.ask("two")
    turn.seed = 7
    for lane in ("steered", "plain"):
        reply = talk.reply(turn, lane, (), pair=True)
        talk.grow(reply, f"{lane} ", [], 1)
        talk.grow(reply, "reply", [], 1)
        talk.end(reply, "stop", 1.0, receipt=json.dumps({"seed": 7, "lane": lane}))
    talk.home = {"model": "foghorn"}
    show(thread, talk.log())
    with thread.expect_download() as saving:
        thread.evaluate("document.dispatchEvent(new CustomEvent('steerdeck:save'))")
    saving.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["model"] == "foghorn"
    *before, steered, plain = saved["messages"]
    assert [(m["role"], m["content"]) for m in before] == [
        ("user", "one"),
        ("assistant", "So you say: one"),
        ("user", "two"),
    ]
    for told, lane in ((steered, "steered"), (plain, "plain")):
        assert told == {
            "role": "assistant",
            "content": f"{lane} reply",
            "lane": lane,
            "seed": 7,
            "reason": "stop",
            "receipt": {"seed": 7, "lane": lane},
        }


def test_a_receipt_is_copied_once_it_is_looked_at(thread: Any) -> None:
    talk = Transcript()
    reply = talk.reply(talk.ask("one"), "steered", (), pair=False)
    talk.end(reply, "stop", 1.0, receipt='{"seed": 7}')
    show(thread, talk.log())
    copying = "document.execCommand = () => (window.held = document.activeElement.value, true)"
    thread.evaluate(copying)
    take = thread.get_by_role("button", name="Copy receipt")
    assert take.count() == 0
    thread.get_by_role("button", name="Receipt").press("Enter")
    take.press("Enter")
    assert thread.evaluate("window.held") == '{"seed": 7}'


def test_each_text_runs_in_the_direction_of_its_script(thread: Any) -> None:
    show(thread, talked("مرحبا؟").log())
    directions = [
        thread.locator(place).first.evaluate("node => getComputedStyle(node).direction")
        for place in (".sd-user", ".sd-body p")
    ]
    assert directions == ["rtl", "ltr"]
