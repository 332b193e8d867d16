"""What URLs of engines mean."""

import pytest

from profilelake.engines.masters import master_of
from profilelake.errors import Invalid


@pytest.mark.parametrize(
    ("url", "kind", "given", "places"),
    [
        ("local", "local", "local[1,4]", ()),
        ("local[2]", "local", "local[2,4]", ()),
        ("local[*]", "local", "local[*,4]", ()),
        ("local[2,1]", "local", "local[2,1]", ()),
        ("spark://a:7077", "standalone", "spark://a:7077", (("a", 7077),)),
        ("spark://a:1,b:2", "standalone", "spark://a:1,b:2", (("a", 1), ("b", 2))),
        ("sc://h", "connect", "sc://h", (("h", 15002),)),
        ("sc://h:9/;use_ssl=true;token=abc", "connect", "sc://h:9/;use_ssl=true;token=abc", (("h", 9),)),
        ("k8s://https://h:6443", "kubernetes", "k8s://https://h:6443", (("h", 6443),)),
        ("k8s://h", "kubernetes", "k8s://h", (("h", 443),)),
        ("yarn", "yarn", "yarn", ()),
        ("submitted", "submitted", "submitted", ()),
    ],
)
def test_what_urls_mean(url: str, kind: str, given: str, places: tuple[tuple[str, int], ...]) -> None:
    master = master_of(url)
    assert (master.kind, master.url, master.places) == (kind, given, places)


def test_a_token_is_not_shown() -> None:
    assert master_of("sc://h:9/;token=secret").shown == "sc://h:9"


@pytest.mark.parametrize(
    "url",
    [
        "sprak://a:1",
        "spark://a",
        "spark://user:word@a:1",
        "local[x]",
        "sc://",
        "http://a",
        "local[2] ",
        "mesos://a",
    ],
)
def test_others_are_refused_with_those_there_are(url: str) -> None:
    with pytest.raises(Invalid, match="no such engine; give embedded") as raised:
        master_of(url)
    assert "word" not in str(raised.value)
