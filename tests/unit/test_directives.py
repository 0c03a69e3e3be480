"""`cache-control` in, `cache-status` out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_schemas import CacheStatus, Directives, parse_cache_control, parse_cache_status


@pytest.mark.parametrize(
    ("header", "directives"),
    [
        (b"", Directives()),
        (b"no-cache", Directives(no_cache=True)),
        (b" No-Store , ONLY-IF-CACHED ", Directives(no_store=True, only_if_cached=True)),
        (b"max-age=5", Directives(max_age_s=5)),
        (b'max-age="5", max-age=3', Directives(max_age_s=3)),
        (b"max-stale", Directives(max_stale_s=2**31)),
        (b"max-stale=9, stale-if-error=60", Directives(max_stale_s=9, stale_if_error_s=60)),
        (b"max-age=99999999999999999999", Directives(max_age_s=2**31)),
        (b"min-fresh=3, no-transform, unknown=1", Directives()),
        (b"max-age, max-age=-1, max-age=1.5, max-age=x", Directives(malformed=4)),
        (b"no-cache=yes, no-store", Directives(no_store=True, malformed=1)),
        (b"\xff", Directives(malformed=1)),
        (b"=,", Directives(malformed=1)),
    ],
)
def test_directives_are_read_as_rfc_9111_says(header: bytes, directives: Directives) -> None:
    """Unknown ones are ignored; malformed ones are ignored and counted."""
    assert parse_cache_control(header) == directives


@given(st.binary(max_size=60))
def test_no_header_makes_parsing_raise(header: bytes) -> None:
    """It is in the hands of a requester."""
    parse_cache_control(header)


statuses = st.builds(
    CacheStatus,
    hit=st.booleans(),
    fwd=st.none() | st.sampled_from(["miss", "request", "bypass"]),
    ttl_s=st.none() | st.integers(-1000, 1000),
    stored=st.booleans(),
    collapsed=st.booleans(),
)


@given(statuses)
def test_a_status_survives_the_wire(status: CacheStatus) -> None:
    """Encode, then parse."""
    assert parse_cache_status(status.encoded.decode()) == status


def test_parameters_of_a_later_version_are_kept() -> None:
    """And change nothing."""
    status = parse_cache_status("responder; hit; ttl=4; key=abc; detail=x")
    assert (status.hit, status.ttl_s, status.extra) == (True, 4, ("key=abc", "detail=x"))
