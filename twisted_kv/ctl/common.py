"""What every command takes: how to print, which proxy to ask, and how to speak to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from math import isnan
from typing import Any, TypeVar

import click

from .client import Client, place_of
from .showing import JSON, TABLE, Showing
from .trouble import Exit, Trouble

F = TypeVar("F", bound=Callable[..., Any])

USUAL_SERVER = "http://127.0.0.1:8080"
TIMEOUT_S = 10.0
TIMEOUT_S_MAX = 60.0
"""The longest that a proxy lets a client wait."""

FORM = click.option(
    "-o", "--output", type=click.Choice([TABLE, JSON]), default=TABLE, show_default=True, help="How to print."
)

OPTIONS = (
    FORM,
    click.option(
        "--server", envvar="KV_SERVER", default=USUAL_SERVER, show_default=True, help="The proxy's URL; or KV_SERVER."
    ),
    click.option(
        "--token-file",
        type=click.Path(dir_okay=False),
        envvar="KV_TOKEN_FILE",
        help="A file of tokens as the daemons read it: the first one that allows most is shown; or KV_TOKEN_FILE.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, TIMEOUT_S_MAX, min_open=True),
        help="Seconds that any answer may take. [default: 10]",
    ),
    click.option(
        "--tls-authority",
        type=click.Path(dir_okay=False),
        envvar="KV_TLS_AUTHORITY",
        help="PEM file of who signed the proxy's certificate. [default: whom the system trusts]",
    ),
    click.option(
        "--tls-identity",
        type=click.Path(dir_okay=False),
        envvar="KV_TLS_IDENTITY",
        help="PEM file with a certificate and its key, for a proxy that asks for one.",
    ),
)

YES = click.option("-y", "--yes", is_flag=True, help="Do it without asking.")


class Ctl:
    """What a command works with: a client, and a way to print."""

    def __init__(self, client: Client, showing: Showing) -> None:
        self.client = client
        self.showing = showing

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before something is done, unless that was answered on the command line.

        :raises Trouble: if nobody can be asked.
        :raises click.Abort: if the answer is no.
        """
        import sys

        if yes:
            return
        if not sys.stdin.isatty() or self.showing.is_json:
            raise Trouble(
                "nobody was asked, and nothing was done",
                "it asks before it begins, and there is no terminal to ask at",
                "add --yes once the plan is what you want",
                Exit.USAGE,
            )
        click.confirm(question, abort=True, err=True)


def token_in(file: str) -> str:
    """Give the token of a file that is shown by who was given it.

    :raises Trouble: if the file cannot be used.
    """
    from pathlib import Path

    # Its room brings Twisted's logger with it, for which commands without a token need not wait.
    from ..errors import BadConfig
    from ..token_files import read_tokens

    try:
        return read_tokens(Path(file)).shown
    except BadConfig as error:
        raise Trouble("the token file cannot be used", error.detail, error.hint, Exit.USAGE) from None


def asks_proxy(command: F) -> F:
    """Give a command the options that all have, and a ``Ctl`` in their place."""

    @wraps(command)
    def run(
        *args: Any,
        output: str,
        server: str,
        token_file: str | None,
        timeout: float | None,
        tls_authority: str | None,
        tls_identity: str | None,
        **rest: Any,
    ) -> Any:
        if timeout is not None and isnan(timeout):
            raise click.BadParameter("give seconds", param_hint="--timeout")
        place = place_of(server)._replace(
            token=token_in(token_file) if token_file is not None else None,
            authority=tls_authority,
            identity=tls_identity,
        )
        client = Client(place, timeout or TIMEOUT_S, timeout is not None)
        try:
            return command(Ctl(client, Showing(output)), *args, **rest)
        except (Trouble, OSError, click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if os.environ.get("KVCTL_TRACEBACK"):
                raise
            raise Trouble(
                f"what answers at {place.url} is not understood",
                f"{type(error).__name__}: {error}",
                "name a kvproxy of this version with --server URL; KVCTL_TRACEBACK=1 shows where it was",
                Exit.UNREACHABLE,
            ) from None
        finally:
            client.end()

    for option in reversed(OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]
