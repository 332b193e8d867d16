import pytest

from profilelake.collect.peers import Peers


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded_for", "client"),
    [
        ((), "10.0.0.1", b"9.9.9.9", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"9.9.9.9", "9.9.9.9"),
        (("10.0.0.0/8",), "11.0.0.1", b"9.9.9.9", "11.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"1.1.1.1, 9.9.9.9, 10.0.0.7", "9.9.9.9"),
        (("10.0.0.0/8",), "10.0.0.1", b"10.0.0.5,10.0.0.7", "10.0.0.5"),
        (("10.0.0.0/8",), "10.0.0.1", b"9.9.9.9, garbage", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"\xff, 9.9.9.9", "9.9.9.9"),
        (("10.0.0.0/8", "fd00::/8"), "fd00::1", b"2001:db8::7", "2001:db8::7"),
        (("10.0.0.0/8",), "", b"9.9.9.9", ""),
    ],
)
def test_only_what_trusted_proxies_say_counts(
    trusted: tuple[str, ...], peer: str, forwarded_for: bytes, client: str
) -> None:
    assert Peers(trusted).client(peer, forwarded_for) == client


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Peers(("nonsense",))
