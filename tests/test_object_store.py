"""The whole job on a real S3 server: the same numbers as on a disk, and a second machine that finds all of it done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flts_ray.data.storage import Store
from tests.helpers import Answer, flts, sets, write_stations
from tests.services import S3Server

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]

SETTINGS = {
    "candidates": "[gru]",
    "training.epochs": 2,
    "recurrent.hidden_size": 8,
    "run.num_cpus": 2,
    "storage.root": "s3://flts/store",
}


@dataclass(frozen=True)
class Bucket:
    server: S3Server
    folder: Path
    sources: tuple[str, ...]

    def run(self, home: str, *more: str) -> Answer:
        env = {**self.server.environment, "AWS_ENDPOINT_URL": self.server.endpoint_url}
        place = ["--home", str(self.folder / home)]
        return flts("run", "--json", *self.sources, *place, *sets(SETTINGS), *more, cwd=self.folder, env=env)

    @property
    def store(self) -> Store:
        return Store("s3://flts/store", self.server.settings())


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    folder = tmp_path_factory.mktemp("machines")
    s3_server.make_bucket("flts")
    place = Store("s3://flts/in", s3_server.settings())
    for split, source in zip(("train", "test"), write_stations(folder, ("alpha",)), strict=True):
        for file in Path(source).glob("*") if Path(source).is_dir() else [Path(source)]:
            place.write_bytes(f"{split}/{file.name}", file.read_bytes())
    return Bucket(s3_server, folder, ("--train", place.uri_of("train"), "--test", place.uri_of("test")))


@pytest.fixture(scope="module")
def first(bucket: Bucket) -> Answer:
    return bucket.run("one")


def scores(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("fit_s", "predict_s")} for row in document["leaderboard"]]


def test_datasets_and_candidates_lie_in_the_bucket(bucket: Bucket, first: Answer) -> None:
    document = first.document
    assert document["verdict"]["state"] in ("promoted", "no_winner"), first.err[-3000:]
    files = bucket.store.list()
    assert f"datasets/{document['dataset_id']}/claim.json" in files
    assert {Path(file).name for file in files if file.startswith("models/gru-")} == {
        "bundle.json",
        "fit.json",
        "weights.safetensors",
    }
    assert not [file for file in files if file.startswith("checkpoints/")], "a finished fit needs none"
    assert not (bucket.folder / "one" / "datasets").exists()


def test_a_second_machine_finds_it_done(bucket: Bucket, first: Answer) -> None:
    second = bucket.run("two")
    assert "ray_start" not in second.document["timings_s"]
    assert second.document["dataset_id"] == first.document["dataset_id"]
    assert scores(second.document) == scores(first.document)


def test_no_secret_is_written_anywhere(bucket: Bucket, first: Answer) -> None:
    secret = bucket.server.secret_key
    assert secret not in first.out + first.err
    written = [file for file in (bucket.folder / "one").rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written if secret.encode() in file.read_bytes()]
    assert json.loads((bucket.folder / "one" / "runs" / first.document["run_id"] / "run.json").read_text())
