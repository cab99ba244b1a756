from __future__ import annotations

import pytest

from tests.harness.flows import opened
from tests.harness.policies import Peer, refusals

pytestmark = pytest.mark.unit

DENY = {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
STORE = Peer("store", {"app": "store"}, {"s3": 9000})
JOB = Peer("job", {"app": "job"}, {})
SERVER = Peer("API server", None, {})


def opening(kind: str, of: str, side: str, peer: str, port: object) -> dict[str, object]:
    rule = {side: [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": [{"port": port}]}
    spec = {"podSelector": {"matchLabels": {"app": of}}, "policyTypes": [kind], kind.lower(): [rule]}
    return {"spec": spec}


def test_without_a_policy_everything_is_open() -> None:
    assert refusals([], JOB, STORE, 9000) == []


def test_both_sides_have_to_open() -> None:
    out = opening("Egress", "job", "to", "store", 9000)
    into = opening("Ingress", "store", "from", "job", "s3")
    assert len(refusals([DENY], JOB, STORE, 9000)) == 2
    assert refusals([DENY, out], JOB, STORE, 9000) == ["no ingress to store:9000 from job"]
    assert refusals([DENY, into], JOB, STORE, 9000) == ["no egress from job to store:9000"]
    assert refusals([DENY, out, into], JOB, STORE, 9000) == []
    assert len(refusals([DENY, out, into], JOB, STORE, 9001)) == 2
    assert len(refusals([DENY, out, into], STORE, JOB, 9000)) == 2


@pytest.mark.parametrize(("namespaces", "open_"), [({}, True), ({"matchLabels": {"name": "elsewhere"}}, False)])
def test_this_namespace_is_one_of_all(namespaces: dict[str, object], open_: bool) -> None:
    peer = {"namespaceSelector": namespaces, "podSelector": {"matchLabels": {"app": "job"}}}
    into = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]}}
    assert (refusals([into], JOB, STORE, 9000) == []) is open_
    assert refusals([into], SERVER, STORE, 9000) == ["no ingress to store:9000 from API server"]


def test_what_is_no_pod_is_reached_by_address_only() -> None:
    by_address = {"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 443}]}]}}
    assert refusals([DENY], JOB, SERVER, 443) == ["no egress from job to API server:443"]
    assert refusals([DENY, by_address], JOB, SERVER, 443) == []


def test_only_connections_that_were_opened_here_count() -> None:
    table = """  sl  local_address rem_address   st
   0: 00000000:2328 00000000:0000 0A
   1: 0201D50A:2328 0301D50A:C350 01
   2: 0201D50A:C351 0301D50A:1388 01
   3: 0100007F:C352 0100007F:1388 01
   4: 0201D50A:C353 0301D50A:1389 06"""
    assert opened(table) == {("10.213.1.3", 5000)}
