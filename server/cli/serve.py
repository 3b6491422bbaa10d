"""`steerdeck serve`, `ui` and `version`."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import fail

if TYPE_CHECKING:
    from ..deck import Deck
    from ..mount import Server
    from ..service import Report
    from ..settings import Settings


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
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the API without the page.")] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Serve other machines without an API key.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; default: as many cores as make it fastest.")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the layers for this CPU, in the background."
        ),
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="Replies made at the same time.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Replies in the queue.")] = None,
    max_context: Annotated[int | None, typer.Option(help="Tokens of prompt + reply.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where saved presets live.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A web origin that may call the API; repeatable.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Serve a model: the REST API at /v1 and the page at /.

    Every option is also a variable (STEERDECK_PORT=9000); API keys are only that:
    STEERDECK_API_KEYS=key1,key2.

    [bold]Examples[/bold]

      steerdeck serve

      steerdeck serve --model gpt2-small --port 9000

      steerdeck serve --model ./my-model --dictionary ./my-sae
    """
    settings = _settings(
        model=model,
        dictionary=tuple(dictionary) if dictionary else None,
        cards=tuple(cards) if cards else None,
        host=host,
        port=port,
        ui=False if no_ui else None,
        allow_open=allow_open or None,
        device=device,
        dtype=dtype,
        threads=threads,
        compile=compile,
        max_rows=max_rows,
        max_waiting=max_waiting,
        max_context=max_context,
        data_dir=data_dir,
        cors_origins=tuple(cors_origin) if cors_origin else None,
        log_format=log_format,
        log_level=log_level,
    )
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
    port: Annotated[int, typer.Option("--port", "-p", help="0 picks a free one.")] = 7860,
) -> None:
    """Serve the page alone, for a server elsewhere. Needs no torch.

    [bold]Example[/bold]

      steerdeck ui --url http://gpu-box:8000
    """
    sockets = [bind(host, port)]
    typer.echo("Starting the page …", err=True)
    asyncio.run(_serve_page(url, sockets, url_of(host, sockets[0].getsockname()[1])))


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
    from ..settings import read_settings, strangers

    try:
        settings = read_settings(**options)
    except ValueError as exc:
        fail(str(exc), 2)
    for sentence in strangers():
        typer.echo(f"steerdeck: {sentence}", err=True)
    return settings


async def _serve(settings: Settings, sockets: list[socket.socket], url: str) -> bool:
    """Until told to end; returns whether loading failed. Everything heavy is imported here, after
    the thread counts are set.
    """
    try:
        from .. import loading, logs, middleware, mount
        from ..app import create_app
        from ..errors import SteerdeckError
        from ..service import Service
    except ModuleNotFoundError as exc:
        fail(f"serving needs the package {exc.name}: pip install 'steerdeck[server,ui]'")
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
    await servers[0].serve(sockets=sockets)
    return servers[0].failed


async def _serve_page(api_url: str, sockets: list[socket.socket], url: str) -> None:
    try:
        from .. import logs, mount
        from ..errors import SteerdeckError
    except ModuleNotFoundError as exc:
        fail(f"the page needs the package {exc.name}: pip install 'steerdeck[ui]'")
    logs.set_up("text", "info", lambda: "-")
    try:
        app = mount.page_alone(api_url)
    except SteerdeckError as exc:
        fail(str(exc))
    typer.echo(f"The page is on {url}", err=True)
    await mount.make_server(app).serve(sockets=sockets)


def bind(host: str, port: int) -> socket.socket:
    """A listening address, or a sentence about why not.

    The protocol is named because asyncio turns Nagle's algorithm off only where it is: with it on,
    every reply but a connection's first would wait 40 ms for the caller's delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # from now on callers wait instead of being turned away
    except OSError as exc:
        listening.close()
        if exc.errno == errno.EADDRINUSE:
            fail(f"port {port} is taken by another program: choose another with --port, or 0")
        fail(f"cannot listen on {host}:{port}: {exc.strerror or exc}")
    return listening


def url_of(host: str, port: int) -> str:
    """Where this machine's browser finds a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    return f"http://{name}:{port}"


def set_threads(threads: int | None) -> None:
    """Before torch is imported. A waiting thread must sleep: spinning at every barrier makes a step
    ten times slower as soon as another process wants the core.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or physical_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def physical_cores() -> int:
    """Of those this process may use: hyper-threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    seen = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            seen.add(siblings.read_text().strip())
        except OSError:
            seen.add(str(cpu))
    return len(seen) or os.cpu_count() or 1


def _hint(settings: Settings, url: str) -> str:
    keyed = " -H 'authorization: Bearer YOUR_KEY'" if settings.keys else ""
    page = f"Open {url} in a browser, or try:\n" if settings.ui else "Try:\n"
    return f"{page}  curl{keyed} {url}/v1/models\n  steerdeck chat --url {url} 'Who are you?'"
