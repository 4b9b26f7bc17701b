"""What goes wrong between an agent and its store, in words that say what to do."""

from __future__ import annotations

from typing import Any

from mirrord.errors import MirrordError

CHANGE = "change the cluster"
"""What is asked of the store where somebody changes the configuration."""


class StoreError(MirrordError):
    """The store cannot be asked, or says no."""


class StoreUnreachableError(StoreError):
    """An endpoint does not answer, or has no leader; `maybe`: what was asked may have been done nevertheless."""

    def __init__(self, message: str, endpoint: str = "", *, maybe: bool = False) -> None:
        super().__init__("store_unreachable", f"{endpoint}: {message}" if endpoint else message)
        self.endpoint, self.maybe = endpoint, maybe


class ForbiddenError(StoreError):
    """The user of this host has no right to it."""

    def __init__(self, message: str) -> None:
        super().__init__("forbidden", message)


class CompactedError(StoreError):
    """The history from the asked revision on is gone: read all again."""

    def __init__(self, revision: int) -> None:
        super().__init__("compacted", f"the store has compacted its history up to revision {revision}")


class LeaseGoneError(StoreError):
    """The lease has expired."""

    def __init__(self) -> None:
        super().__init__("lease_gone", "the lease has expired")


class TokenError(StoreError):
    """The token of the user is not valid any more: authenticate again."""

    def __init__(self) -> None:
        super().__init__("token", "the store does not know this agent's token any more")


def of_answer(status: int, answer: Any, what: str) -> StoreError:
    """The error of an answer that is none of success: its HTTP status, and its JSON as far as it is any.

    The words are those of etcd's server/etcdserver/api/v3rpc/rpctypes; the numbers are gRPC's status codes.
    """
    told = answer if isinstance(answer, dict) else {}
    said = str(told.get("message") or told.get("error") or answer or f"HTTP {status}")
    if "invalid auth token" in said:
        return TokenError()
    if "user name is empty" in said:
        return StoreError("forbidden", "the store asks for a user: set username and password_file in [cluster]")
    if "authentication failed" in said:
        return StoreError("forbidden", "the store refuses the user or its password: see username and password_file")
    if "CommonName of client" in said:
        why = "the client's certificate has a CommonName, which the store refuses: use one that has names as SAN only"
        return StoreError("forbidden", why)
    if "permission denied" in said:
        may = (
            "ask at a host that has `mirrord-agent rights --admin`"
            if what == CHANGE
            else "was `mirrord-agent rights` run?"
        )
        return ForbiddenError(f"{what}: this host's user may not do that in the store: {may}")
    if "database space exceeded" in said:
        why = "the store is full (NOSPACE): compact it, `etcdctl defrag` each node, then `etcdctl alarm disarm`"
        return StoreError("store_full", f"{why} (docs/cluster.md)")
    if "required revision" in said:  # "has been compacted", or "is a future revision"
        return CompactedError(0)
    if "requested lease not found" in said:
        return LeaseGoneError()
    if "too many operations in txn" in said:
        return StoreError("too_large", "one change touches more keys than the store allows: raise its --max-txn-ops")
    if "request is too large" in said:
        return StoreError("too_large", "one change is larger than the store allows: raise its --max-request-bytes")
    if status in (500, 502, 503, 504) or told.get("code") in (4, 14):
        return StoreUnreachableError(said, maybe=True)
    if status == 404:
        why = "it has no JSON gateway under /v3: etcd 3.4 or newer, with --enable-grpc-gateway=true"
        return StoreError("store_refused", why)
    return StoreError("store_refused", f"{what}: {said}")
