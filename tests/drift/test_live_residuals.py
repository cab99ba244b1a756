from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import RawFrame
from flts_ray.drift.live_residuals import LiveResiduals, ResidualFigures
from flts_ray.drift.monitor import DriftMonitor
from flts_ray.drift.residuals import residual_tests
from flts_ray.drift.snapshot import Snapshot
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle
from tests.drift.replay import answers
from tests.stages import Bench

pytestmark = pytest.mark.unit

Answer = tuple[Query, Forecast]


@pytest.fixture(scope="module")
def served(bundle: Bundle, live: RawFrame) -> list[Answer]:
    return list(answers(bundle, live))


def fed(
    bundle: Bundle, given: Iterable[Answer], *, level: float | None = 0.9, refresh_each: int = 10**9, **settings: int
) -> DriftMonitor:
    monitor = DriftMonitor(bundle.manifest, DriftSettings(**settings), level=level)
    for i, (query, forecast) in enumerate(given, start=1):
        monitor.observe(query, forecast)
        if i % refresh_each == 0:
            monitor.refresh()
    monitor.refresh()
    return monitor


def only(monitor: DriftMonitor) -> ResidualFigures:
    (found,) = monitor.residuals()
    return found


def with_snapshot(bundle: Bundle, snapshot: dict[str, object], **more: object) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"snapshot": snapshot, **more}))


def up_to(raw: RawFrame, origin: np.datetime64) -> RawFrame:
    """The rows up to an origin."""
    return raw.head(int(np.searchsorted(raw.time, origin, side="right")))


def recursive(forecast: Forecast, steps: int) -> Forecast:
    """The same answer, its last step repeated."""
    more = [(0, 0)] * forecast.lower.ndim
    more[-2] = (0, steps - len(forecast.values))
    return replace(
        forecast,
        values=np.pad(forecast.values, more[1:], mode="edge"),
        lower=np.pad(forecast.lower, more, mode="edge"),
        upper=np.pad(forecast.upper, more, mode="edge"),
    )


def test_figures_are_those_of_the_report(bundle: Bundle, live: RawFrame, served: Sequence[Answer]) -> None:
    found = only(fed(bundle, served))
    assert (found.series, found.target, found.step) == ("alpha", "down", 1)
    assert found.rows == len(served) - 1, "nobody has reported what came of the last"
    (training,) = Snapshot.read(bundle.manifest.snapshot).series["alpha"].residuals["down"]
    assert training is not None
    (scaler,) = bundle.manifest.transforms["alpha"].target_scalers
    came = live.column("down")[-found.rows :]
    answered = np.array([forecast.values[0, 0] for _, forecast in served[:-1]])
    bias, spread = residual_tests(scaler.forward(came) - scaler.forward(answered), training, step=1)
    assert found.bias_std == pytest.approx(bias.size)
    assert found.spread_ratio == pytest.approx(spread.size)
    inside = [f.lower[0, 0, 0] <= y <= f.upper[0, 0, 0] for (_, f), y in zip(served, came, strict=False)]
    assert found.coverage == np.mean(inside)


def test_errors_beyond_the_intervals_show(bundle: Bundle, served: Sequence[Answer]) -> None:
    calm = only(fed(bundle, served))
    low = [(q, replace(f, values=f.values - 1e9, lower=f.lower - 1e9, upper=f.upper - 1e9)) for q, f in served]
    assert abs(calm.bias_std) < 1 < only(fed(bundle, low)).bias_std
    assert only(fed(bundle, low)).coverage == 0 < 0.7 < calm.coverage


def test_each_forecast_counts_once(bundle: Bundle, served: Sequence[Answer]) -> None:
    once = only(fed(bundle, served))
    again = fed(bundle, [*served, *served[:300], served[-1]], refresh_each=7)
    assert only(again) == once


def test_of_answers_from_one_origin_the_last_counts(bundle: Bundle, served: Sequence[Answer]) -> None:
    first = [(q, replace(f, values=f.values + 1e9)) for q, f in served]
    both = [answer for pair in zip(first, served, strict=True) for answer in pair]
    assert only(fed(bundle, both)) == only(fed(bundle, served))


