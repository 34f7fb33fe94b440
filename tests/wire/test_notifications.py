"""The signature of notifications: who hasn't the secret, or says again what was said, is refused."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest

from gridkit.errors import AccessError, UsageError
from gridkit.wire import notifications
from gridkit.wire.notifications import NONCE, SIGNATURE, TIMESTAMP, WINDOW, Verifier, signed

SECRET = "known to node and hospital"
BODY = b'{"notification_type": "TRAINING_START"}'
NOW = 1_700_000_000.0


def verifier(now: list[float] | None = None) -> Verifier:
    times = now if now is not None else [NOW]
    return Verifier(SECRET, lambda: times[0])


def test_the_scheme_is_the_documented_one() -> None:
    headers = signed(SECRET, BODY, now=NOW)
    text = f"gridkit-push-v1\n1700000000\n{headers[NONCE]}\n".encode() + BODY
    assert headers[TIMESTAMP] == "1700000000"
    assert headers[SIGNATURE] == "v1=" + hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()
    verifier().check([(name.lower(), value) for name, value in headers.items()], BODY)


Change = Callable[[dict[str, str]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.clear(),
        lambda h: h.pop(SIGNATURE),
        lambda h: h.pop(NONCE),
        lambda h: h.pop(TIMESTAMP),
        lambda h: h.update({SIGNATURE: ""}),
        lambda h: h.update({SIGNATURE: h[SIGNATURE][:-1] + ("0" if h[SIGNATURE][-1] != "0" else "1")}),
        lambda h: h.update({SIGNATURE: h[SIGNATURE].removeprefix("v1=")}),
        lambda h: h.update({SIGNATURE: "v1=\u00e9"}),
        lambda h: h.update({NONCE: "0" * 32}),
        lambda h: h.update({NONCE: h[NONCE] + "\n1"}),
        lambda h: h.update({TIMESTAMP: "1700000001"}),
        lambda h: h.update({TIMESTAMP: "nan"}),
        lambda h: h.update({TIMESTAMP: "9" * 5000}),
        lambda h: h.update({TIMESTAMP: "\u0661700000000"}),
    ],
)
def test_r3_what_is_not_signed_so_is_refused(change: Change) -> None:
    headers = signed(SECRET, BODY, now=NOW)
    change(headers)
    with pytest.raises(AccessError) as refused:
        verifier().check(headers.items(), BODY)
    assert refused.value.status == 401 and SECRET not in str(refused.value)


def test_r3_another_body_another_secret_two_signatures() -> None:
    headers = signed(SECRET, BODY, now=NOW)
    for wrong, body in ((headers, BODY + b" "), (signed(SECRET + ".", BODY, now=NOW), BODY)):
        with pytest.raises(AccessError):
            verifier().check(wrong.items(), body)
    with pytest.raises(AccessError):
        verifier().check([*headers.items(), (SIGNATURE, headers[SIGNATURE])], BODY)


def test_r3_each_notification_passes_once_and_attempts_are_signed_anew() -> None:
    times = [NOW]
    checks = verifier(times)
    first, again = signed(SECRET, BODY, now=NOW), signed(SECRET, BODY, now=NOW)
    checks.check(first.items(), BODY)
    checks.check(again.items(), BODY)
    for later in (0, WINDOW, WINDOW + 1):  # as long as it is young because of the nonce, then because of its age
        times[0] = NOW + later
        with pytest.raises(AccessError):
            checks.check(first.items(), BODY)


def test_r7_clocks_may_differ_by_the_window() -> None:
    for ahead, good in ((WINDOW, True), (-WINDOW, True), (WINDOW + 2, False), (-WINDOW - 2, False)):
        headers = signed(SECRET, BODY, now=NOW + ahead)
        if good:
            verifier().check(headers.items(), BODY)
        else:
            with pytest.raises(AccessError, match="clocks"):
                verifier().check(headers.items(), BODY)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "MAX_NONCES", 3)
    times = [NOW]
    checks = verifier(times)
    for _ in range(3):
        checks.check(signed(SECRET, BODY, now=NOW).items(), BODY)
    with pytest.raises(AccessError):
        checks.check(signed(SECRET, BODY, now=NOW).items(), BODY)
    times[0] += 2 * WINDOW
    checks.check(signed(SECRET, BODY, now=times[0]).items(), BODY)


def test_w7_short_secrets_are_refused() -> None:
    for use in (lambda: Verifier("short"), lambda: signed("", BODY)):
        with pytest.raises(UsageError, match="too short"):
            use()
