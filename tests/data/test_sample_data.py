from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flts_ray.config import RAW_COLUMNS, DataSettings
from flts_ray.data.quality import split_quality
from flts_ray.data.sample_data import sample_station, write_sample_data
from flts_ray.data.shaping import check_split_order
from flts_ray.data.source import read_rows
from flts_ray.data.storage import NoBucketError, Store
from tests.services import S3Server


@pytest.mark.unit
def test_files_follow_the_schema_contract(tmp_path: Path) -> None:
    files = [Path(name) for name in write_sample_data(tmp_path, stations=("a", "b"), days=3, seed=1)]
    assert [f.relative_to(tmp_path).as_posix() for f in files] == [
        "train/a.csv",
        "test/a.csv",
        "train/b.csv",
        "test/b.csv",
    ]
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(files)
    assert files[0].read_text().splitlines()[0] == ",".join(["time", *RAW_COLUMNS])
    train, test = (read_rows(f.read_bytes(), str(f), DataSettings()).frames[0] for f in files[:2])
    check_split_order(train, test)
    assert len(test) == round(0.2 * (len(train) + len(test)))
    assert split_quality(train).step_s == 120.0


@pytest.mark.unit
def test_the_same_seed_gives_the_same_station_whatever_the_others(tmp_path: Path) -> None:
    def written(folder: str, *stations: str, seed: int = 7) -> list[bytes]:
        files = write_sample_data(tmp_path / folder, stations=stations, days=2, seed=seed)
        return [Path(name).read_bytes() for name in files]

    one, two = written("x", "a"), written("y", "b", "a")
    assert one[0] == two[2]
    assert two[0] != two[2]
    assert one[0] != written("z", "a", seed=8)[0]


@pytest.mark.service
def test_a_bucket_takes_the_same_bytes_as_a_folder(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.make_bucket("reports")
    there, here = "s3://reports/in", write_sample_data(tmp_path, stations=("a",), days=2)
    written = write_sample_data(there, storage=s3_server.settings(), stations=("a",), days=2)
    assert written == [f"{there}/train/a.csv", f"{there}/test/a.csv"]
    store = Store(there, s3_server.settings())
    assert [store.read_bytes(name) for name in store.list()] == [Path(name).read_bytes() for name in sorted(here)]
    with pytest.raises(NoBucketError, match="'report'"):
        write_sample_data("s3://report/in", storage=s3_server.settings(), stations=("a",), days=2)
    assert "report" not in s3_server.buckets()


@pytest.mark.parametrize("name", ["Harbour", "Market", "University"])
@pytest.mark.unit
def test_values_are_of_the_size_of_published_ones(name: str) -> None:
    frame = sample_station(name)
    found = split_quality(frame)
    assert 9_000 < found.rows <= 14 * 720 and found.gaps > 0
    assert 0 < found.missing_cells < 200 and set(found.missing) == {"mcs_up", "mcs_up_var"}
    down, blocks = frame.column("down"), frame.column("rb_down")
    assert down.min() > 1e6 and 3e7 < down.mean() < 4e8 and 4e8 < down.max() <= 2.4e9
    assert np.corrcoef(down, blocks)[0, 1] > 0.8
    assert np.nanmin(frame.values) >= 0 and blocks.max() <= 1


@pytest.mark.parametrize("name", ["Harbour", "Market", "University"])
@pytest.mark.unit
def test_persistence_can_be_beaten_but_not_by_much(name: str) -> None:
    """A regression on ten past logarithms: on published stations it has a skill of about 0.1."""
    x = np.log(sample_station(name).column("down"))
    history = np.lib.stride_tricks.sliding_window_view(x, 10)[:-1] - x[9:-1, None]
    step = np.diff(x)[9:]
    cut = len(step) * 4 // 5
    weights = np.linalg.lstsq(history[:cut, :-1], step[:cut], rcond=None)[0]
    left = step[cut:] - history[cut:, :-1] @ weights
    skill = 1 - np.sqrt(np.mean(left**2) / np.mean(step[cut:] ** 2))
    assert 0.05 < skill < 0.35
