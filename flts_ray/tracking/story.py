"""What the pipeline's run wrote down beside the candidate that it registered."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flts_ray.errors import TrackingError
from flts_ray.tracking.client import Gateway, is_refusal
from flts_ray.tracking.delivery import PARENT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStory:
    """A pipeline's run, as the tracking store knows it.

    Attributes:
        run_id: Its id there.
        name: Its name, the ``run_id`` of ``flts run``.
        documents: Content of the artifacts that were asked for, by name; those that are not there are left out.
    """

    run_id: str
    name: str
    documents: dict[str, bytes]


def run_story(gateway: Gateway, candidate_run_id: str, names: Sequence[str]) -> RunStory | None:
    """Read documents of the pipeline's run that a candidate's run belongs to.

    Args:
        gateway: The tracking store.
        candidate_run_id: Run that a registered version names.
        names: Artifacts right under the pipeline's run, such as ``leaderboard.json``.

    Returns:
        The run, or None if the candidate's run is unknown or belongs to no other.

    Raises:
        TrackingError: If the store does not answer.
    """
    try:
        candidate = gateway.call(f"look up run {candidate_run_id}", "get_run", candidate_run_id)
        parent_id = candidate.data.tags.get(PARENT)
        if not parent_id:
            return None
        parent = gateway.call(f"look up run {parent_id}", "get_run", parent_id)
        present = set(gateway.artifacts(parent_id))
        with tempfile.TemporaryDirectory(prefix="flts-story-") as folder:
            found = {}
            for name in sorted(present.intersection(names)):
                gateway.fetch(f"read {name} of run {parent_id}", parent_id, name, folder)
                found[name] = Path(folder, name).read_bytes()
    except TrackingError as error:
        if is_refusal(error):
            return None
        raise
    return RunStory(run_id=parent_id, name=str(parent.info.run_name or ""), documents=found)
