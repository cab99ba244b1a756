"""The registered models of one identifier: versions by candidate, and the aliases ``champion`` and ``previous``."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flts_ray.errors import BundleError, ConfigError, TrackingError
from flts_ray.tracking.client import BUNDLE, Gateway, error_code, is_refusal

CHAMPION, PREVIOUS = "champion", "previous"
CANDIDATE_ID = "candidate_id"
Answer = TypeVar("Answer")
_IDENTIFIER = re.compile(r"[\w.-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionRef:
    """A registered version.

    Attributes:
        name: Registered model, ``flts-<identifier>``.
        version: Version number as text (MLflow gives a number or text, depending on the store).
        run_id: Run that holds the bundle.
        tags: Tags of the version, ``candidate_id`` among them.
        registered_at: UTC, ISO 8601; empty if the store does not say. MLflow does not record when an alias moved.
    """

    name: str
    version: str
    run_id: str
    tags: dict[str, str]
    registered_at: str = ""

    @property
    def candidate_id(self) -> str:
        """Identity of the candidate that was registered; empty for a version registered by someone else."""
        return self.tags.get(CANDIDATE_ID, "")


def check_identifier(identifier: str) -> None:
    """Refuse a name that cannot be part of a model name.

    Raises:
        ConfigError: If it cannot.
    """
    if not _IDENTIFIER.fullmatch(identifier):
        raise ConfigError(
            f"identifier {identifier!r} cannot name a model: use up to 200 letters, digits and the signs _.- only."
        )


class ModelRegistry:
    """Versions and aliases of ``flts-<identifier>``. Works the same on embedded SQLite and on a server.

    Args:
        gateway: The tracking store, such as ``Tracker(...).gateway``.
        identifier: What the models forecast, such as ``PobleSec``.
        wait_s: Seconds that a store which does not answer is tried again; ``tracking.flush_timeout_s`` if None.

    Raises:
        ConfigError: If the identifier cannot be part of a model name.
    """

    def __init__(self, gateway: Gateway, identifier: str, *, wait_s: float | None = None) -> None:
        check_identifier(identifier)
        self._gateway = gateway
        self._wait_s = gateway.settings.flush_timeout_s if wait_s is None else wait_s
        self.name = f"flts-{identifier}"

    def register(self, run_id: str, candidate_id: str, *, tags: Mapping[str, str] | None = None) -> str:
        """Make a version of a run's bundle, once per candidate, even if the store's answer is lost.

        Args:
            run_id: Run whose artifacts hold ``bundle/``.
            candidate_id: Identity of the candidate: a second call with it returns the version of the first.
            tags: More tags, such as ``kind`` and ``dataset_id``.

        Returns:
            The version, as text.

        Raises:
            TrackingError: If the run holds no bundle (MLflow itself would not notice) or the store refused.
        """
        return self._patiently(lambda: self._register(run_id, candidate_id, tags or {}))

    def _register(self, run_id: str, candidate_id: str, tags: Mapping[str, str]) -> str:
        existing = self._version_of(candidate_id)
        if existing is not None and self._gateway.artifacts(existing.run_id, BUNDLE):
            return existing.version
        if not self._gateway.artifacts(run_id, BUNDLE):
            raise TrackingError(
                f"Run {run_id} holds no artifacts under {BUNDLE}/: log its bundle before registering it."
            )
        try:
            self._gateway.call(f"create the registered model {self.name}", "create_registered_model", self.name)
        except TrackingError as exc:
            if error_code(exc) != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self._gateway.call(
            f"register candidate {candidate_id} as {self.name}", "create_model_version", self.name,
            source=f"runs:/{run_id}/{BUNDLE}", run_id=run_id, tags={**tags, CANDIDATE_ID: candidate_id},
            await_creation_for=0,
        )  # fmt: skip
        return str(version.version)

    def promote(self, version: str) -> None:
        """Let ``champion`` name ``version``, and ``previous`` the champion before it. Idempotent.

        Raises:
            TrackingError: If there is no such version or the store refused.
        """
        self._patiently(lambda: self._promote(version))

    def _promote(self, version: str) -> None:
        self._gateway.call(f"find version {version} of {self.name}", "get_model_version", self.name, version)
        champion = self._by_alias(CHAMPION)
        if champion is not None and champion.version == version:
            return
        # "previous" first: cut off between the two calls, a second promote still finds the old champion in place.
        if champion is not None:
            self._point(PREVIOUS, champion.version)
        self._point(CHAMPION, version)

    def rollback(self) -> ChampionRef:
        """Swap ``champion`` and ``previous``.

        Returns:
            The champion that is now served.

        Raises:
            TrackingError: If there is no previous champion, or it is the champion already.
        """
        champion, previous = self.champion(), self.previous()
        if champion is None or previous is None:
            lacking = "champion" if champion is None else "previous champion"
            raise TrackingError(f"{self.name} has no {lacking}, so it cannot be rolled back: promote first.")
        if champion.version == previous.version:
            raise TrackingError(
                f"{self.name} has version {champion.version} both as champion and as previous: nothing to roll back to."
            )
        self._point(CHAMPION, previous.version)
        self._point(PREVIOUS, champion.version)
        return previous

    def champion(self) -> ChampionRef | None:
        """The version that is served, or None before the first promotion."""
        return self._patiently(lambda: self._by_alias(CHAMPION))

    def previous(self) -> ChampionRef | None:
        """The champion before the present one, or None."""
        return self._patiently(lambda: self._by_alias(PREVIOUS))

    def version(self, version: str) -> ChampionRef:
        """A version by its number.

        Raises:
            TrackingError: If there is no such version or the store refused.
        """
        doing = f"find version {version} of {self.name}"
        return self._patiently(lambda: _reference(self._gateway.call(doing, "get_model_version", self.name, version)))

    def metrics(self, run_id: str) -> dict[str, float]:
        """The latest value of every metric of a run, such as ``test_rmse_bits``, where it is finite.

        Raises:
            TrackingError: If there is no such run or the store refused.
        """
        run = self._patiently(lambda: self._gateway.call(f"read the metrics of run {run_id}", "get_run", run_id))
        return {name: float(value) for name, value in run.data.metrics.items() if math.isfinite(value)}

    def download(self, version: str, destination: Path) -> Path:
        """Fetch a version's bundle.

        Args:
            version: Version as text.
            destination: Folder to make; it appears only when every file has arrived.

        Returns:
            ``destination``, which then holds the bundle's files.

        Raises:
            BundleError: If the version has no files.
            TrackingError: If the folder exists and is not empty, there is no such version, or the store refused.
        """
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise TrackingError(f"{destination} is not an empty folder: give another one for {self.name}/{version}.")
        return self._patiently(lambda: self._download(version, destination))

    def _download(self, version: str, destination: Path) -> Path:
        doing = f"fetch version {version} of {self.name}"
        found = self._gateway.call(doing, "get_model_version", self.name, version)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flts-", dir=destination.parent) as scratch:
            try:
                self._gateway.fetch(doing, found.run_id, BUNDLE, scratch)
            except TrackingError as error:
                if not is_refusal(error):
                    raise
                raise BundleError(f"The bundle of version {version} of {self.name} is gone: {error}") from error
            bundle = Path(scratch) / BUNDLE
            if not bundle.is_dir() or not any(bundle.iterdir()):
                raise BundleError(f"Version {version} of {self.name} has no bundle files in run {found.run_id}.")
            bundle.rename(destination)
        return destination

    def _patiently(self, attempt: Callable[[], Answer]) -> Answer:
        """Repeat what may be repeated, from its beginning, until the store answers."""
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

        retrying = Retrying(
            retry=retry_if_exception(_unanswered),
            stop=stop_after_delay(self._wait_s),
            wait=wait_exponential(0.2, max=5),
            reraise=True,
        )
        return retrying(attempt)

    def _point(self, alias: str, version: str) -> None:
        doing = f"point {alias} of {self.name} at version {version}"
        self._gateway.call(doing, "set_registered_model_alias", self.name, alias, version)

    def _by_alias(self, alias: str) -> ChampionRef | None:
        try:
            found = self._gateway.call(
                f"look up {alias} of {self.name}", "get_model_version_by_alias", self.name, alias
            )
        except TrackingError as exc:
            # A missing alias is INVALID_PARAMETER_VALUE, like any wrong argument: only the text tells.
            text = str(exc.__cause__).lower()
            missing_alias = error_code(exc) == "INVALID_PARAMETER_VALUE" and "alias" in text and "not found" in text
            if missing_alias or error_code(exc) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return _reference(found)

    def _version_of(self, candidate_id: str) -> ChampionRef | None:
        found = self._gateway.call(
            f"look for candidate {candidate_id} in {self.name}", "search_model_versions", f"name = '{self.name}'",
            max_results=10_000,
        )  # fmt: skip
        matches = [_reference(version) for version in found if version.tags.get(CANDIDATE_ID) == candidate_id]
        return max(matches, key=lambda ref: int(ref.version), default=None)


def _unanswered(error: BaseException) -> bool:
    return isinstance(error, TrackingError) and error.__cause__ is not None and not is_refusal(error)


def _reference(version: object) -> ChampionRef:
    created_ms = getattr(version, "creation_timestamp", None)
    created = datetime.fromtimestamp(created_ms / 1000, UTC).isoformat(timespec="milliseconds") if created_ms else ""
    return ChampionRef(
        name=str(getattr(version, "name", "")),
        version=str(getattr(version, "version", "")),
        run_id=str(getattr(version, "run_id", "") or ""),
        tags=dict(getattr(version, "tags", {})),
        registered_at=created,
    )
