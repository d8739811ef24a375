"""The command ``kvctl``."""

from __future__ import annotations

import click

from .simulate import simulate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="twisted_kv")
def main() -> None:
    """Look after a twisted_kv cluster, and try to break a simulated one."""


main.add_command(simulate)
