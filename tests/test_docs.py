"""The example files in ``etc/`` say all that can be set, and nothing else; and what is wrong is refused plainly."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from twisted.scripts.twistd import ServerOptions

from twisted_kv.config import ClusterConfig, NodeConfig, ProxyConfig, configured
from twisted_kv.limits import Limits
from twisted_kv.options import ClusterOptions, NodeOptions, ProxyOptions, RoleOptions

ETC = Path(__file__).parent.parent / "etc"
COMMENTED = re.compile(r"^# (?=\w+ = |\[\w+\]$)", re.MULTILINE)
"""What stands before an option that the file does not set."""

NOT_IN_FILES = {"config", "leash", "help", "version"}
"""Options about the command line itself."""


class Role(NamedTuple):
    name: str
    options: type[RoleOptions]
    shape: type[Any]

    @property
    def file(self) -> Path:
        return ETC / f"{self.name}.toml"

    def uncommented(self) -> str:
        return COMMENTED.sub("", self.file.read_text(encoding="utf-8"))


ROLES = [
    Role("kvnode", NodeOptions, NodeConfig),
    Role("kvproxy", ProxyOptions, ProxyConfig),
    Role("kvcluster", ClusterOptions, ClusterConfig),
]
every_role = pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])


@every_role
def test_the_example_names_every_option_and_every_key(role: Role) -> None:
    parameters = [name for name, *_ in role.options.optParameters]
    flags = [name for name, *_ in getattr(role.options, "optFlags", [])]
    options = {name.replace("-", "_") for name in (*parameters, *flags) if name not in NOT_IN_FILES}

    shown = set(tomllib.loads(role.uncommented()))

    assert shown == set(role.shape.__struct_fields__)
    assert shown == options | ({"limits"} & shown)


@every_role
def test_the_example_says_a_sentence_before_each_key(role: Role) -> None:
    lines = role.uncommented().splitlines()

    for before, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith("#"):
            assert before.startswith("# "), line
            assert before.endswith("."), before


@every_role
def test_the_example_as_it_is_sets_the_defaults(role: Role) -> None:
    assert configured(role.shape, {}, str(role.file)) == role.shape()


@every_role
def test_the_example_is_accepted_with_every_line_uncommented(role: Role, tmp_path: Path) -> None:
    file = tmp_path / role.file.name
    file.write_text(role.uncommented(), encoding="utf-8")

    config = configured(role.shape, {}, str(file))

    assert all(getattr(config, field) is not None for field in role.shape.__struct_fields__)
    assert config.folder == role.shape().folder
    assert getattr(config, "limits", Limits()) == Limits()


@every_role
def test_a_flag_wins_over_the_file(role: Role) -> None:
    assert configured(role.shape, {"port": "9999"}, str(role.file)).port == 9999


WRONG = [
    ("prot = 8081", ["there is no key 'prot'", "known here: ", "interface"]),
    ('port = "8081"', ["port: expected `int`, got `str`"]),
    ("port = 0", ["port: expected `int` >= 1"]),
    ("port = 70000", ["port: expected `int` <= 65535"]),
    ("interface = 1", ["interface: expected `str`, got `int`"]),
    ("port = ", ["is no TOML", "etc/"]),
]


@every_role
@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_line_is_refused_with_file_key_and_expectation(
    role: Role, text: str, said: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(SystemExit) as refusal:
        role.options().parseOptions(["--config", str(file)])

    assert [part for part in (str(file), *said) if part not in str(refusal.value)] == []
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("role", ROLES[:2], ids=["kvnode", "kvproxy"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("value_byte_max = 1", "there is no limit 'value_byte_max'"),
        ('value_bytes_max = "1 MiB"', "limits.value_bytes_max: expected `int`, got `str`"),
        ("value_bytes_max = 0", "value_bytes_max is 0"),
        ("value_bytes_max = 67108865", "value_bytes_max is 67108865"),
    ],
)
def test_a_wrong_limit_is_refused(role: Role, text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f"[limits]\n{text}\n", encoding="utf-8")

    with pytest.raises(SystemExit, match=re.escape(said)):
        role.options().parseOptions(["--config", str(file)])


@every_role
def test_a_file_that_is_not_there_is_named(role: Role, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.toml cannot be read: No such file"):
        role.options().parseOptions(["--config", str(tmp_path / "nowhere.toml")])


@every_role
def test_a_wrong_flag_is_named_as_it_was_given(role: Role) -> None:
    with pytest.raises(SystemExit, match=r"--port: expected `int`"):
        role.options().parseOptions(["--port", "eighty"])


def test_an_unknown_flag_is_named_with_where_all_are_listed() -> None:
    with pytest.raises(SystemExit, match=r"^kvnode: .*--prot.*\(twistd kvnode --help tells what there is\)$"):
        ServerOptions().parseOptions(["kvnode", "--prot", "8081"])
