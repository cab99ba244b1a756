"""Where settings come from, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.config import Settings
from flts_ray.config_layers import flatten, load_settings, setting_fields
from flts_ray.env_names import LEGACY_NAMES
from flts_ray.errors import ConfigError, UnknownRecipeError

pytestmark = pytest.mark.unit


def test_later_layers_win_and_say_so(tmp_path: Path) -> None:
    file = tmp_path / "flts.yaml"
    file.write_text("training:\n  epochs: 3\n  batch_size: 32\nseed: 1\nwindows.lookback: 7\n")
    resolved = load_settings(
        file=file,
        assignments=["training.epochs=5"],
        options={"recipe": "classic"},
        environ={"EPOCHS": "4", "BATCH_SIZE": "16", "FLTS_SEED": "9"},
    )
    settings, origins = resolved.settings, resolved.origins
    assert (settings.training.epochs, origins["training.epochs"]) == (5, "command line --set training.epochs")
    assert (settings.training.batch_size, origins["training.batch_size"]) == (16, "environment BATCH_SIZE")
    assert (settings.seed, origins["seed"]) == (9, "environment FLTS_SEED")
    assert (settings.windows.lookback, origins["windows.lookback"]) == (7, f"file {file}")
    assert (settings.recurrent.hidden_size, origins["recurrent.hidden_size"]) == (128, "recipe classic")
    assert origins["training.patience"] == "default"


def test_every_key_has_an_origin_a_value_and_a_description() -> None:
    resolved = load_settings(environ={})
    assert [key for key, _, _ in resolved.rows()] == list(setting_fields())
    assert all(field.description for field in setting_fields().values())


def test_the_old_names_are_all_settings() -> None:
    fields = setting_fields()
    assert {key for key, _ in LEGACY_NAMES.values()} <= set(fields)


@pytest.mark.parametrize(
    ("environ", "key", "value"),
    [
        ({"SAMPLE_TRAIN_ROWS": "50"}, "sampling.train_rows", 50),
        ({"SAMPLE_TRAIN_ROWS": ""}, "sampling.train_rows", 0),
        ({"SAMPLE_STRATEGY": "HEAD"}, "sampling.strategy", "head"),
        ({"SCALER": "MinMaxScaler"}, "scaling.scaler", "minmax"),
        ({"CLIP_METHOD": "percentile"}, "cleaning.clip", "none"),
        ({"CLIP_ENABLE": "true"}, "cleaning.clip", "iqr"),
        ({"CLIP_ENABLE": "1", "CLIP_METHOD": "percentile", "CLIP_FACTOR": "0.01"}, "cleaning.clip", "percentile"),
        ({"LAGS_ENABLE": "false", "LAGS_N": "3"}, "features.lags", 0),
        ({"LAGS_ENABLE": "true", "LAGS_N": "3"}, "features.lags", 3),
        ({"EXPECTED_MODEL_TYPES": "GRU,LSTM"}, "candidates", ["gru", "lstm"]),
        ({"WEEKLY_SEASONALITY": "False"}, "prophet.weekly", "off"),
        ({"FLTS_TRAINING__LEARNING_RATE": "3e-3"}, "training.learning_rate", 0.003),
    ],
)
def test_environment(environ: dict[str, str], key: str, value: object) -> None:
    assert flatten(load_settings(environ=environ).settings)[key] == value


@pytest.mark.parametrize(
    ("assignments", "environ", "sentence"),
    [
        (["training.epoch=3"], {}, "did you mean 'training.epochs'"),
        (["training.epochs"], {}, "write --set key=value"),
        (["training.epochs=many"], {}, "'training.epochs' is 'many'"),
        (["training.epochs=0"], {}, "greater than or equal to 1"),
        (["data.targets=[nope]"], {}, "not among the columns"),
        ([], {"FLTS_TRAINING__EPOCH": "3"}, "did you mean FLTS_TRAINING__EPOCHS"),
        ([], {"SAMPLE_TRAIN_ROWS": "many"}, "SAMPLE_TRAIN_ROWS is 'many'"),
        ([], {"SCALER": "Cubic"}, "known values are"),
        ([], {"CLIP_ENABLE": "perhaps"}, "CLIP_ENABLE is 'perhaps'"),
        (["cleaning.clip=percentile"], {}, "below 0.5"),
    ],
)
def test_bad_settings_are_refused_by_name(assignments: list[str], environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        load_settings(assignments=assignments, environ=environ)


def test_unknown_recipe_names_the_nearest_and_its_origin() -> None:
    with pytest.raises(UnknownRecipeError, match=r"did you mean 'classic'.*set by environment FLTS_RECIPE"):
        load_settings(environ={"FLTS_RECIPE": "clasic"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("- a list\n", "mapping"), ("a: [", "not valid YAML"), ("trainng:\n  epochs: 1\n", "training")],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        load_settings(file=file, environ={})


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(file=tmp_path / "absent.yaml", environ={})


def test_sampling_has_one_owner() -> None:
    with pytest.raises(ConfigError, match=r"SAMPLE_TRAIN_ROWS=50.*one owner"):
        load_settings(environ={"SAMPLE_TRAIN_ROWS": "50"}, samples=False)
    assert load_settings(environ={"SAMPLE_TRAIN_ROWS": ""}, samples=False).settings.sampling.train_rows == 0


def test_config_hash_follows_what_shapes_the_data_and_nothing_else() -> None:
    base = Settings().config_hash()

    def hash_with(*assignments: str) -> str:
        return load_settings(assignments=assignments, environ={}).settings.config_hash()

    assert hash_with() == base
    for shaping in (
        "sampling.seed=1",
        "sampling.train_rows=5",
        "hash_salt=x",
        "scaling.scaler=minmax",
        "features.lags=2",
    ):
        assert hash_with(shaping) != base, shaping
    for other in ("data.train=a.csv", "training.epochs=2", "seed=1", "run.home=elsewhere", "storage.root=s3://b/p"):
        assert hash_with(other) == base, other


def test_passwords_in_addresses_are_not_shown() -> None:
    address = "postgresql://flts:hunter2@db:5432/mlflow"
    resolved = load_settings(environ={"MLFLOW_TRACKING_URI": address})
    assert resolved.settings.tracking.uri == address
    shown = {key: value for key, value, _ in resolved.rows()}
    assert shown["tracking.uri"] == "postgresql://flts:***@db:5432/mlflow"
    assert "hunter2" not in str(resolved.rows())


def test_what_was_set_and_lost_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "flts.yaml"
    file.write_text("sampling:\n  train_rows: 50\nrecipe: classic\n")
    resolved = load_settings(
        file=file,
        assignments=["sampling.train_rows=5", "training.epochs=3", "training.epochs=4"],
        environ={"SAMPLE_TRAIN_ROWS": "30", "FLTS_SAMPLING__TRAIN_ROWS": "20", "SAMPLE_TEST_ROWS": ""},
    )
    assert resolved.settings.sampling.train_rows == 5
    assert dict(resolved.overridden) == {
        "sampling.train_rows": (
            (f"file {file}", 50),
            ("environment SAMPLE_TRAIN_ROWS", 30),
            ("environment FLTS_SAMPLING__TRAIN_ROWS", 20),
        ),
        "training.epochs": (("recipe classic", 10), ("command line --set training.epochs", 3)),
    }