def test_requests_may_arrive_out_of_order(bundle: Bundle, live: RawFrame, served: Sequence[Answer]) -> None:
    even = served[: len(served) // 2 * 2]
    assert only(fed(bundle, [even[i ^ 1] for i in range(len(even))], refresh_each=51)) == only(fed(bundle, even))
    all_rows = replace(served[-1][0], history=live)
    assert only(fed(bundle, [(all_rows, served[-1][1]), *served[-2::-1]])) == only(fed(bundle, served))


def test_what_did_not_come_is_not_waited_for(bundle: Bundle, live: RawFrame, served: Sequence[Answer]) -> None:
    values = live.values.copy()
    values[1::2] = math.nan
    silent = replace(live, values=values)
    monitor = fed(bundle, ((replace(q, history=up_to(silent, f.origin)), f) for q, f in served))
    half = only(monitor)
    assert half.rows == len(served) // 2
    monitor.observe(replace(served[-1][0], history=live))
    monitor.refresh()
    assert only(monitor) == half


def test_only_the_latest_errors_count(bundle: Bundle, served: Sequence[Answer]) -> None:
    latest = only(fed(bundle, served[-251:], window_rows=250, refresh_each=40))
    assert latest.rows == 250
    assert only(fed(bundle, served, window_rows=250, refresh_each=40)) == latest


def test_of_answers_that_wait_the_oldest_go(bundle: Bundle, live: RawFrame, served: Sequence[Answer]) -> None:
    settings = DriftSettings(window_rows=250)
    snapshot = Snapshot.read(bundle.manifest.snapshot).series["alpha"]
    residuals = LiveResiduals("alpha", snapshot, bundle.manifest, settings, 0.9)
    for _, forecast in served:
        residuals.remember(forecast)
    due = residuals.due(live.time)
    assert list(due) == [int(f.origin.astype(np.int64)) for _, f in served[-250:-1]]
    assert residuals.due(live.time) == {}


def test_an_interval_of_another_level_is_not_counted(bundle: Bundle, served: Sequence[Answer]) -> None:
    for found in (only(fed(bundle, served, level=0.8)), only(fed(bundle, served, level=None))):
        assert math.isnan(found.coverage)
        assert math.isfinite(found.bias_std)
        assert math.isfinite(found.spread_ratio)
    second = [
        (
            q,
            replace(
                f, levels=(0.5, 0.9), lower=np.stack([f.values, f.lower[0]]), upper=np.stack([f.values, f.upper[0]])
            ),
        )
        for q, f in served
    ]
    assert only(fed(bundle, second)) == only(fed(bundle, served))


def test_too_few_outcomes_say_nothing(bundle: Bundle, served: Sequence[Answer]) -> None:
    assert fed(bundle, served[:200]).residuals() == ()
    assert only(fed(bundle, served[:201])).rows == 200


def test_training_without_validation_leaves_the_coverage(bundle: Bundle, served: Sequence[Answer]) -> None:
    known = Snapshot.read(bundle.manifest.snapshot).series["alpha"]
    bare = Snapshot(series={"alpha": known.model_copy(update={"residuals": {}})}).model_dump(mode="json")
    found = only(fed(with_snapshot(bundle, bare), served))
    assert math.isnan(found.bias_std)
    assert math.isnan(found.spread_ratio)
    assert found.coverage == only(fed(bundle, served)).coverage


def test_a_bundle_without_snapshot_counts_nothing(bundle: Bundle, served: Sequence[Answer]) -> None:
    assert fed(with_snapshot(bundle, {}), served).residuals() == ()


def test_an_unknown_station_among_several_is_left_alone(bench: Bench, bundle: Bundle, served: Sequence[Answer]) -> None:
    known = Snapshot.read(bundle.manifest.snapshot).series["alpha"]
    both = Snapshot(series={"alpha": known, "beta": known}).model_dump(mode="json")
    (transform,) = bundle.manifest.transforms.values()
    several = with_snapshot(bundle, both, transforms={"alpha": transform, "beta": transform})
    strange = [(replace(q, history=replace(q.history, series="gamma")), f) for q, f in served]
    assert fed(several, strange).residuals() == ()
    assert only(fed(several, served)) == only(fed(bundle, served))


def test_every_step_has_its_own_figures(bench: Bench, live: RawFrame) -> None:
    bundle = bench.fit(settings=bench.with_settings(windows={"horizon": 3}, training={"epochs": 2})).bundle
    served = list(answers(bundle, live))
    whole = fed(bundle, served).residuals()
    assert [(f.target, f.step, f.rows) for f in whole] == [("down", h, len(served) - 3) for h in (1, 2, 3)]
    assert len({f.bias_std for f in whole}) == 3
    longer = [(q, recursive(f, 5)) for q, f in served]
    assert fed(bundle, longer).residuals() == whole, "recursive steps do not count"
    shorter = [(q, replace(f, values=f.values[:1], lower=f.lower[:, :1], upper=f.upper[:, :1])) for q, f in served]
    assert fed(bundle, shorter).residuals() == whole[:1]
