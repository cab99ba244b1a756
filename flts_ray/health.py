"""Whether a run is at work, hangs, or has ended: told from its own files, without Ray, tracker or store.

Meant for probes: it must answer when everything else hangs. The run writes an event for every heartbeat, so its file of
events shows when it last got anywhere; its lock shows whether a process still holds it.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flts_ray.config import Settings
from flts_ray.errors import ConfigError
from flts_ray.runs import RUN_FILE, RUNS, START_FILE, begun_runs, finished_runs, is_alive, unfinished_runs
from flts_ray.telemetry.heartbeat import PLACE

EVENTS_FILE = "events.jsonl"
WITH_HEARTBEATS = ("train", "tune", "backtest")
"""Stages whose work tells of itself; the others are silent until they are done, and bounded by their deadlines."""

PATIENCE = 2.0
"""The watchdog of the run acts after ``watchdog.stall_timeout_s``; only if it does not either, the run hangs."""

START_S = 180.0
"""Ray and its workers may take this long to start."""

HEAD = b'{"ts": "'
"""How a line of events begins, before its time."""

State = Literal["none", "alive", "done", "failed", "stalled", "dead"]
TROUBLE: frozenset[State] = frozenset({"failed", "stalled", "dead"})
AT_WORK: frozenset[State] = frozenset({"alive", "stalled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a run is.

    Attributes:
        state: ``none``: no run has begun here; ``alive``; ``done``: it ended with an answer; ``failed``: it ended with
            an error; ``stalled``: its process is there and gets nowhere; ``dead``: its process is gone without a word.
        sentence: The same for a person, with what to do.
        run_id: Which run; empty if there is none.
        stage: The stage under way, or the last one.
        silent_s: Seconds since it last got anywhere.
        limit_s: Seconds of silence that are fine in this stage.
        exit_code: Of a run that failed.
    """

    state: State
    sentence: str
    run_id: str = ""
    stage: str = ""
    silent_s: float | None = None
    limit_s: float | None = None
    exit_code: int | None = None

    @property
    def healthy(self) -> bool:
        """Whether nobody has to do anything."""
        return self.state not in TROUBLE

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"healthy": self.healthy, **asdict(self)}


def health(home: Path, run_id: str | None, settings: Settings, *, now_s: float | None = None) -> Health:
    """Look at a run.

    Args:
        home: The home folder.
        run_id: Which run; None: one at work, else the latest.
        settings: Its limits on silence.
        now_s: Unix time; the present if None.

    Raises:
        ConfigError: If there is no run of that name.
    """
    name = run_id or _latest(home)
    if name is None:
        return Health(state="none", sentence=f"no run has begun in {home}")
    folder = home / RUNS / name
    if not folder.is_dir():
        raise ConfigError(f"there is no run '{name}' in {home}: check the name and --home")
    held = is_alive(folder)
    if (folder / RUN_FILE).exists() and not held:
        return Health(state="done", sentence=f"run {name} is done", run_id=name)
    now_s = time.time() if now_s is None else now_s
    # Twice the limit, so that a heartbeat that only repeats itself cannot look like the first of its kind.
    signs = _signs(folder / EVENTS_FILE, now_s - 2 * _longest_s(settings))
    if signs.failed is not None and not held:
        code, reason = signs.failed
        sentence = f"run {name} failed with exit code {code} ({reason}); see docs/exit-codes.md"
        return Health(state="failed", sentence=sentence, run_id=name, stage=signs.stage, exit_code=code)
    silent_s = round(max(0.0, now_s - (signs.progress_s or folder.stat().st_mtime)), 1)
    limit_s = _limit_s(signs, settings)
    facts: dict[str, Any] = {"run_id": name, "stage": signs.stage, "silent_s": silent_s, "limit_s": limit_s}
    if not held and _host(folder) == socket.gethostname():
        sentence = f"the process of run {name} is gone and left no verdict: the same command goes on from what is done"
        return Health(state="dead", sentence=sentence, **facts)
    where = f"in stage {signs.stage}" if signs.stage else "before its first stage"
    if silent_s > limit_s:
        # A lock on another machine may not be visible here: its silence is all there is to judge by.
        sentence = (
            f"run {name} got nowhere for {silent_s:.0f} s {where} (limit {limit_s:.0f} s): end its process and give "
            "the same command again, which goes on from what is done"
        )
        return Health(state="stalled" if held else "dead", sentence=sentence, **facts)
    return Health(
        state="alive", sentence=f"run {name} is at work {where}; it last got on {silent_s:.0f} s ago", **facts
    )


