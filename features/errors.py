"""Every error this project raises on purpose, as one tree. It raises none itself.

ReplError
├── InvalidInput          what a caller sent is wrong: HTTP 422, exit status 2, a dead letter on the log
│   ├── InvalidEvent      an event outside the dialect of docs/formats.md
│   ├── InvalidRequest    a rank / retrieve / embeddings / versions request
│   ├── SchemaError       the schema file, or data whose schema fingerprint differs
│   └── SettingsError     a setting, an environment variable, the TOML file
├── TooLarge              more candidates, bytes or events than a setting allows: HTTP 413
├── ArtifactError         a base model directory that is damaged or was made for another code or schema
├── LogError              the event log cannot be read or written
│   └── OffsetLost        the records at this offset are gone (retention, another log)
│       └── LogChanged    this is another log than the one whose offsets are kept
├── StoreError            the weight store or the feature store cannot be read or written
│   ├── Fenced            another trainer holds the store: this one must stop
│   ├── StoreDown         it does not answer at all
│   └── WentBack          the store holds less than was written to it: go on from what it holds
├── Refused               what was asked for cannot be done as things stand: HTTP 409
├── UnknownVersion        no such weight version (or it was thinned out)
├── Unauthorised          a call without a key that is known: HTTP 401
├── Forbidden             a Host or an Origin that a loopback service does not trust; a key without the scope, or of
│                         another tenant: HTTP 403
├── RateLimited           more requests or events a second than a setting allows: HTTP 429
└── NotReady              the service cannot answer yet (no base, warming up)
"""

from __future__ import annotations

from typing import Any


class ReplError(Exception):
    """Says what is wrong, which value, and what to do.

    `code` is stable and snake_case; `field` is a JSON path in what was sent; `value` is cut to 200
    characters; `hint` is the next step.
    """

    code = "error"

    def __init__(
        self, message: str, *, field: str | None = None, value: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = None if value is None else str(value)[:200]
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The `error` object of an HTTP answer: code and message, and field, value, hint where known."""
        parts = {
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "value": self.value,
            "hint": self.hint,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def __str__(self) -> str:
        where = f" (at {self.field}: {self.value!r})" if self.field else ""
        return f"{self.message}{where}" + (f". {self.hint}" if self.hint else "")


class InvalidInput(ReplError):
    code = "invalid_input"


class InvalidEvent(InvalidInput):
    code = "invalid_event"


class InvalidRequest(InvalidInput):
    code = "invalid_request"


class SchemaError(InvalidInput):
    code = "schema"


class SettingsError(InvalidInput):
    code = "settings"


class TooLarge(ReplError):
    code = "too_large"


class ArtifactError(ReplError):
    code = "artifact"


class LogError(ReplError):
    code = "log"


class OffsetLost(LogError):
    code = "offset_lost"


class LogChanged(OffsetLost):
    code = "log_changed"


class StoreError(ReplError):
    code = "store"


class Fenced(StoreError):
    code = "fenced"


class StoreDown(StoreError):
    pass


class WentBack(StoreError):
    code = "went_back"


class UnknownVersion(ReplError):
    code = "unknown_version"


class Refused(ReplError):
    code = "refused"


class Unauthorised(ReplError):
    code = "unauthorised"


class Forbidden(ReplError):
    code = "forbidden"


class RateLimited(ReplError):
    """`retry_after`: seconds until there is room again."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float, field: str, value: float) -> None:
        seconds = max(0.001, retry_after)
        super().__init__(message, field=field, value=value, hint=f"try again in {seconds:.3g} s")
        self.retry_after = seconds


class NotReady(ReplError):
    code = "not_ready"
