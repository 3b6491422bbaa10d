"""The page: its parts joined to the handlers.

build_page(api_url) -> gr.Blocks          must be called inside a running event loop
add_page(app, page, root)                 serve it at `/` of a FastAPI app
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from . import layout
from .assets import mount_options
from .client import CONNECTIONS, Api, http_client, loopback
from .racking import Racking
from .settings import RESTORED
from .tabs import Tabs

HERE = "http://{this-page}"  # export.js puts the page's own address in its place
# The message is on its way: message.js empties the field, which may be typed in again at once.
SENT = """(text, ...rest) => {
    document.dispatchEvent(new CustomEvent("steerdeck:sent", { detail: text }));
    return [text, ...rest];
}"""
TABS = 500  # whose conversations are kept: Gradio frees none of a closed tab, and keeps 10 000


class Handlers(Racking):
    """Everything that happens on the page."""


def build_page(api_url: str, *, beside: bool = False) -> gr.Blocks:
    """The page for the service at `api_url`, as its server reaches it.

    Call it inside a running event loop (gr.Blocks wants one). beside: the service answers where the
    page does, so exported requests name the address the reader has it at, and api_url otherwise.
    Elsewhere it is asked by the environment's proxy: see `client.http_client`, and what it raises.
    """
    http = http_client(by_proxy=not (beside or loopback(api_url)))
    api = Api(api_url.rstrip("/"), http=http)
    with gr.Blocks(title="Steerdeck", analytics_enabled=False, fill_width=True) as page:
        parts = layout.build()
        _join(page, parts, Handlers(api, parts, HERE if beside else api_url))
    page.state_session_capacity = TABS
    # The engine alone decides how many replies run at once; a limit here would be a second queue.
    page.queue(default_concurrency_limit=None, api_open=False)
    page._queue.max_thread_count = CONNECTIONS  # Gradio's limit of all events together: 40
    return page


def add_page(app: FastAPI, page: gr.Blocks, root: str = "") -> None:
    """Serve it at `/`, after every route that is there already. root: the path before it, that the
    reader's browser knows, such as /steer.
    """
    gr.mount_gradio_app(app, page, path="/", root_path=root or None, **mount_options())
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    assert isinstance(mounted.app, gr.routes.App)
    mounted.app.state_holder = Tabs()
    mounted.app.state_holder.set_blocks(page)


def _join(page: gr.Blocks, p: layout.Parts, do: Handlers) -> None:
    """Only what streams goes through Gradio's queue: an event that is queued just as the browser
    closes its stream waits there for the next one. The rest is one request and its answer.
    """
    streams: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    once = {"queue": False, **streams}
    last = {"trigger_mode": "always_last", **once}
    steer = [p.session, p.rack, p.settings]
    tab = [p.session, p.stored, p.settings]
    seen = [p.toast, p.top, p.thread, p.gallery, p.timer, p.rack, p.settings]

    page.load(do.arrive, tab, seen, js=RESTORED, **once)
    p.timer.tick(do.look_again, tab, seen, **once)
    p.settings.unlock(do.use_key, [p.session, p.settings], [p.stored, *seen], **once)

    talk = [*steer, p.compare, p.sweep, p.stored, p.alone]
    ways = [p.compare, p.sweep, p.alone]  # one at a time: each has the unsteered reply beside it
    for way in ways:
        others = [other for other in ways if other is not way]
        way.input(None, None, others, js="() => [false, false]", api_visibility="private")
    heard = {"trigger_mode": "multiple", **streams}  # or Enter is dropped unsaid until a reply ends
    gr.on([p.prompt.submit, p.send.click], do.ask, [p.prompt, *talk], seen, js=SENT, **heard)
    p.thread.ask(do.show, talk, seen, **streams)
    p.thread.again(do.again, talk, seen, **streams)
    p.rack.follow(do.again, talk, seen, **heard)  # the one before may not be quite over
    p.thread.edit(do.edit, [p.session], [p.thread], **once)
    p.thread.whole(do.whole, [p.session], [p.thread], **once)
    p.stop.click(do.stop, [p.session], None, **once)
    p.top.fresh(do.fresh, [p.session], [p.thread], **once)
    gr.on([p.rack.change, p.settings.change], do.retune, steer, [p.toast], **last)
    code = [p.export, p.toast]
    gr.on([p.rack.change, p.settings.change], do.link, steer, code, **last)
    p.export.wanted(do.export, [*steer, p.prompt], code, **last)

    # A widget's own events cannot share a gr.on: Gradio makes them on the fly.
    # Not always_last: that would send the event data of the first query again for the last one.
    each = {"trigger_mode": "multiple", **once}
    p.search.query(do.find, tab, [p.search, *seen], **each)
    for take in (p.search.pick, p.card.take):
        take(do.add, [*tab, p.rack], seen, **once)
    for look in (p.search.look, p.rack.look, p.card.look):
        look(do.details, tab, [p.card, *seen], **each)
    p.card.near(do.near, tab, [p.card, *seen], **each)
    for choose in (p.gallery.choose, p.thread.choose):
        choose(do.load, tab, seen, **once)
    p.gallery.keep(do.save, [*tab, p.rack], seen, **once)
    p.gallery.drop(do.remove, tab, seen, **once)