def stalled_here(home: Path, settings: Settings, *, now_s: float | None = None) -> Health:
    """Look for a run that began on this host, is at work, and gets nowhere: all that a liveness probe may act on.

    Nothing else is cured by ending the container: not a run that failed, nor one that an earlier pod left on a volume.

    Args:
        home: The home folder.
        settings: Limits on silence.
        now_s: Unix time; the present if None.

    Returns:
        The run that hangs, else one that is at work, else ``none``: only the first is unhealthy.
    """
    host = socket.gethostname()
    names = [name for name in begun_runs(home) if _host(home / RUNS / name) == host and is_alive(home / RUNS / name)]
    at_work = [found for name in names if (found := health(home, name, settings, now_s=now_s)).state in AT_WORK]
    nothing = Health(state="none", sentence=f"no run of {host} is at work in {home}")
    return min(at_work, key=lambda found: found.healthy, default=nothing)


@dataclass(slots=True)
class _Signs:
    """What an events file tells.

    Attributes:
        stage: The last stage that began.
        limit_s: What it may take.
        progress_s: Unix time of the last event that told of anything new.
        waiting: What waits for another run's lock: candidates, or an event's name.
        failed: Exit code and reason, if the last attempt said so.
        places: How far each sender of heartbeats is.
    """

    stage: str = ""
    limit_s: float | None = None
    progress_s: float | None = None
    waiting: set[str] = field(default_factory=set)
    failed: tuple[int, str] | None = None
    places: dict[tuple[Any, Any], list[Any]] = field(default_factory=dict)

    def take(self, line: dict[str, Any]) -> None:
        """Follow one more event."""
        name = str(line["event"])
        if name == "heartbeat":
            sender, place = (line.get("candidate"), line.get("rank")), [line.get(field) for field in PLACE]
            if self.places.get(sender) == place:
                return
            self.places[sender] = place
        elif name == "stage_started":
            self.stage, self.limit_s = str(line["stage"]), line.get("limit_s")
            self.waiting.clear()
            self.failed = None
        elif name == "run_failed":
            self.failed = int(line["exit_code"]), str(line["reason"])
        elif name == "stalled":
            return  # a process that hangs is no progress; what follows from it is
        self.progress_s = datetime.fromisoformat(str(line["ts"])).timestamp()
        what = str(line.get("candidate", name))
        if name.endswith("_waiting"):
            self.waiting.add(what)
        elif line.get("stage") != "waiting":
            self.waiting.discard(what)


def _signs(file: Path, since_s: float) -> _Signs:
    """Read a file of events; of the heartbeats, most of what it holds, only those since a moment (Unix time)."""
    signs = _Signs()
    since = HEAD + datetime.fromtimestamp(since_s, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
    if not file.exists():
        return signs
    with file.open("rb") as stream:
        for line in stream:
            if line.startswith(HEAD) and line < since and b'"event": "heartbeat"' in line:
                continue
            try:
                signs.take(json.loads(line))
            except (ValueError, KeyError, TypeError):  # cut off by a kill, or still being written
                continue
    return signs


def _limit_s(signs: _Signs, settings: Settings) -> float:
    """Seconds of silence that are fine where the run is."""
    if signs.stage and (signs.waiting or signs.stage not in WITH_HEARTBEATS):
        return signs.limit_s or settings.watchdog.evaluate_deadline_s
    return _longest_s(settings)


def _longest_s(settings: Settings) -> float:
    """Seconds in which something that tells of itself has told something."""
    start_s = START_S + settings.run.wait_for_nodes_s
    return start_s + PATIENCE * settings.watchdog.stall_timeout_s + settings.storage.deadline_s


def _host(folder: Path) -> str:
    """The machine of the last attempt; empty if it was cut off before it could tell."""
    try:
        return str(json.loads((folder / START_FILE).read_text(encoding="utf-8"))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _latest(home: Path) -> str | None:
    unfinished = unfinished_runs(home)
    working = [name for name in unfinished if is_alive(home / RUNS / name)]
    begun = working or unfinished + finished_runs(home)
    return max(begun, key=lambda name: (home / RUNS / name / START_FILE).stat().st_mtime_ns, default=None)
