"""Which trainer trains which tenant: rendezvous hashing with balance. A function of who is there, so that all agree.

It starts nothing and asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.keys import text_key

Offers = Mapping[str, Mapping[str, bool]]
"""By member, the tenants that it would train; True where its last attempt failed."""


def spread(members: Offers) -> dict[str, str]:
    """tenant → the member that is to train it; every tenant that any member offers has one.

    Where all offer the same: so evenly that no two members differ by more than one tenant. A tenant goes to those
    whose last attempt did not fail, if there is one. Pairs are taken in the order of their hash, so that a member that
    joins or leaves moves few tenants beside its own.
    """
    offers = {tenant: _offered(tenant, members) for member in members.values() for tenant in member}
    room = _Room(offers)
    pairs = sorted((text_key(tenant, name), tenant, name) for tenant, names in offers.items() for name in names)
    found: dict[str, str] = {}
    for _, tenant, name in pairs:
        if tenant not in found and room.take(name):
            found[tenant] = name
    for tenant in sorted(offers.keys() - found.keys()):  # offers that differ: whoever has least
        found[tenant] = min(offers[tenant], key=lambda name: (room.taken[name], name))
        room.taken[found[tenant]] += 1
    return found


class _Room:
    """How many tenants a member may still take: the same for each, one more for as many as there are left over."""

    def __init__(self, offers: Mapping[str, list[str]]) -> None:
        self.taken = dict.fromkeys((name for names in offers.values() for name in names), 0)
        self._each, self._over = divmod(len(offers), max(1, len(self.taken)))

    def take(self, name: str) -> bool:
        more = self.taken[name] - self._each
        if more > 0 or (more == 0 and not self._over):
            return False
        self._over -= more == 0
        self.taken[name] += 1
        return True


def _offered(tenant: str, members: Offers) -> list[str]:
    sound = [name for name, member in members.items() if member.get(tenant) is False]
    return sound or [name for name, member in members.items() if tenant in member]

