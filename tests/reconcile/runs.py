"""Small finished runs, made in this process by the code that makes real ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flts_ray.candidates import CandidateStore, FitSummary, FittedCandidate, candidate_id
from flts_ray.config import Settings, StorageSettings
from flts_ray.config_layers import Resolved, load_settings
from flts_ray.data import preprocess as preprocessing
from flts_ray.data.claims import Claim
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.storage import Store
from flts_ray.evaluation.intervals import pack
from flts_ray.evaluation.promotion import decide
from flts_ray.evaluation.stage import evaluate, interval_states
from flts_ray.models.bundle import Bundle
from flts_ray.reconcile import Side, load_side
from flts_ray.results import RunResult
from flts_ray.run_record import RECORD_FILE, run_record
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.stage import Trained, identity_of
from tests.stages import in_this_process

BASE = {
    "candidates": "gru",
    "features.ema_spans": 6,
    "features.rolling_std": "[]",
    "features.profile": "false",
    "windows.lookback": 4,
    "recurrent.hidden_size": 4,
    "training.epochs": 5,
    "training.batch_size": 64,
}


class Lab:
    """A home in which datasets and runs are made, one station of reports for all."""

    def __init__(self, home: Path, train: str, test: str, monkeypatch: Any) -> None:
        monkeypatch.setattr(preprocessing, "_run", in_this_process)
        self.home, self.train, self.test = home, train, test
        self.store = Store(str(home))

    def resolve(self, *, environ: dict[str, str] | None = None, file: Path | None = None, **changes: Any) -> Resolved:
        """Settings with some changed; dots are written as double underscores."""
        values = BASE | {"data.train": self.train, "data.test": self.test, "run.home": self.home}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        return load_settings(file=file, assignments=[f"{k}={v}" for k, v in values.items()], environ=environ or {})

    def preprocess(self, resolved: Resolved, version: str = "1.0+aaaa") -> Claim:
        return preprocessing.preprocess(resolved.settings, self.store, code_version=version).claim

    def run(
        self, run_id: str, resolved: Resolved, *, version: str = "1.0+aaaa", environ: dict[str, str] | None = None
    ) -> Side:
        """A run of one network, whose record is written and read back."""
        settings = resolved.settings
        claim = self.preprocess(resolved, version)
        dataset = load_dataset(self.store, claim.dataset_id)
        trained = Trained(fitted={"gru": self.fit(dataset, settings)}, failures={})
        evaluated = evaluate(dataset, trained.fitted, {}, settings)
        board = evaluated.leaderboard
        result = RunResult(
            run_id=run_id,
            attempt=1,
            identifier="alpha",
            claim=claim,
            leaderboard=board,
            verdict=decide(board, evaluated.checks, settings.promotion, expected=settings.candidates),
            failure_codes={},
            report=self.home / "report.html",
            timings={},
        )
        record = run_record(
            resolved, claim=claim, result=result, trained=trained, version=version, environ=environ or {}
        )
        folder = self.home / "runs" / run_id
        folder.mkdir(parents=True)
        (folder / RECORD_FILE).write_text(json.dumps(record))
        return self.side(run_id)

    def fit(self, dataset: Dataset, settings: Settings) -> FittedCandidate:
        """A network as the training stage fits and saves it, or finds it saved."""
        candidates = CandidateStore(self.home, self.store)
        name = candidate_id("gru", dataset.dataset_id, settings)
        if known := candidates.find(name):
            return known
        fit = fit_recurrent("gru", dataset.frames, dataset.transforms, settings)
        summary = FitSummary(
            kind="gru",
            candidate_id=name,
            fit_s=fit.result.fit_s,
            history=tuple(asdict(one) for one in fit.result.history),
            facts={
                "best_epoch": fit.result.best_epoch,
                "stopped_early": fit.result.stopped_early,
                "train_windows": fit.result.train_windows,
                "workers": fit.result.workers,
            },
        )
        bundle = Bundle.create(
            fit.forecaster,
            dataset.transforms,
            identity_of(dataset.claim, name),
            target_unit=dataset.target_unit,
            intervals=pack(interval_states(fit.forecaster, dataset.frames, settings)),
        )
        return candidates.save(bundle, summary)

    def side(self, text: str | Path, storage: StorageSettings | None = None) -> Side:
        settings = self.resolve().settings
        if storage is not None:
            settings = settings.model_copy(update={"storage": storage})
        return load_side(str(text), settings, self.store, self.home)

    def file(self, name: str, content: str) -> Side:
        """A configuration or deployment file."""
        path = self.home.parent / name
        path.write_text(content)
        return self.side(path)
