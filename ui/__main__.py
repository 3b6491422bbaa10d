"""`python -m ui --url http://127.0.0.1:8000 --port 7860`: the page alone."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def main(
    url: Annotated[
        str, typer.Option(help="The service the page talks to.")
    ] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Where the page listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The page's port.", min=1, max=65535)] = 7860,
) -> None:
    """Serve the browser page for a Steerdeck service that runs elsewhere."""
    from .alone import serve  # importing gradio takes seconds: --help should not wait for it

    typer.echo(f"Steerdeck's page for {url}: http://{host}:{port}")
    asyncio.run(serve(url, host, port))


if __name__ == "__main__":
    typer.run(main)
