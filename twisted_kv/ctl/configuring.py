"""``kvctl config check``: whether a daemon would take its configuration file, without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import FORM
from .showing import Showing
from .trouble import Exit, Trouble

ROLES = ("kvnode", "kvproxy", "kvcluster")


@click.group()
def config() -> None:
    """Check the daemons' configuration files."""


@config.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--role", type=click.Choice(ROLES), help="Whose file it is. [default: as it is called]")
@FORM
def check(file: str, role: str | None, output: str) -> None:
    """Check FILE as its daemon would at its start: keys, values, token files and certificates; but no ports."""
    role = role or next((one for one in ROLES if Path(file).name.startswith(one)), None)
    if role is None:
        raise Trouble(
            f"nobody knows whose file {file} is",
            f"its name begins with none of {', '.join(ROLES)}",
            f"kvctl config check {file} --role {ROLES[1]}",
            Exit.USAGE,
        )
    found = checked(file, role)
    told = {name: getattr(found, name) for name in found.__struct_fields__ if name != "limits"}
    set_here = {name: value for name, value in told.items() if value != getattr(type(found)(), name)}
    Showing(output).show(
        {"file": file, "role": role, "ok": True, "set": set_here},
        lambda: [f"{file} is well, for {role}", *(f"  {name} = {value}" for name, value in set_here.items())],
    )


def checked(file: str, role: str) -> Any:
    """Read a file as a role does.

    :raises Trouble: naming the key, and what was expected.
    """
    from ..config import ClusterConfig, NodeConfig, ProxyConfig, check_together, configured
    from ..errors import BadConfig
    from ..tls import client_tls
    from ..token_files import read_tokens

    shapes: dict[str, Any] = {"kvnode": NodeConfig, "kvproxy": ProxyConfig, "kvcluster": ClusterConfig}
    try:
        found = configured(shapes[role], {}, file)
        if role != "kvnode":
            check_together(found)
        if role == "kvproxy":
            found.state_place  # noqa: B018  # which says what is wrong with it
        for name in ("token_file", "node_token_file"):
            path = getattr(found, name, None)
            if path is not None:
                read_tokens(Path(path), name == "node_token_file" or role == "kvnode")
        client_tls(getattr(found, "tls_authority", None), getattr(found, "tls_identity", None))
    except BadConfig as error:
        then = error.hint or f"etc/{role}.toml shows every key"
        raise Trouble(f"{role} would not start with {file}", error.detail, then, Exit.DEGRADED) from None
    return found
