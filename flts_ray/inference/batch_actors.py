"""Batch forecasts on Ray Data: a pool of actors that each load the model once; an item is a whole station."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from flts_ray.cluster import Cluster
from flts_ray.data.items import dataset_of, rows_of, this_node
from flts_ray.inference.batch import Workers, in_this_process
from flts_ray.inference.batch_plan import BundleFiles, ForecastItem, ForecastJob, Model
from flts_ray.inference.batch_series import Outcome, SeriesForecaster
from flts_ray.telemetry.origin import Origin, joined, origin


class ForecastActor:
    """Forecasts stations, with the model that it loaded when it started."""

    def __init__(self, job: str, files: BundleFiles, sender: Origin) -> None:
        """Load the model; ``sender`` is who asks, for log lines and traces."""
        self._sender, self._node_id = sender, this_node()
        self._forecaster = SeriesForecaster(files.load(), ForecastJob.model_validate_json(job))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Forecast the stations of one block."""
        items = map(ForecastItem.model_validate_json, batch.column("item").to_pylist())
        with joined(self._sender, "forecast.worker", node_id=self._node_id):
            answers = [self._forecaster(item).model_dump_json() for item in items]
        return pa.table({"answer": pa.array(answers, pa.string())})


def workers_on(cluster: Cluster) -> Workers:
    """Workers that start or join the cluster when there is more than one station: a single one needs none."""

    def forecast(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
        if len(items) < 2:
            return in_this_process(items, job, model)
        cluster.ensure()
        return on_actors(items, job, model)

    return forecast


def on_actors(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
    """Forecast every item on the Ray cluster at hand, as many at once as it has CPUs; outcomes in order.

    Raises:
        ClusterError: If Ray lost processes or nodes more often than it makes up for.
    """
    import ray
    from ray.data import ActorPoolStrategy

    actors = min(len(items), max(1, int(ray.cluster_resources().get("CPU", 1))))
    dataset = dataset_of(items).map_batches(
        ForecastActor,
        fn_constructor_args=(job.model_dump_json(), model.files, origin()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors),
        num_cpus=1,
    )
    for row in rows_of(dataset, "forecasting"):
        yield Outcome.model_validate_json(row["answer"])
