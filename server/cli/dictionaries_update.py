"""`steerdeck dictionaries update`: moves on from the commit that a name is kept at."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .common import fail
from .make_options import making


def update(
    name: Annotated[
        str, typer.Argument(help="org/repo on the Hub, of a model too, or a catalog name.")
    ],
) -> None:
    """Have a name that says no commit stand for what the Hub has now.

    Such a name is kept at the commit of its first download, so that a server started again is what
    it was. After this the next start downloads what has changed, and keeps that. To follow a branch
    at every start, name it: org/repo@main/sub/folder.

    [bold]Examples[/bold]

      steerdeck dictionaries update qwen3-8b

      steerdeck dictionaries update org/repo
    """
    with making():
        from dictionaries.asked import asked, paired
        from dictionaries.hub import placed
        from dictionaries.hub_pins import newest, unpin

        want = paired(asked(name))[0].name
        if os.path.exists(os.path.expanduser(want)):
            fail(f"{want} lies here: only what comes from the Hub is kept at a commit")
        place = placed(want, "dictionary")
        repo, was = place.repo, place.revision
        if not place.kept:
            fail(f"{name} says which commit or branch it is of ({repo}@{was}): there is no other")
        if was is None:
            return typer.echo(f"{repo} is kept at no commit: nothing of it was downloaded")
        now = newest(repo)
        if now == was:
            return typer.echo(f"{repo} stays at {was}: the Hub has nothing newer")
        unpin(repo)
    has = f"the Hub has {now}" if now else "the Hub did not say what it has"
    typer.echo(f"{repo} was kept at {was}; {has}, and the next start takes what it has then")
