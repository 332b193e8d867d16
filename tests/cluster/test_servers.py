"""The servers that other tests rely on are there, and are what they say."""

import http.client
from urllib.parse import urlsplit

import obstore
import psycopg
from obstore.store import S3Store

from cluster_servers import S3Server


def test_s3_keeps_what_it_is_given(s3: S3Server) -> None:
    store = S3Store(
        s3.bucket,
        endpoint=s3.endpoint,
        access_key_id=s3.access_key,
        secret_access_key=s3.secret_key,
        region="us-east-1",
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    obstore.put(store, "a/b", b"content")
    assert bytes(obstore.get(store, "a/b").bytes()) == b"content"


def test_the_catalog_answers(s3: S3Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(s3.catalog).netloc, timeout=10)
    connection.request("GET", "/v1/config")
    assert b"defaults" in connection.getresponse().read()
    connection.close()


def test_postgresql_answers(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        assert connection.execute("select 6 * 7").fetchone() == (42,)
