"""The page's own files, theme and mount options. Nothing here leaves the machine."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .doors import Doors

STYLES = ("style.css", "static/thread.css", "static/rack.css", "static/drawers.css")

# `unsafe-eval`: gr.HTML runs a widget's js_on_load through `new Function`. img-src keeps a reply
# that holds an image's address from fetching it.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)


@cache
def text(name: str) -> str:
    return files("ui").joinpath(name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """A widget's `js_on_load`: the shared helpers, then the named files, in one scope."""
    return "\n".join(text(f"static/{name}") for name in ("dom.js", *names))


def drawn(name: str, value: Any, template: str, *scripts: str) -> gr.HTML:
    """A widget, `#name` on the page: a static template, and scripts that draw the value into it."""
    return gr.HTML(
        value=value,
        elem_id=name,
        html_template=template,
        js_on_load=script(*scripts),
        apply_default_css=False,
    )


def theme() -> gr.themes.Base:
    """System fonts and neutral greys; style.css sets the colours."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.red,
        neutral_hue=gr.themes.colors.stone,
        font=["sans-serif"],
        font_mono=["monospace"],
    )


def mount_options() -> dict[str, Any]:
    """Keyword arguments for `gradio.mount_gradio_app(app, page, path="/", **mount_options())`.

    Holds theme, head (styles and the page's script), favicon_path and the switches that keep the
    page quiet: no footer links, no run history (slow, and it keeps chats in the browser), no
    server-side rendering, no error texts from Python in the browser, and none of Gradio's routes
    that the page does not use. The app that mounts the page should send `Content-Security-Policy:
    CONTENT_SECURITY_POLICY` with it.
    """
    # Not through `css=`: Gradio would put its container before every selector, and a rule that
    # hangs on a class of <body> would lose to one that does not.
    css = "\n".join(text(name) for name in STYLES)
    return {
        "theme": theme(),
        "head": f"<style>{css}</style><script>{text('static/page.js')}</script>",
        "favicon_path": str(files("ui").joinpath("static/favicon.png")),
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "show_error": False,
        "app_kwargs": {"middleware": [Middleware(Doors)]},
    }
