"""The command line as its users meet it: what it refuses, in which words, with which exit code, leaving nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flts_ray import cli, errors
from flts_ray.config import RAW_COLUMNS
from flts_ray.env_names import LEGACY_NAMES
from tests.helpers import OURS, Answer, sets, station_values, write_csv

TRAIN, TEST = 60, 20
SMALL = {
    "features.ema_spans": "6",
    "features.rolling_std": "",
    "features.profile": "false",
    "windows.lookback": "4",
}

Flts = Callable[..., Answer]


@pytest.fixture
def flts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Flts]:
    """Runs the entry point in this process, in an environment without settings."""
    for name in os.environ:
        if name in LEGACY_NAMES or (name.startswith(OURS) and not name.startswith("RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["flts", *arguments])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Answer(code, out, err)

    yield call
    ours = logging.getLogger("flts_ray")
    for handler in ours.handlers[:]:
        ours.removeHandler(handler)
        handler.close()
    ours.propagate = True


def sentence(answer: Answer) -> str:
    """The one line on stderr that is for people."""
    lines = [line for line in answer.err.splitlines() if line and not line.startswith("{")]
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@dataclass(frozen=True)
class Files:
    """A good pair of files; each case spoils it."""

    train: Path
    test: Path
    values: np.ndarray

    def edit(self, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
        """Change the cells of the train file, header included."""
        rows = [line.split(",") for line in self.train.read_text().splitlines()]
        self.train.write_text("".join(",".join(row) + "\n" for row in change(rows)))

    def put(self, column: str, value: str, rows: slice) -> None:
        """Write one value into some rows of a column of the train file."""
        at = 1 + RAW_COLUMNS.index(column)

        def change(cells: list[list[str]]) -> list[list[str]]:
            for row in cells[1:][rows]:
                row[at] = value
            return cells

        self.edit(change)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    values = station_values(TRAIN + TEST, seed=1)
    return Files(
        write_csv(tmp_path / "alpha.csv", values[:TRAIN]),
        write_csv(tmp_path / "alpha_test.csv", values[TRAIN:], first=TRAIN),
        values,
    )


def empty(files: Files) -> None:
    files.train.write_text("")


def only_a_header(files: Files) -> None:
    files.edit(lambda rows: rows[:1])


def no_column(files: Files) -> None:
    files.edit(lambda rows: [row[:-1] for row in rows])


def no_time(files: Files) -> None:
    files.edit(lambda rows: [row[1:] for row in rows])


def words(files: Files) -> None:
    files.put("rb_up", "many", slice(7, 8))


def nothing_but_holes(files: Files) -> None:
    files.put("mcs_up", "", slice(None))


def twice(files: Files) -> None:
    files.edit(lambda rows: [*rows[:9], rows[8], *rows[9:]])


def shuffled(files: Files) -> None:
    files.edit(lambda rows: [*rows[:5], rows[6], rows[5], *rows[7:]])


def few(files: Files) -> None:
    files.edit(lambda rows: rows[:4])


def negative(files: Files) -> None:
    files.put("up", "-5.0", slice(3, 4))


def gone(files: Files) -> None:
    files.train.unlink()


def swapped(files: Files) -> None:
    write_csv(files.test, files.values[TRAIN:], first=-TEST)


def overlapping(files: Files) -> None:
    write_csv(files.test, files.values[TRAIN:], first=TRAIN - 1)


BAD = [
    (empty, errors.EmptyInputError, "is empty"),
    (only_a_header, errors.EmptyInputError, "no rows"),
    (no_column, errors.MissingColumnError, "'rb_up_var'"),
    (no_time, errors.MissingColumnError, "'time'"),
    (words, errors.ColumnTypeError, "'many' in row 8"),
    (nothing_but_holes, errors.AllMissingError, "'mcs_up'"),
    (twice, errors.TimeOrderError, "repeats"),
    (shuffled, errors.TimeOrderError, "earlier"),
    (few, errors.TooFewRowsError, "3"),
    (negative, errors.NegativeValueError, "'up'"),
    (gone, errors.SourceNotFoundError, "alpha.csv"),
    (swapped, errors.SplitOrderError, "test"),
    (overlapping, errors.SplitOrderError, "test"),
]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("spoil", "error", "words"), BAD, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(
    flts: Flts,
    files: Files,
    tmp_path: Path,
    spoil: Callable[[Files], None],
    error: type[errors.FltsError],
    words: str,
) -> None:
    spoil(files)
    home = tmp_path / "home"
    answer = flts(
        "run", "--json", "--train", str(files.train), "--test", str(files.test), "--home", str(home), *sets(SMALL)
    )
    assert answer.code == error.exit_code, answer.err
    assert answer.out == ""
    assert words in sentence(answer)
    assert [path for path in home.rglob("*") if path.is_file() and path.parent.name != ".locks"] == []
    for part in ("datasets", "runs", "models"):
        assert list((home / part).glob("*")) == []


@pytest.mark.unit
def test_every_refusal_has_an_exit_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FltsError)]
    codes = [kind.exit_code for kind in kinds]
    assert len(kinds) > 15
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, list[str]]:
    """A home with one dataset, and the arguments that made it."""
    folder = tmp_path_factory.mktemp("prepared")
    values = station_values(TRAIN + TEST, seed=2)
    train = write_csv(folder / "alpha.csv", values[:TRAIN])
    test = write_csv(folder / "alpha_test.csv", values[TRAIN:], first=TRAIN)
    return folder / "home", ["--train", str(train), "--test", str(test), *sets(SMALL)]


@pytest.fixture
def home(prepared: tuple[Path, list[str]], flts: Flts, tmp_path: Path) -> Path:
    """A copy of that home, to be spoilt."""
    place, arguments = prepared
    if not place.exists():
        answer = flts("preprocess", *arguments, "--home", str(place))
        assert answer.code == 0, answer.err
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy"


def the_dataset(home: Path) -> Path:
    (folder,) = (home / "datasets").iterdir()
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def claim_says_more_rows(folder: Path) -> None:
    path = folder / "claim.json"
    claim = json.loads(path.read_text())
    claim["series"][0]["train"]["rows"] += 1
    path.write_text(json.dumps(claim))


def claim_is_cut(folder: Path) -> None:
    path = folder / "claim.json"
    path.write_text(path.read_text()[:200])


def rows_are_altered(folder: Path) -> None:
    flip(next(folder.glob("train/*.parquet")))


def rows_are_gone(folder: Path) -> None:
    next(folder.glob("test/*.parquet")).unlink()


TAMPERED = [claim_says_more_rows, claim_is_cut, rows_are_altered, rows_are_gone]


@pytest.mark.ray
@pytest.mark.parametrize("spoil", TAMPERED, ids=lambda f: f.__name__)
def test_a_tampered_dataset_is_refused_in_one_sentence(flts: Flts, home: Path, spoil: Callable[[Path], None]) -> None:
    name = the_dataset(home).name
    assert flts("claim", name, "--home", str(home)).code == 0
    spoil(the_dataset(home))
    before = sorted(home.rglob("*"))
    answer = flts("claim", name, "--home", str(home), "--json")
    assert answer.code == errors.IntegrityError.exit_code
    assert answer.out == ""
    assert name[:12] in sentence(answer)
    assert sorted(home.rglob("*")) == before


@pytest.mark.ray
@pytest.mark.parametrize("spoil", TAMPERED, ids=lambda f: f.__name__)
def test_preprocessing_again_repairs_a_tampered_dataset(
    flts: Flts, home: Path, prepared: tuple[Path, list[str]], spoil: Callable[[Path], None]
) -> None:
    whole = json.loads((the_dataset(home) / "claim.json").read_text())
    spoil(the_dataset(home))
    answer = flts("preprocess", *prepared[1], "--home", str(home), "--json")
    assert answer.code == 0, answer.err
    assert answer.named("preprocess_repairing")
    assert answer.document["series"] == whole["series"]
    assert flts("claim", whole["dataset_id"], "--home", str(home)).code == 0


@pytest.mark.ray
def test_preprocess_prints_its_claim_and_recognises_what_is_done(
    flts: Flts, home: Path, prepared: tuple[Path, list[str]]
) -> None:
    answer = flts("preprocess", *prepared[1], "--home", str(home), "--json")
    assert answer.code == 0
    assert answer.named("preprocess_skipped")
    assert answer.document["dataset_id"] == the_dataset(home).name
    (station,) = answer.document["series"]
    assert (station["series"], station["train"]["rows"], station["test"]["rows"]) == ("alpha", TRAIN, TEST)
    forced = flts("preprocess", *prepared[1], "--home", str(home), "--json", "--force")
    assert forced.named("preprocess_done")
    assert not forced.named("preprocess_skipped")
    assert forced.document["series"] == answer.document["series"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["run", "--recipe", "clasic"], errors.UnknownRecipeError, "did you mean 'classic'?"),
        (["run"], errors.ConfigError, "data.train"),
        (["run", "--set", "training.epoch=3"], errors.ConfigError, "training.epochs"),
        (["run", "--set", "training.epochs=many"], errors.ConfigError, "training.epochs"),
        (["run", "--set", "training.epochs=0"], errors.ConfigError, "training.epochs"),
        (["run", "--set", "candidates=arima"], errors.ConfigError, "candidates"),
        (["run", "--config", "nowhere.yaml"], errors.ConfigError, "nowhere.yaml"),
        (["run", "--train", "s3nowhere/*.csv"], errors.SourceNotFoundError, "s3nowhere"),
        (["leaderboard"], errors.ConfigError, "no finished run"),
        (["claim", "0" * 64], errors.DataError, "0000"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_a_wrong_request_is_refused_in_one_sentence(
    flts: Flts, tmp_path: Path, arguments: list[str], error: type[errors.FltsError], words: str
) -> None:
    answer = flts(*arguments)
    assert answer.code == error.exit_code, answer.err
    assert answer.out == ""
    assert words in sentence(answer)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["champion", "rollback"])
def test_where_nothing_was_promoted_there_is_nothing_to_roll_back(flts: Flts, command: str) -> None:
    answer = flts(command, "alpha", "--json")
    if command == "champion":
        assert answer.code == 0
        assert answer.document == {"name": "flts-alpha", "champion": None, "previous": None}
    else:
        assert answer.code == errors.TrackingError.exit_code
        assert answer.out == ""
        assert "cannot be rolled back" in sentence(answer)


@pytest.mark.unit
def test_config_show_names_the_origin_of_every_value(flts: Flts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLE_TRAIN_ROWS", "50")
    shown = flts("config", "show", "--recipe", "classic", "--set", "training.epochs=3", "--json")
    rows = shown.document["settings"]
    assert (rows["training.epochs"]["value"], rows["sampling.train_rows"]["value"]) == (3, 50)
    assert rows["recurrent.loss"]["value"] == "mse"
    assert rows["windows.horizon"]["origin"] == "default"
    origins = [rows[k]["origin"] for k in ("training.epochs", "sampling.train_rows", "recurrent.loss")]
    assert "SAMPLE_TRAIN_ROWS" in origins[1]
    assert "classic" in origins[2]
    assert len({*origins, "default"}) == 4
    hashed = flts("config", "hash", "--recipe", "classic", "--set", "training.epochs=3")
    assert hashed.out.strip() == shown.document["config_hash"]
    assert flts("config", "hash", "--recipe", "classic").out == hashed.out, "epochs do not shape the data"
    assert flts("config", "hash").out != hashed.out


@pytest.mark.unit
def test_config_show_for_people_lists_the_same(flts: Flts) -> None:
    answer = flts("config", "show")
    assert answer.code == 0
    assert "training.learning_rate" in answer.out
    assert "config_hash" in answer.out


@pytest.mark.unit
def test_version_and_help(flts: Flts) -> None:
    assert flts("--version").out.startswith("flts-ray ")
    listed = flts("--help")
    assert listed.code == 0
    for command in ("run", "preprocess", "leaderboard", "rollback", "config", "sample-data"):
        assert command in listed.out


@pytest.mark.unit
def test_a_finished_interruption_leaves_sigterm_as_it_was(flts: Flts) -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    flts("--version")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.unit
def test_there_is_nothing_to_deliver_where_nothing_ran(flts: Flts) -> None:
    answer = flts("sync", "--json")
    assert (answer.code, answer.document["pending"], answer.document["closed"]) == (0, 0, [])


@pytest.mark.unit
def test_two_configurations_are_told_apart_and_the_exit_code_says_so(flts: Flts, tmp_path: Path) -> None:
    for name, epochs in (("a", 10), ("b", 5), ("c", 10)):
        (tmp_path / f"{name}.yaml").write_text(f"training:\n  epochs: {epochs}\n")
    for more in ((), ("--json",)):
        differ = flts("reconcile", "a.yaml", "b.yaml", *more)
        assert (differ.code, "training.epochs" in differ.out) == (1, True)
    assert flts("reconcile", "a.yaml", "c.yaml").code == 0
    assert flts("reconcile", "a.yaml", "nothing").code == errors.ConfigError.exit_code


@pytest.mark.unit
def test_the_doctor_prints_what_it_found_and_ends_with_it(flts: Flts) -> None:
    table, found = flts("doctor"), flts("doctor", "--json")
    assert table.code == found.code == found.document["exit_code"]
    states = {finding["check"]: finding["state"] for finding in found.document["findings"]}
    assert states
    assert (found.code != 0) == ("trouble" in states.values())
    assert all(check in table.out for check in states)
