"""Every error that gridkit raises on purpose.

::

    GridkitError
    ├── UsageError             an argument or a call is wrong; nothing was sent (also a ValueError)
    ├── PlanError              a computation can't be traced, read, checked or run (also a ValueError)
    │   └── PrivacyError       it would show values of private tensors
    ├── WireError              bytes can't be read, or hold what must never be read (also a ValueError)
    ├── NodeError              a node answered with an error; carries `status`
    │   ├── AccessError        no token, a wrong one, or one without the right (401, 403)
    │   ├── NotFoundError      no such process, model, plan or route (404)
    │   ├── ConflictError      the name exists, or the cycle moved on (409)
    │   ├── LimitError         too large, too many, or no room left (413, 429, 507)
    │   └── GridClientError    what a WebsocketGridClient is refused (also a RuntimeError, as with PyGrid's own)
    ├── NodeUnreachable        no answer: not started, ended, or the connection was cut (also a ConnectionError)
    │   └── CallTimeout        an RpcClient's call showed no sign of life for as long as it may (also a TimeoutError)
    └── RunError               a training ended otherwise than asked
        ├── WorkersFailed      the quorum can't be met; names the workers and groups equal causes
        └── EvaluationFailed   the function passed as `evaluate` raised

The text of each has two parts: what happened and to whom, then, on a second line, what to try. In a notebook these two
lines are all that is shown, unless ``gridkit.options.full_tracebacks`` is true.
"""

from __future__ import annotations

import enum
import sys

from gridkit import options


class ErrorCode(enum.StrEnum):
    """The one list of codes that travel on the wire and stand in verdicts."""

    # requests
    BAD_REQUEST = "BAD_REQUEST"
    BAD_JSON = "BAD_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_ALLOWED = "NOT_ALLOWED"
    FOREIGN_ORIGIN = "FOREIGN_ORIGIN"
    FOREIGN_HOST = "FOREIGN_HOST"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    RUN_OVER = "RUN_OVER"
    TOO_LARGE = "TOO_LARGE"
    TOO_MANY = "TOO_MANY"
    NO_ROOM = "NO_ROOM"
    BUSY = "BUSY"
    SESSION_LOST = "SESSION_LOST"
    INTERNAL = "INTERNAL"
    NOT_BUILT = "NOT_BUILT"
    # computations that a node runs
    BAD_INPUT = "BAD_INPUT"
    TIMED_OUT = "TIMED_OUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    RUN_FAILED = "RUN_FAILED"
    CANCELLED = "CANCELLED"
    PRIVATE = "PRIVATE"
    # calls that a node makes
    TARGET_REFUSED = "TARGET_REFUSED"
    TARGET_FAILED = "TARGET_FAILED"
    # payloads
    MALFORMED = "MALFORMED"
    WRONG_OFFSET = "WRONG_OFFSET"
    BAD_RANGE = "BAD_RANGE"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    UNSAFE_FORMAT = "UNSAFE_FORMAT"
    BAD_PLAN = "BAD_PLAN"
    BAD_CONFIG = "BAD_CONFIG"
    # reports
    BAD_KEY = "BAD_KEY"
    CYCLE_CLOSED = "CYCLE_CLOSED"
    ALREADY_REPORTED = "ALREADY_REPORTED"
    COUNT_MISMATCH = "COUNT_MISMATCH"
    NAME_MISMATCH = "NAME_MISMATCH"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    DTYPE_MISMATCH = "DTYPE_MISMATCH"
    NOT_FINITE = "NOT_FINITE"
    NORM_TOO_LARGE = "NORM_TOO_LARGE"
    WORKER_ERROR = "WORKER_ERROR"
    NOT_ANSWERED = "NOT_ANSWERED"
    WORKER_LEFT = "WORKER_LEFT"
    # rounds
    AVERAGING_FAILED = "AVERAGING_FAILED"
    EVALUATION_FAILED = "EVALUATION_FAILED"
    # why a worker got no work
    NOT_IN_COHORT = "NOT_IN_COHORT"
    CYCLE_FULL = "CYCLE_FULL"
    CYCLE_CHANGING = "CYCLE_CHANGING"
    TOO_FEW_WORKERS = "TOO_FEW_WORKERS"
    IN_DRAW = "IN_DRAW"
    COOLING_DOWN = "COOLING_DOWN"
    TOO_SLOW = "TOO_SLOW"
    TRAINING_OVER = "TRAINING_OVER"


