"""trainer/spread.py: even, the same for all who look, and little moves when a member comes or goes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainer.spread import spread

SOUND: dict[str, bool] = {f"shop-{k}": False for k in range(12)}


def group(n: int, tenants: dict[str, bool] = SOUND) -> dict[str, dict[str, bool]]:
    return {f"host-{k}:{100 + k}:{k:08x}": dict(tenants) for k in range(n)}


@given(st.integers(1, 9), st.integers(0, 64))
def test_every_tenant_has_one_member_and_members_differ_by_one_at_most(members: int, tenants: int) -> None:
    offered = {f"t{k}": False for k in range(tenants)}
    found = spread(group(members, offered))
    assert found.keys() == offered.keys()
    counts = Counter(found.values())
    assert max(counts.values(), default=0) - min(counts[name] for name in group(members)) <= 1


@given(st.permutations(sorted(group(5))))
def test_who_looks_does_not_matter(order: list[str]) -> None:
    members = group(5)
    assert spread({name: members[name] for name in order}) == spread(members)


def test_a_member_that_joins_or_leaves_moves_little_beside_its_own() -> None:
    """Of 12 tenants, at least 12 / n must move to the n-th member; half as much again may."""
    moved, least = 0, 0
    for n in range(2, 13):
        before, after = spread(group(n - 1)), spread(group(n))
        moved += sum(before[tenant] != after[tenant] for tenant in SOUND)
        least += 12 // n
    assert least <= moved <= 1.5 * least, (least, moved)


def test_where_an_attempt_failed_others_are_asked_first() -> None:
    members = group(2)
    one, two = members
    for tenant in ("shop-1", "shop-2"):
        members[one][tenant] = True
        assert spread(members)[tenant] == two
    members[two]["shop-1"] = True
    assert spread(members)["shop-1"] in members, "all failed: one goes on trying"
    assert all(member in members for member in spread(members).values())


def test_a_tenant_that_only_one_knows_is_his() -> None:
    """Settings files that differ while a tenant is added."""
    members = group(3)
    first = next(iter(members))
    members[first]["new"] = False
    found = spread(members)
    assert found["new"] == first
    assert max(Counter(found.values()).values()) <= 5
    assert spread(members | {"another release": {}}).keys() == found.keys()
