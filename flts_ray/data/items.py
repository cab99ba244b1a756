"""Ray datasets whose rows are whole stations: blocks of rows would keep neither stations apart nor rows in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from flts_ray.errors import ClusterError
from flts_ray.redaction import redacted


def dataset_of(items: Sequence[BaseModel]) -> Any:
    """A Ray dataset with a block an item, whose column ``item`` is the item's JSON; quiet, and in order."""
    import ray.data
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its warnings are about progress bars and such
    context = DataContext.get_current()
    context.use_datasource_v2 = False
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # Reserving memory for outputs that it does not know yet, Ray Data starts tasks late; ours are a few bytes.
    context.op_resource_reservation_enabled = False
    rows = [{"item": item.model_dump_json()} for item in items]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def this_node() -> str:
    """Ray's name of the node that this process, one of Ray's, runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def rows_of(dataset: Any, work: str) -> Iterator[dict[str, Any]]:
    """The rows of a Ray dataset, as they are computed.

    Args:
        dataset: What to compute.
        work: What it does, for the message.

    Raises:
        ClusterError: If Ray lost processes, nodes or memory: what the program refuses itself travels as data.
    """
    import ray

    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ClusterError(
            f"Ray could not go on with {work} ({redacted(lines[-1] if lines else type(error).__name__)}): check "
            "the cluster's nodes and memory, then run the same command"
        ) from error
