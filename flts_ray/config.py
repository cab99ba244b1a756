"""Every setting of the program: typed, with its unit, default and meaning, in one place.

The models here are frozen and refuse unknown keys. Where a value comes from (recipe, file, environment,
command line) is the business of :mod:`flts_ray.config_layers`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from flts_ray.config_base import Counts, Names, Section, as_tuple, canonical_digest, canonical_json
from flts_ray.config_experiments import BacktestSettings, ExplainSettings, TelemetrySettings, TuneSettings
from flts_ray.config_serving import DriftSettings, PredictionLogSettings, ServeSettings

__all__ = ["Section", "Settings", "canonical_digest", "canonical_json"]

RAW_COLUMNS = (
    "down",
    "up",
    "rnti_count",
    "mcs_down",
    "mcs_down_var",
    "mcs_up",
    "mcs_up_var",
    "rb_down",
    "rb_down_var",
    "rb_up",
    "rb_up_var",
)
"""The numeric columns of a base-station report, in the order the stations send them."""

CONFIG_HASH_VERSION = 1

ScalerKind = Literal["log", "standard", "minmax", "robust", "maxabs", "none"]


class DataSettings(Section):
    """Where the reports lie and how their columns are to be read."""

    train: Names = Field((), description="CSV or Parquet files, folders or globs; local or s3://. The training rows.")
    test: Names = Field((), description="The held-out rows, later in time. Empty: the last test_fraction of train.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of rows held out when no test source is given.")
    series_by: Literal["file", "column", "none"] = Field(
        "file", description="What tells stations apart: one file each, a column, or nothing (all one station)."
    )
    series_column: str = Field("series", description="Name of the station column when series_by is 'column'.")
    time_column: str = Field("time", description="Name of the timestamp column.")
    columns: Names = Field(RAW_COLUMNS, min_length=1, description="Numeric columns to read, in order.")
    targets: Names = Field(("down",), min_length=1, description="Columns to forecast.")
    target_unit: str = Field("bits", description="Unit of the target columns, as reported.")
    step_s: float | None = Field(None, gt=0, description="Seconds between reports; empty: the most frequent step.")
    max_missing_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        description="A series with a column that lacks more than this share is dropped, with the reason.",
    )

    @model_validator(mode="after")
    def _targets_are_columns(self) -> DataSettings:
        missing = [t for t in self.targets if t not in self.columns]
        if missing:
            raise ValueError(f"targets {missing} are not among the columns {list(self.columns)}")
        if len(set(self.columns)) != len(self.columns) or len(set(self.targets)) != len(self.targets):
            raise ValueError("a name stands twice in columns or targets")
        return self


class SamplingSettings(Section):
    """How many rows of each series are kept. Sampling has one owner: preprocessing."""

    train_rows: int = Field(0, ge=0, description="Training rows to keep per series; 0 keeps all.")
    test_rows: int = Field(0, ge=0, description="Test rows to keep per series; 0 keeps all.")
    strategy: Literal["head", "tail", "random"] = Field(
        "head", description="First rows, last rows, or one contiguous block at a seeded random place. Order is kept."
    )
    seed: int = Field(42, ge=0, description="Seed of the random block.")

    @property
    def active(self) -> bool:
        """Whether any row is left out on purpose."""
        return self.train_rows > 0 or self.test_rows > 0


class CleaningSettings(Section):
    """Missing values and outliers. All constants are learnt on the training rows."""

    missing: Literal["ffill", "mean", "median", "zero"] = Field(
        "mean", description="What stands in for a missing value: the last one seen, or a constant of the train rows."
    )
    clip: Literal["none", "iqr", "percentile"] = Field("none", description="How outliers are bounded.")
    clip_factor: float = Field(
        1.5, gt=0, description="iqr: multiple of the interquartile range; percentile: share cut at either end (<0.5)."
    )

    @model_validator(mode="after")
    def _percentile_is_a_share(self) -> CleaningSettings:
        if self.clip == "percentile" and self.clip_factor >= 0.5:
            raise ValueError("clip_factor must be below 0.5 when clip is 'percentile'")
        return self


class FeatureSettings(Section):
    """Columns derived from the reports. Every one is causal: row t uses rows up to t only."""

    calendar: Literal["none", "cyclic", "harmonics"] = Field(
        "harmonics",
        description="cyclic: sin/cos of minute of day, day of week, day of year. "
        "harmonics: two harmonics of the day and a weekend flag.",
    )
    scale_calendar: bool = Field(False, description="Scale the calendar columns like the others.")
    ema_spans: Counts = Field((6, 30, 120, 360), description="Spans in rows of moving averages of each target.")
    rolling_std: Counts = Field((10, 60), description="Windows in rows of rolling deviations of each target.")
    profile: bool = Field(True, description="Level and slope of each target at the same time yesterday.")
    lags: int = Field(0, ge=0, description="Number of lagged copies of every column.")
    lag_step: int = Field(1, ge=1, description="Rows between two lags.")


class ScalingSettings(Section):
    """How the numeric columns are brought to one scale; fitted on the training rows only."""

    scaler: ScalerKind = Field("log", description="log: logarithm, then standardised.")
    add: float = Field(0.0, description="Constant added to every column before scaling.")
    log_offset_fraction: float = Field(
        0.03, gt=0, description="Added before the logarithm, as a share of the column's train mean."
    )


class WindowSettings(Section):
    """What a model sees and what it must say."""

    lookback: int = Field(10, ge=1, description="Rows of history a model reads.")
    horizon: int = Field(1, ge=1, description="Rows forecast from one origin.")


class RecurrentSettings(Section):
    """The GRU and LSTM networks."""

    hidden_size: int = Field(64, ge=1, description="Units in a layer.")
    num_layers: int = Field(1, ge=1, description="Stacked layers.")
    target: Literal["delta", "level"] = Field(
        "delta", description="Predict the change from the last value, or the value."
    )
    series_embedding: int = Field(
        0, ge=0, description="Numbers learnt for each station, so that one network can tell them apart; 0: none."
    )
    loss: Literal["huber", "mse", "mae"] = Field("huber", description="Training loss, on the scaled target.")
    huber_delta: float = Field(1.0, gt=0, description="Where the Huber loss turns linear, in scaled units.")


class TrainingSettings(Section):
    """The optimiser and its budget."""

    epochs: int = Field(8, ge=1, description="Passes over the training windows at most.")
    batch_size: int = Field(128, ge=1, description="Windows in a step, over all workers.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")
    schedule: Literal["onecycle", "constant"] = Field("onecycle", description="Learning-rate schedule.")
    weight_decay: float = Field(
        0.5, ge=0, description="Decoupled weight decay; each step shrinks weights by it times the rate."
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of a gradient.")
    early_stopping: bool = Field(True, description="Stop when the validation loss no longer falls.")
    patience: int = Field(10, ge=1, description="Epochs without improvement before stopping.")
    validation_fraction: float = Field(
        0.2, gt=0, lt=0.9, description="Last share of the train rows held for validation."
    )
    workers: int = Field(1, ge=1, description="Ray Train workers of one candidate.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of one worker.")
    use_gpu: bool = Field(False, description="Ask Ray for one accelerator a worker.")
    max_failures: int = Field(2, ge=0, description="Worker failures survived by restarting from the last checkpoint.")


class BaselineSettings(Section):
    """The forecasts every candidate must beat."""

    moving_average_rows: int = Field(10, ge=1, description="Rows averaged by the moving average.")
    season_s: float = Field(86_400, gt=0, description="Seconds in a season of the seasonal-naive forecast.")
    ridge_alpha: float = Field(1.0, ge=0, description="Penalty of the ridge regression on standardised inputs.")


class ProphetSettings(Section):
    """The Prophet candidate."""

    growth: Literal["linear", "flat"] = Field(
        "flat", description="Trend. A line fitted on a few weeks leads astray within days."
    )
    n_changepoints: int = Field(25, ge=0, description="Potential changes of the trend.")
    changepoint_range: float = Field(0.8, gt=0, le=1, description="Share of history with changepoints.")
    changepoint_prior_scale: float = Field(0.05, gt=0, description="Flexibility of the trend.")
    seasonality_prior_scale: float = Field(10.0, gt=0, description="Flexibility of the seasonality.")
    holidays_prior_scale: float = Field(10.0, gt=0, description="Flexibility of the holidays.")
    seasonality_mode: Literal["additive", "multiplicative"] = Field("additive", description="How seasons enter.")
    daily: Literal["auto", "on", "off"] = Field("auto", description="Daily season; auto: with two days of history.")
    weekly: Literal["auto", "on", "off"] = Field("auto", description="Weekly season; auto: with two weeks of history.")
    yearly: Literal["auto", "on", "off"] = Field("auto", description="Yearly season; auto: with two years of history.")
    country: str = Field("", description="Country code of the holidays, such as ES; empty: none.")
    residual_lags: int = Field(10, ge=0, description="Order of the autoregression on the residual; 0: open loop.")


class EvaluationSettings(Section):
    """Intervals and tests."""

    coverage: float = Field(0.9, gt=0.5, lt=1, description="Nominal coverage of the forecast intervals.")
    adaptation_rate: float = Field(0.01, ge=0, lt=1, description="Step of the adaptive conformal update.")
    calibration_rows: int = Field(720, ge=20, description="Latest scores from which the interval's quantile is taken.")


class PromotionSettings(Section):
    """What a candidate must show before it is served."""

    allow_sampled: bool = Field(False, description="Let a model trained on sampled rows be promoted.")
    significance: float = Field(0.05, gt=0, lt=1, description="Level of the Diebold-Mariano tests that are reported.")
    require_significant: bool = Field(
        False, description="Refuse a winner whose gain over persistence is not significant."
    )
    require_backtest: bool = Field(
        False, description="Refuse a winner that does not beat persistence in the backtest too, all windows together."
    )
    scope: Literal["global", "series"] = Field(
        "global", description="global: one champion for all stations; series: one for each, registered under its name."
    )


class StorageSettings(Section):
    """Where datasets, models and reports are kept. Credentials come from the environment only (AWS_*)."""

    root: str = Field("", description="Folder or s3://bucket/prefix of datasets and models; empty: under run.home.")
    endpoint_url: str = Field("", description="URL of the S3 server; empty: Amazon's.")
    region: str = Field("us-east-1", description="S3 region.")
    addressing_style: Literal["path", "virtual"] = Field("path", description="How bucket names enter the URL.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds one S3 request may take.")
    deadline_s: float = Field(
        120.0, gt=0, description="Seconds an operation is tried again while the store is down, retries included."
    )
    create_bucket: bool = Field(False, description="Create the bucket if it does not exist.")


class TrackingSettings(Section):
    """The MLflow store."""

    uri: str = Field("", description="MLflow tracking URI; empty: SQLite under run.home.")
    experiment: str = Field("flts", description="MLflow experiment.")
    timeout_s: float = Field(3.0, gt=0, description="Seconds one call to the tracker may take.")
    breaker_failures: int = Field(3, ge=1, description="Failures in a row after which the tracker is left alone.")
    breaker_reset_s: float = Field(10.0, gt=0, description="Seconds until it is tried again.")
    flush_timeout_s: float = Field(
        60.0, gt=0, description="Seconds to wait for the tracker where the run needs it: before promotion, at the end."
    )


class WatchdogSettings(Section):
    """When silence counts as a stall, and how long a stage may take."""

    stall_timeout_s: float = Field(
        300.0, gt=0, description="Seconds without progress after which a fit counts as stalled."
    )
    preprocess_deadline_s: float = Field(7_200.0, gt=0, description="Seconds preprocessing may take.")
    train_deadline_s: float = Field(43_200.0, gt=0, description="Seconds training may take, all candidates together.")
    backtest_deadline_s: float = Field(43_200.0, gt=0, description="Seconds the backtest may take.")
    evaluate_deadline_s: float = Field(3_600.0, gt=0, description="Seconds evaluation may take.")
    promote_deadline_s: float = Field(900.0, gt=0, description="Seconds promotion may take.")
    explain_deadline_s: float = Field(3_600.0, gt=0, description="Seconds explaining may take.")
    report_deadline_s: float = Field(900.0, gt=0, description="Seconds the report may take.")


class RunSettings(Section):
    """This run."""

    home: str = Field("flts_home", description="Local folder of everything the program writes.")
    force: bool = Field(False, description="Redo what is already done.")
    ray_address: str = Field("", description="Ray cluster to use; empty: one is started on this machine.")
    num_cpus: int | None = Field(None, ge=1, description="CPUs of a Ray started here; empty: all.")
    wait_for_nodes_s: float = Field(
        600.0, ge=0, description="Seconds to wait for a cluster that scales to have room; 0: do not wait."
    )


class Settings(Section):
    """The whole configuration."""

    recipe: str = Field("default", description="Named set of defaults: default or classic.")
    identifier: str = Field("", description="Name under which the champion is registered; empty: from the series.")
    seed: int = Field(42, ge=0, description="Seed of every random choice in training.")
    candidates: Annotated[tuple[Literal["gru", "lstm", "prophet"], ...], BeforeValidator(as_tuple)] = Field(
        ("gru", "lstm", "prophet"), min_length=1, description="Models that compete."
    )
    hash_salt: str = Field("", description="Free text that enters the config hash.")
    data: DataSettings = DataSettings()
    sampling: SamplingSettings = SamplingSettings()
    cleaning: CleaningSettings = CleaningSettings()
    features: FeatureSettings = FeatureSettings()
    scaling: ScalingSettings = ScalingSettings()
    windows: WindowSettings = WindowSettings()
    recurrent: RecurrentSettings = RecurrentSettings()
    training: TrainingSettings = TrainingSettings()
    baselines: BaselineSettings = BaselineSettings()
    prophet: ProphetSettings = ProphetSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    promotion: PromotionSettings = PromotionSettings()
    storage: StorageSettings = StorageSettings()
    tracking: TrackingSettings = TrackingSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    serve: ServeSettings = ServeSettings()
    predictions: PredictionLogSettings = PredictionLogSettings()
    drift: DriftSettings = DriftSettings()
    tune: TuneSettings = TuneSettings()
    backtest: BacktestSettings = BacktestSettings()
    explain: ExplainSettings = ExplainSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    run: RunSettings = RunSettings()

    def data_shaping(self) -> dict[str, Any]:
        """Every setting that changes the processed rows, and none that does not (paths, models, places)."""
        return {
            "version": CONFIG_HASH_VERSION,
            "salt": self.hash_salt,
            "data": self.data.model_dump(mode="json", exclude={"train", "test"}),
            "sampling": self.sampling.model_dump(mode="json"),
            "cleaning": self.cleaning.model_dump(mode="json"),
            "features": self.features.model_dump(mode="json"),
            "scaling": self.scaling.model_dump(mode="json"),
        }

    def digest(self) -> str:
        """SHA-256 (hex) of every setting: equal for the same command in the same place."""
        return canonical_digest(self.model_dump(mode="json"))

    def config_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of :meth:`data_shaping`."""
        return canonical_digest(self.data_shaping())
