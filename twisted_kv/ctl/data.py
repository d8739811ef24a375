"""``kvctl get``, ``put``, ``del`` and ``ls``: keys and values, which are bytes."""

from __future__ import annotations

import base64
import json
import os
import sys
from binascii import Error as BinasciiError
from typing import Any
from urllib.parse import quote, urlencode

import click

from .client import NDJSON
from .common import Ctl, asks_proxy
from .plain import is_plain
from .showing import write_json, write_line
from .trouble import Exit, Trouble, of_problem

CONSISTENCY = click.option(
    "--consistency", type=click.Choice(["one", "strong", "quorum", "all"]), help="The level. [default: the proxy's]"
)
B64 = click.option("--b64", is_flag=True, help="KEY is base64, for keys that cannot be typed.")
IF_MATCH = click.option("--if-match", metavar="ETAG", help="Only if the key holds this version; * for any.")


CODED = "b64:"


def key_bytes(typed: str, b64: bool) -> bytes:
    """Give a key's bytes as they were typed: those that are no UTF-8 survive a command line, too.

    :raises Trouble: if it is no base64 where that is wanted, or empty.
    """
    try:
        key = base64.b64decode(typed, validate=True) if b64 else os.fsencode(typed)
    except (BinasciiError, ValueError):
        raise Trouble(
            "the key is no base64", f"--b64 was given, and the key is {typed!r}", "leave out --b64", Exit.USAGE
        ) from None
    if not key:
        raise Trouble(
            "the key is empty", "a key has 1 to 1024 bytes", "kvctl ls shows the keys that are there", Exit.USAGE
        )
    return key


def key_path(key: bytes) -> str:
    return quote(key, safe="")


def shown_key(key: bytes) -> dict[str, str]:
    return text_or_b64("key", key)


def text_or_b64(name: str, data: bytes) -> dict[str, str]:
    """Give bytes as text where they are UTF-8, else as base64 under another name."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(data).decode()}


def query(ctl: Ctl, **given: Any) -> str:
    """Give a call's parameters, with the time that the operator has named."""
    named = {name: value for name, value in given.items() if value is not None}
    if ctl.client.told:
        named["timeout"] = f"{ctl.client.timeout_s:g}"
    return f"?{urlencode(named)}" if named else ""


def quoted(tag: str | None) -> str | None:
    """Take an ETag without its quotes, too."""
    return f'"{tag}"' if tag is not None and tag != "*" and '"' not in tag else tag


@click.command()
@click.argument("key")
@B64
@CONSISTENCY
@asks_proxy
def get(ctl: Ctl, key: str, b64: bool, consistency: str | None) -> None:
    """Read the value of KEY, and write its bytes as they are.

    With -o json also its etag, expiry and content type.
    """
    wanted = key_bytes(key, b64)
    if ctl.showing.is_json:
        line = {"op": "get", "key_b64": base64.b64encode(wanted).decode()}
        where = "/v1/bulk" + query(ctl, consistency=consistency)
        headers = {"Content-Type": NDJSON}
        found = ctl.client.parsed(ctl.client.checked("POST", where, json.dumps(line).encode(), headers=headers).body)
        if found["status"] != 200:
            raise of_problem(found["status"], found.get("problem", {}))
        del found["status"]
        ctl.showing.show(found, str)
        return
    path = f"/v1/kv/{key_path(wanted)}{query(ctl, consistency=consistency)}"
    value = ctl.client.checked("GET", path).body
    out = sys.stdout.buffer
    out.write(value)
    if sys.stdout.isatty() and not value.endswith(b"\n"):
        out.write(b"\n")
    out.flush()


@click.command()
@click.argument("key")
@click.argument("value", required=False)
@B64
@click.option("-f", "--file", type=click.File("rb"), help="Take the value from a file; - for standard input.")
@click.option("--ttl", type=float, help="Seconds that the value lives.")
@click.option("--content-type", metavar="TYPE", help="What the value is. [default: application/octet-stream]")
@IF_MATCH
@click.option("--if-absent", is_flag=True, help="Only if the key holds no value.")
@CONSISTENCY
@asks_proxy
def put(
    ctl: Ctl,
    key: str,
    value: str | None,
    b64: bool,
    file: Any,
    ttl: float | None,
    content_type: str | None,
    if_match: str | None,
    if_absent: bool,
    consistency: str | None,
) -> None:
    """Write VALUE under KEY, or what is in a file; and print its etag."""
    wanted = key_bytes(key, b64)
    if (value is None) == (file is None):
        raise click.UsageError("give either a VALUE or a --file")
    body = os.fsencode(value) if value is not None else file.read()
    headers = {"Content-Type": content_type or "application/octet-stream"}
    if if_match is not None:
        headers["If-Match"] = quoted(if_match) or ""
    if if_absent:
        headers["If-None-Match"] = "*"
    path = f"/v1/kv/{key_path(wanted)}{query(ctl, consistency=consistency, ttl=ttl)}"
    answer = ctl.client.checked("PUT", path, body, headers=headers)
    etag, replicas = answer.headers.get("etag", "").strip('"'), answer.headers.get("kv-replicas")
    ctl.showing.show({**shown_key(wanted), "etag": etag, "replicas": replicas}, lambda: f"etag {etag}, on {replicas}")


@click.command()
@click.argument("key")
@B64
@IF_MATCH
@CONSISTENCY
@asks_proxy
def delete(ctl: Ctl, key: str, b64: bool, if_match: str | None, consistency: str | None) -> None:
    """Delete KEY. That it is not there is no error, unless --if-match '*' asks for it."""
    wanted = key_bytes(key, b64)
    headers = {"If-Match": quoted(if_match) or ""} if if_match is not None else {}
    path = f"/v1/kv/{key_path(wanted)}{query(ctl, consistency=consistency)}"
    answer = ctl.client.checked("DELETE", path, headers=headers)
    replicas = answer.headers.get("kv-replicas")
    ctl.showing.show({**shown_key(wanted), "replicas": replicas}, lambda: f"deleted, on {replicas}")


@click.command()
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(1), help="So many at the most.")
@asks_proxy
def ls(ctl: Ctl, prefix: str, limit: int | None) -> None:
    """List the keys that begin with PREFIX, a line each, in the order of their bytes.

    A key that is no UTF-8, or would not be one line of plain text, comes as b64:..., which is base64; with -o json
    those that are no UTF-8 come as {"b64": "..."}.
    """
    named = {name: value for name, value in (("prefix", os.fsencode(prefix)), ("limit", limit)) if value}
    for line in ctl.client.lines(f"/v1/keys?{urlencode(named)}"):
        key = ctl.client.parsed(line)
        if ctl.showing.is_json:
            write_json(json.dumps(key, ensure_ascii=False))
        elif isinstance(key, str) and is_plain(key) and not key.startswith(CODED):
            write_line(key)
        else:
            write_line(CODED + (key["b64"] if isinstance(key, dict) else base64.b64encode(key.encode()).decode()))
