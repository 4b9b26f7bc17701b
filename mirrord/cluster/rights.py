"""What each host may do in the store: etcd's roles, as commands of etcdctl. Pure.

A host reads all of the cluster, and writes that it lives, how it does, and where its destinations are; and it takes
addresses, which any host may. Who changes the configuration is at a host whose user has the role of an administrator.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from mirrord.cluster.keys import Keys

READER, ADMIN = "mirrord-reader", "mirrord-admin"


def commands(keys: Keys, hosts: Iterable[str], *, admin: bool) -> list[str]:
    """The commands that make the users of these hosts, each called as its host; a role that is there stays."""
    found = [f"etcdctl role add {READER} || true"]
    found += [_grant(READER, "read", f"{keys.prefix}/", prefix=True)]
    if admin:
        found += [f"etcdctl role add {ADMIN} || true", _grant(ADMIN, "readwrite", f"{keys.prefix}/", prefix=True)]
    for host in hosts:
        role = f"mirrord-host-{host}"
        found += [
            f"etcdctl role add {shlex.quote(role)} || true",
            _grant(role, "readwrite", keys.host(host)),
            _grant(role, "readwrite", keys.status(host)),
            _grant(role, "readwrite", f"{keys.ends}{host}/", prefix=True),
            _grant(role, "readwrite", f"{keys.allocated}addr/", prefix=True),
            f"[ -s {shlex.quote(host)}.password ] || (umask 077; openssl rand -hex 24 >{shlex.quote(host)}.password)",
            f"{_password('add', host)} || {_password('passwd', host)}",
        ]
        roles = (READER, role, ADMIN) if admin else (READER, role)
        found += [f"etcdctl user grant-role {shlex.quote(host)} {shlex.quote(one)}" for one in roles]
    return found


def _password(word: str, host: str) -> str:
    return f"etcdctl user {word} --interactive=false {shlex.quote(host)} <{shlex.quote(host)}.password"


def _grant(role: str, kind: str, key: str, *, prefix: bool = False) -> str:
    words = ["etcdctl", "role", "grant-permission", *(["--prefix=true"] if prefix else []), role, kind, key]
    return " ".join(map(shlex.quote, words))
