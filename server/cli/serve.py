"""`steerdeck serve`, `ui` and `version`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail, say
from .machine import bind, end_at_once, set_threads, unix_only, url_of

if TYPE_CHECKING:
    from ..deck import Deck
    from ..mount import Server
    from ..service import Report
    from ..settings import Settings

INTERRUPTED = 130  # the exit status of what Ctrl-C ended


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A name of the catalog (default: foghorn), a folder, or org/name."
        ),
    ] = None,
    dictionary: Annotated[
        list[str] | None,
        typer.Option(
            "--dictionary", "-d", help="An SAE folder, Hub name or name of the catalog; repeatable."
        ),
    ] = None,
    cards: Annotated[
        list[Path] | None,
        typer.Option(help="A cards.sqlite for each dictionary, in order; default: beside it."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="Default: 8000; 0 picks a free one.")
    ] = None,
    ui: Annotated[
        bool | None, typer.Option(" /--no-ui", help="Serve the API without the page.")
    ] = None,
    allow_open: Annotated[
        bool | None, typer.Option("--allow-open", help="Serve other machines without an API key.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu, cuda, mps.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto (default), float32, bfloat16, float16, int8.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; default: as many cores as make it fastest.")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the layers for this CPU, in the background."
        ),
    ] = None,
    graphs: Annotated[
        bool | None,
        typer.Option("--graphs/--no-graphs", help="CUDA graphs on an NVIDIA GPU; default: yes."),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(help="Replies made at the same time; default: 32.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(help="Replies in the queue; default: 64.")
    ] = None,
    max_context: Annotated[
        int | None,
        typer.Option(help="Tokens of prompt + reply; default: the model's, at most 4096."),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Path that a proxy serves this under, such as /steer.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where saved presets live; default: ~/.steerdeck.")
    ] = None,
    cors_origins: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", help="A web origin that may call the API; repeatable."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text (default) or json.")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info (default), warning, error.")
    ] = None,
) -> None:
    """Serve a model: the REST API at /v1 and the page at /.

    Every option is also a variable (STEERDECK_PORT=9000); API keys are only that:
    STEERDECK_API_KEYS=key1,key2.

    [bold]Examples[/bold]

      steerdeck serve

      steerdeck serve --model gpt2-small-jb --port 9000

      steerdeck serve --model ./my-model --dictionary ./my-sae
    """
    unix_only()
    settings = _settings(**locals())  # every option bears the name of its setting
    if settings.too_open:
        fail(settings.too_open)
    sockets = [bind(settings.host, settings.port)]
    port = sockets[0].getsockname()[1]
    set_threads(settings.threads)
    typer.echo(f"Starting {settings.model} on {url_of(settings.host, port)} …", err=True)
    if asyncio.run(_serve(settings, sockets, url_of(settings.host, port))):
        raise typer.Exit(1)


def ui(
    url: Annotated[
        str, typer.Option(envvar="STEERDECK_URL", help="The server the page speaks to.")
    ] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="0 picks a free one.")
    ] = 7860,
    allow_open: Annotated[
        bool,
        typer.Option("--allow-open", help="Serve other machines, for the page has no login."),
    ] = False,
) -> None:
    """Serve the page alone, for a server elsewhere. Needs no torch.

    [bold]Example[/bold]

      steerdeck ui --url http://gpu-box:8000
    """
    settings = _checked(  # it saves nothing, and may be run by a user without a home
        host=host, port=port, allow_open=allow_open or None, data_dir=Path()
    )
    if not (settings.loopback or settings.allow_open):
        fail(
            f"{host} is reachable from other machines, and who reaches the page steers {url} by it "
            "where that asks for no key: say --allow-open (STEERDECK_ALLOW_OPEN=true) to serve "
            "anyone, or listen on 127.0.0.1"
        )
    sockets = [bind(host, port)]
    typer.echo("Starting the page …", err=True)
    asyncio.run(_serve_page(url, settings, sockets))


def version() -> None:
    """Say which versions are installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    for name in ("steerdeck", "torch", "transformers", "fastapi", "gradio"):
        try:
            typer.echo(f"{name} {installed(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} not installed")
    typer.echo(f"python {sys.version.split()[0]}")


def _settings(**options: object) -> Settings:
    from ..settings import strangers

    settings = _checked(**options)
    for sentence in strangers():
        say(sentence)
    return settings


def _checked(**options: object) -> Settings:
    from ..settings import read_settings

    try:
        return read_settings(**options)
    except ValueError as exc:
        fail(str(exc), 2)


async def _serve(settings: Settings, sockets: list[socket.socket], url: str) -> bool:
    """Until told to end; returns whether loading failed. Everything heavy is imported here, after
    the thread counts are set.
    """
    end_at_once()
    try:
        from .. import loading, logs, middleware, mount
        from ..app import create_app
        from ..errors import SteerdeckError
        from ..service import Service
    except ModuleNotFoundError as exc:
        fail(f"serving needs the package {exc.name}: pip install '.[server,ui]' in a clone")
    from .progress import shown

    logs.set_up(settings.log_format, settings.log_level, middleware.request_id.get)

    def loader(report: Report) -> Deck:
        with shown(report, settings.log_format) as both:
            return loading.load(settings, both)

    try:
        page = mount.build_page(url) if settings.ui else None
    except SteerdeckError as exc:
        fail(str(exc))
    service = Service(settings.model, loader)
    servers: list[Server] = []
    app = create_app(service, settings, page=page, on_failure=lambda: servers[0].give_up())
    servers.append(mount.make_server(app, service))
    typer.echo(_hint(settings, url), err=True)
    try:
        await servers[0].serve(sockets=sockets)
    finally:
        if service.loading:  # maybe in a pool of threads, which Python would wait for at exit
            os._exit(INTERRUPTED)
    return servers[0].failed


async def _serve_page(api_url: str, settings: Settings, sockets: list[socket.socket]) -> None:
    end_at_once()
    try:
        from .. import logs, mount
        from ..errors import SteerdeckError
    except ModuleNotFoundError as exc:
        fail(f"the page needs the package {exc.name}: pip install '.[ui]' in a clone")
    logs.set_up("text", "info", lambda: "-")
    try:
        app = mount.page_alone(api_url, settings)
    except SteerdeckError as exc:
        fail(str(exc))
    url = url_of(settings.host, sockets[0].getsockname()[1])
    typer.echo(f"The page is on {url}", err=True)
    await mount.make_server(app).serve(sockets=sockets)


def _hint(settings: Settings, url: str) -> str:
    keyed = " -H 'authorization: Bearer YOUR_KEY'" if settings.keys else ""
    page = f"Open {url} in a browser, or try:\n" if settings.ui else "Try:\n"
    key = "STEERDECK_API_KEY=YOUR_KEY " if settings.keys else ""
    return f"{page}  curl{keyed} {url}/v1/models\n  {key}steerdeck chat --url {url} 'Who are you?'"
