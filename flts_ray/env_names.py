"""Environment variables that the program reads, the names of the pipeline it replaces included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PREFIX = "FLTS_"
"""``FLTS_TRAINING__EPOCHS`` sets ``training.epochs``."""

FLTS_NAMES = frozenset(
    {
        "FLTS_BUILD_ID",
        "FLTS_CONFIG",
        "FLTS_DATA_DIR",
        "FLTS_FAULTS_PAGE",
        "FLTS_GIT_COMMIT",
        "FLTS_SERVE_TOKEN",
        "FLTS_SERVE_TOKEN_FILE",
    }
)
"""Names with our prefix that are no settings: the name of the image that this runs from and the commit of its code, the
configuration file, where tests find real data, whether they write the page of faults, and the bearer token of the
service or its file."""

SAMPLING_NAMES = ("SAMPLE_TRAIN_ROWS", "SAMPLE_TEST_ROWS", "SAMPLE_STRATEGY", "SAMPLE_SEED")


def flag(text: str) -> bool:
    """Read a switch as the old deployment wrote it.

    Raises:
        ValueError: If it is neither yes nor no.
    """
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("write 1 or 0")


def _choice(names: dict[str, str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            return names[text.lower()]
        except KeyError as error:
            raise ValueError(f"known values are {', '.join(names)}") from error

    return convert


def _season(text: str) -> str:
    if text.lower() == "auto":
        return "auto"
    return "on" if flag(text) else "off"


SWITCHES = {"CLIP_ENABLE": ("CLIP_ENABLE", "CLIP_METHOD", "CLIP_FACTOR"), "LAGS_ENABLE": ("LAGS_N", "LAGS_STEP")}
"""Old switches, off unless set to yes, and the variables that count only while they are on."""

_SCALERS = {
    "minmaxscaler": "minmax",
    "standardscaler": "standard",
    "robustscaler": "robust",
    "maxabsscaler": "maxabs",
    **{name: name for name in ("log", "standard", "minmax", "robust", "maxabs", "none")},
}

LEGACY_NAMES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "IDENTIFIER": ("identifier", str),
    "EXTRA_HASH_SALT": ("hash_salt", str),
    "MODEL_TYPE": ("candidates", str.lower),
    "EXPECTED_MODEL_TYPES": ("candidates", str.lower),
    "TRAIN_FILE": ("data.train", str),
    "TEST_FILE": ("data.test", str),
    "SAMPLE_TRAIN_ROWS": ("sampling.train_rows", int),
    "SAMPLE_TEST_ROWS": ("sampling.test_rows", int),
    "SAMPLE_STRATEGY": ("sampling.strategy", str.lower),
    "SAMPLE_SEED": ("sampling.seed", int),
    "NANS_THRESHOLD": ("data.max_missing_fraction", float),
    "CLIP_ENABLE": ("cleaning.clip", lambda _: "iqr"),
    "CLIP_METHOD": ("cleaning.clip", _choice({"iqr": "iqr", "percentile": "percentile"})),
    "CLIP_FACTOR": ("cleaning.clip_factor", float),
    "TIME_FEATURES_ENABLE": ("features.calendar", lambda text: "cyclic" if flag(text) else "none"),
    "LAGS_N": ("features.lags", int),
    "LAGS_STEP": ("features.lag_step", int),
    "SCALER": ("scaling.scaler", _choice(_SCALERS)),
    "ADD_VAL": ("scaling.add", float),
    "FORCE_REPROCESS": ("run.force", flag),
    "INPUT_SEQ_LEN": ("windows.lookback", int),
    "OUTPUT_SEQ_LEN": ("windows.horizon", int),
    "HIDDEN_SIZE": ("recurrent.hidden_size", int),
    "NUM_LAYERS": ("recurrent.num_layers", int),
    "BATCH_SIZE": ("training.batch_size", int),
    "EPOCHS": ("training.epochs", int),
    "LEARNING_RATE": ("training.learning_rate", float),
    "EARLY_STOPPING": ("training.early_stopping", flag),
    "PATIENCE": ("training.patience", int),
    "GROWTH": ("prophet.growth", str.lower),
    "N_CHANGEPOINTS": ("prophet.n_changepoints", int),
    "CHANGEPOINT_RANGE": ("prophet.changepoint_range", float),
    "CHANGEPOINT_PRIOR_SCALE": ("prophet.changepoint_prior_scale", float),
    "SEASONALITY_PRIOR_SCALE": ("prophet.seasonality_prior_scale", float),
    "HOLIDAYS_PRIOR_SCALE": ("prophet.holidays_prior_scale", float),
    "SEASONALITY_MODE": ("prophet.seasonality_mode", str.lower),
    "DAILY_SEASONALITY": ("prophet.daily", _season),
    "WEEKLY_SEASONALITY": ("prophet.weekly", _season),
    "YEARLY_SEASONALITY": ("prophet.yearly", _season),
    "COUNTRY": ("prophet.country", str),
    "MLFLOW_TRACKING_URI": ("tracking.uri", str),
    "EXPERIMENT_NAME": ("tracking.experiment", str),
    "MLFLOW_S3_ENDPOINT_URL": ("storage.endpoint_url", str),
    "AWS_ENDPOINT_URL": ("storage.endpoint_url", str),
    "AWS_ENDPOINT_URL_S3": ("storage.endpoint_url", str),
    "AWS_DEFAULT_REGION": ("storage.region", str),
    "AWS_REGION": ("storage.region", str),
    "AWS_S3_ADDRESSING_STYLE": ("storage.addressing_style", str.lower),
}
"""Old name → dotted key and how its text is read. An empty variable counts as not set. Where two names set one
key, the later in this table wins (``CLIP_METHOD`` over ``CLIP_ENABLE``, ``AWS_ENDPOINT_URL_S3`` over the others)."""
