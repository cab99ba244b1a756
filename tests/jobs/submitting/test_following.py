from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from flts_ray.errors import ClusterError, InfrastructureError
from jobs.submitting.client import JobState
from jobs.submitting.following import Earlier, follow
from jobs.submitting.log import JobLog

pytestmark = pytest.mark.unit

LOG = "Running entrypoint\none\ntwo\nthree\n"


def state(status: str, code: int | None = None, node: str = "n1") -> JobState:
    return JobState(status, code, "", node, {})


@dataclass
class FakeCluster:
    """A job whose log is given out in pieces, over connections that break where told."""

    log: str = LOG
    breaks_after: list[int] = field(default_factory=list)
    down: int = 0
    state: JobState | None = field(default_factory=lambda: state("SUCCEEDED", 0))
    silent: bool = False

    def find(self, submission_id: str) -> JobState | None:
        if self.down:
            self.down -= 1
            raise ClusterError("no answer")
        return self.state

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        limit = self.breaks_after.pop(0) if self.breaks_after else len(self.log)
        for i in range(0, limit, 5):
            yield self.log[i : min(i + 5, limit)]
        if limit < len(self.log):
            raise ClusterError("the connection broke")
        if self.silent:
            await asyncio.Event().wait()


def followed(cluster: FakeCluster, earlier: Earlier | None = None) -> tuple[JobState, list[str]]:
    shown: list[str] = []
    found = asyncio.run(
        follow(cluster, "j", JobLog(shown.append), earlier=earlier or Earlier(), retry_s=0, out_of_sight_s=0.2)
    )
    return found, shown


def test_every_line_comes_once_over_connections_that_break() -> None:
    found, shown = followed(FakeCluster(breaks_after=[0, 3, 21, 21, 30], down=3))
    assert shown == LOG.splitlines()
    assert found.exit_code == 0


def test_what_an_earlier_attempt_said_is_not_said_again() -> None:
    before = "error: of the first attempt\n"
    cluster = FakeCluster(log=before + LOG, breaks_after=[10, 40])
    assert followed(cluster, Earlier("n1", len(before)))[1] == LOG.splitlines()
    assert followed(FakeCluster(), Earlier("n2", len(before)))[1] == LOG.splitlines()


def test_a_connection_that_says_nothing_of_the_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submitting.following.SILENCE_S", 0.05)
    assert followed(FakeCluster(silent=True))[1] == LOG.splitlines()


def test_a_cluster_that_is_gone_is_given_up() -> None:
    with pytest.raises(InfrastructureError, match="out of sight, and may still be running: no answer"):
        followed(FakeCluster(down=10**9))
    with pytest.raises(InfrastructureError, match="no longer knows job j"):
        followed(FakeCluster(state=None))