class GridkitError(Exception):
    """Base of all. `str(error)` is the message and, when there is advice, a second line ``Try: …``.

    Args:
        message: what happened, and to whom (one line).
        hint: what to try (one line), without the word "Try".
        code: the wire code, when there is one.
    """

    def __init__(self, message: str, hint: str | None = None, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nTry: {self.hint}"

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows: the two of the text, or, when asked for, the whole traceback with its causes.

        Foreign text may stand in a message: control characters (such as colours of a terminal) are taken out, and line
        breaks, so that two lines are two lines.
        """
        if options.full_tracebacks:
            shell = sys.modules["IPython"].get_ipython()
            lines: list[str] = shell.InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
            return lines
        shown = [f"{type(self).__name__}: {_one_line(self.message)}"]
        return shown if self.hint is None else [*shown, f"Try: {_one_line(self.hint)}"]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class UsageError(GridkitError, ValueError):
    """An argument or a call is wrong; nothing was sent and nothing changed."""


class PlanError(GridkitError, ValueError):
    """A computation can't be traced, read, checked or run as a plan."""

    def __init__(self, message: str, hint: str | None = None, *, code: ErrorCode = ErrorCode.BAD_PLAN) -> None:
        super().__init__(message, hint, code=code)


class PrivacyError(PlanError):
    """Values of private tensors were asked for, or something that would tell of them; it wasn't done."""

    def __init__(self, message: str, hint: str | None = None, *, code: ErrorCode = ErrorCode.PRIVATE) -> None:
        super().__init__(message, hint, code=code)


class WireError(GridkitError, ValueError):
    """Bytes can't be read (`MALFORMED`), or hold a format that must never be read (`UNSAFE_FORMAT`)."""

    def __init__(self, message: str, hint: str | None = None, *, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        super().__init__(message, hint, code=code)


class NodeError(GridkitError):
    """A node answered with an error. `status` is the HTTP status, `code` the node's code."""

    def __init__(
        self, message: str, hint: str | None = None, *, code: ErrorCode | None = None, status: int = 500
    ) -> None:
        super().__init__(message, hint, code=code)
        self.status = status


class AccessError(NodeError):
    """No token, a wrong one, or one without the right (401, 403)."""


class NotFoundError(NodeError):
    """No such process, model, plan or route (404)."""


class ConflictError(NodeError):
    """The name exists already, or the cycle moved on (409)."""


class LimitError(NodeError):
    """Too large, too many, or no room left (413, 429, 507). `retry_after`: seconds after which it may go, if known."""

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        code: ErrorCode | None = None,
        status: int = 413,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint, code=code, status=status)
        self.retry_after = retry_after


class GridClientError(NodeError, RuntimeError):
    """What `gridkit.WebsocketGridClient` asked for was refused. `message` is the node's text, as in PyGrid's."""


class NodeUnreachable(GridkitError, ConnectionError):
    """No answer from the node: it isn't started, it ended, or the connection was cut.

    Attributes:
        sent: the request may have reached the node, and may have been done.
    """

    sent = True


class CallTimeout(NodeUnreachable, TimeoutError):
    """A call of `gridkit.RpcClient` had neither an answer nor a heartbeat for as long as its timeout."""


class RunError(GridkitError):
    """A training ended otherwise than asked."""


class WorkersFailed(RunError):
    """So many workers failed that a round's quorum can't be met.

    Attributes:
        groups: one entry a distinct cause: ``(workers, cause)``, the names and the text or traceback they share.
    """

    def __init__(self, message: str, hint: str | None = None, *, groups: tuple[tuple[tuple[str, ...], str], ...] = ()):
        super().__init__(message, hint, code=ErrorCode.WORKER_ERROR)
        self.groups = groups


class EvaluationFailed(RunError):
    """The function passed as `evaluate` raised, or the one that `grid.evaluate` had the node call; the original error
    is the `__cause__`.

    Its text names the line of the user's own file or cell.
    """
