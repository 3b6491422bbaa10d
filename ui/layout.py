"""Where everything stands on the page; nothing happens here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import card, presets, rack, search, settings, status
from .assets import drawn
from .session import Session

# Fixed, or a restart of the server would forget what a browser keeps. It hides the key from a
# glance at the browser's storage, no more: who can read that storage can read this file.
STORAGE, SECRET = "steerdeck", "steerdeck-browser-state"
TOASTS = '<div class="sd-toasts"><div role="status"></div></div>'


@dataclass(frozen=True)
class Parts:
    """The components that handlers read and write. `session` and `stored` are not drawn."""

    session: Any
    stored: Any
    timer: Any
    toast: Any
    top: Any
    thread: Any
    prompt: Any
    send: Any
    stop: Any
    compare: Any
    sweep: Any
    alone: Any
    search: Any
    rack: Any
    gallery: Any
    export: Any
    card: Any
    settings: Any


def build() -> Parts:
    """All components, in the caller's gr.Blocks."""
    parts: dict[str, Any] = {
        # An instance: each tab gets a copy. A callable would be called again by the page's load.
        "session": gr.State(Session()),
        "stored": gr.BrowserState({"key": ""}, storage_key=STORAGE, secret=SECRET),
        "timer": gr.Timer(status.AGAIN, active=False),
        "toast": drawn("toasts", {}, TOASTS, "toast.js"),
        "top": status.widget(),
    }
    with gr.Row(elem_id="deck"):
        with gr.Column(elem_id="stage"):
            parts |= _stage()
        with gr.Column(elem_id="drawer-rack"):
            _heading("Rack", "Close the rack")
            parts |= {"search": search.widget(), "rack": rack.widget()}
    with gr.Column(elem_id="drawer-presets", elem_classes="sd-drawer"):
        _heading("Presets", "Close presets")
        parts["gallery"] = presets.widget()
    with gr.Column(elem_id="drawer-export", elem_classes="sd-drawer"):
        _heading("Take it with you", "Close export")
        parts["export"] = drawn("export", {}, '<div class="sd-export"></div>', "export.js")
    with gr.Column(elem_id="drawer-settings", elem_classes="sd-drawer"):
        _heading("Settings", "Close settings")
        parts["settings"] = settings.widget()
    with gr.Column(elem_id="drawer-card", elem_classes="sd-drawer"):
        parts["card"] = card.widget()
    gr.HTML('<div class="sd-shade"></div>', elem_id="shade", js_on_load=None)
    return Parts(**parts)


def _stage() -> dict[str, Any]:
    template = (
        '<div class="sd-thread" role="log" aria-live="off" aria-label="Conversation"'
        ' tabindex="0"></div><p class="sd-told" role="status"></p>'
    )
    scripts = "markdown.js", "strip.js", "reply.js", "home.js", "message.js", "save.js", "thread.js"
    thread = drawn("thread", "", template, *scripts)
    with gr.Column(elem_id="composer"):
        with gr.Row(elem_id="ask"):
            prompt = gr.Textbox(
                label="Message",
                show_label=False,
                placeholder="Say something…",
                lines=1,
                max_lines=6,
                container=False,
                elem_id="prompt",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
            )
            send = gr.Button("Send", elem_id="send")
            stop = gr.Button("Stop", elem_id="stop")
        with gr.Row(elem_id="under"):
            compare = gr.Checkbox(
                label="Compare with unsteered", container=False, elem_id="compare"
            )
            sweep = gr.Checkbox(label="Sweep the strength", container=False, elem_id="sweep")
            alone = gr.Checkbox(label="Each feature alone", container=False, elem_id="alone")
            # Read by the rack's script alone: its `follow` event is not sent where this is off.
            gr.Checkbox(label="Answer again as I steer", container=False, elem_id="follow")
            gr.HTML(
                '<button type="button" class="sd-open-rack" data-open="rack" aria-expanded="false">'
                'Rack<b class="sd-rack-count"></b></button>',
                js_on_load=None,
                apply_default_css=False,
                elem_id="open-rack",
            )
    return {
        "thread": thread,
        "prompt": prompt,
        "send": send,
        "stop": stop,
        "compare": compare,
        "sweep": sweep,
        "alone": alone,
    }


def _heading(title: str, close: str) -> None:
    gr.HTML(
        f'<div class="sd-heading"><h2>{title}</h2>'
        f'<button type="button" class="sd-close" data-close aria-label="{close}">×</button></div>',
        js_on_load=None,
        apply_default_css=False,
    )
