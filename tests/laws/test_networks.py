"""Networks that may be called: what is in them, and what is none."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.errors import BadConfig
from twisted_kv.networks import LOOPBACK, Networks, parse_networks

OURS = Networks((*LOOPBACK, *parse_networks(["10.1.0.0/16", " fd00::/8"])))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.9", "::1", "10.1.2.3", "fd12::1", "::ffff:10.1.0.1"])
def test_an_address_in_one_of_them_is_admitted(address: str) -> None:
    assert OURS.admit(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.2.0.1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1%eth0",
        "2002:7f00:1::",
        "",
        "x",
    ],
)
def test_any_other_is_not(address: str) -> None:
    assert not OURS.admit(address)


@given(st.integers(0, 2**32 - 1))
def test_a_mapped_address_is_what_it_maps(number: int) -> None:
    plain = IPv4Address(number)
    assert OURS.admit(f"::ffff:{plain}") == OURS.admit(str(plain))


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0-10.0.0.9"])
def test_what_is_no_network_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadConfig, match="is no network") as refused:
        parse_networks(["127.0.0.0/8", text])
    assert repr(text) in refused.value.detail
