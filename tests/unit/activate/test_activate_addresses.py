"""Which addresses are connected to."""

import asyncio

import pytest

from profilelake.activate.addresses import Allowed, Refused, resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0",  # noqa: S104
        "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.100.100.200",
        "192.0.0.192", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a9fe:a9fe::1", "::127.0.0.1", "2001:db8::1", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)  # fmt: skip
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(Refused):
        Allowed().choose([address], secure=True)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.14"])
def test_public_addresses_are_taken_with_tls_only(address: str) -> None:
    assert Allowed().choose([address], secure=True)
    with pytest.raises(Refused, match="https"):
        Allowed().choose([address], secure=False)


def test_networks_an_operator_names_are_taken() -> None:
    allowed = Allowed(["10.1.0.0/16", "fd00::/8"])
    assert allowed.choose(["10.1.2.3"], secure=False) == "10.1.2.3"
    assert allowed.choose(["192.168.0.1", "fd00::5"], secure=False) == "fd00::5"
    with pytest.raises(Refused):
        allowed.choose(["10.2.0.1", "::ffff:10.1.2.3"], secure=True)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "localhost", "017700000001"])
def test_other_spellings_of_loopback_resolve_to_it(host: str) -> None:
    found = asyncio.run(resolve(host, 80))
    with pytest.raises(Refused):
        Allowed().choose(found, secure=True)


def test_a_name_that_is_none_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r"."):
        asyncio.run(resolve("a" * 70 + ".example", 80))
