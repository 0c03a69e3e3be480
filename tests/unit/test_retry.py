"""Trying again: where it can help, while there is time, within the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_client import NO_RETRIES, InvalidArgument, Retries, RetryBudget, Unavailable


def unavailable(retry_after_s: float | None = None) -> Unavailable:
    """An error that may pass."""
    return Unavailable("not now", code="UNAVAILABLE", retryable=True, retry_after_s=retry_after_s)


@given(attempt=st.integers(1, 20), left_s=st.floats(0, 100), hint_s=st.none() | st.floats(0, 10))
def test_a_delay_respects_the_hint_the_limit_and_the_deadline(
    attempt: int, left_s: float, hint_s: float | None
) -> None:
    """Or there is none."""
    retries = Retries(attempts=4, first_delay_s=0.1, max_delay_s=1.0)
    delay_s = retries.delay_s(unavailable(hint_s), attempt, left_s)
    if delay_s is not None:
        assert attempt < 4
        assert (hint_s or 0) <= delay_s < left_s
        assert delay_s <= (hint_s or 0) + min(1.0, 0.1 * 2 ** (attempt - 1))


def test_what_cannot_help_is_not_tried_again() -> None:
    """An error of the call's own, a policy without retries, a call whose time is over."""
    assert Retries().delay_s(InvalidArgument("no", code="INVALID_ARGUMENT"), 1, 100) is None
    assert NO_RETRIES.delay_s(unavailable(), 1, 100) is None
    assert Retries().delay_s(unavailable(5), 1, 5) is None
    assert Retries().delay_s(unavailable(), 1, 100) is not None


@given(calls=st.integers(0, 500), ratio=st.floats(0, 1), burst=st.floats(0, 50))
def test_retries_are_a_share_of_the_calls_and_a_few_at_once(calls: int, ratio: float, burst: float) -> None:
    """However often they are wanted."""
    budget = RetryBudget(ratio=ratio, burst=burst)
    retried = 0
    for _ in range(calls):
        budget.note_call()
        while budget.take():
            retried += 1
    assert retried <= burst + ratio * calls + 1e-6
    assert retried >= min(calls, 1) * int(burst)


@pytest.mark.parametrize(("ratio", "burst"), [(-0.1, 1), (0.1, -1)])
def test_a_budget_is_not_negative(ratio: float, burst: float) -> None:
    """At once, not at the first retry."""
    with pytest.raises(ValueError, match="0 or more"):
        RetryBudget(ratio, burst)
