"""What may be said of a destination over HTTP."""

import pytest

from profilelake.errors import Invalid
from profilelake.manage.destinations import DestinationAsked
from profilelake.manage.requests import decoded


@pytest.mark.parametrize("field", ["secret", "previous_secret"])
def test_no_client_has_the_environment_of_the_server_sent_anywhere(field: str) -> None:
    secrets = '"secret": "hook", "previous_secret": "old"'.replace(
        '"hook"' if field == "secret" else '"old"', '"$AWS_SECRET_ACCESS_KEY"'
    )
    body = f'{{"type": "segment", "url": "https://example.org/", {secrets}}}'.encode()
    with pytest.raises(Invalid, match=rf"{field}: variables .* in destinations.yaml only"):
        decoded(body, DestinationAsked).destination("mine")


def test_stored_secrets_are_named() -> None:
    body = b'{"type": "webhook", "url": "https://example.org/", "secret": "hook"}'
    assert decoded(body, DestinationAsked).destination("mine").secret == "hook"
