"""Request bodies: of the right type, no longer than allowed, and read as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from flts_ray.errors import Problem
from serve.problems import Refusal, invalid, problems_of

INLINE_BYTES = 64 * 1024
"""Bodies up to this length are read on the event loop: less than a millisecond. Longer ones go to a thread."""

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)


def announced_bytes(request: Request, *, otherwise: int = INLINE_BYTES) -> int:
    """Length of a body as its sender says; ``otherwise`` if it does not say."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) < 20 else otherwise


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body of a request.

    Bytes are counted as they come: a ``Content-Length`` may be absent or wrong, so it only ever refuses sooner.

    Args:
        request: Not read from yet.
        most_bytes: Longest body.

    Raises:
        Refusal: 415 if it is not JSON in UTF-8, 413 if it is too long.
        ClientDisconnect: If the client left.
    """
    _check_type(request)
    if announced_bytes(request, otherwise=0) > most_bytes:
        raise _too_large(most_bytes)
    chunks: list[bytes] = []
    length, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        length += len(chunk)
        if length > most_bytes:
            raise _too_large(most_bytes)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class OffLoop:
    """Does work on a few bytes at once, and on many in one thread.

    One, because reading JSON holds the interpreter's lock, and the event loop gets its turn sooner among few threads.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")

    async def __call__(self, length: int, work: Callable[[], Result]) -> Result:
        """The result of the work on ``length`` bytes."""
        if length <= INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def parse(model: type[Model], body: bytes) -> Model:
    """Read a body as JSON into a model.

    Raises:
        Refusal: 400 if it is not JSON, 422 if it is not what the model says.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        problems = problems_of(errors)
        if errors[0]["type"] == "json_invalid":
            raise Refusal(400, "the body is not JSON", problems) from None
        raise invalid(problems) from None


def _check_type(request: Request) -> None:
    sent = request.headers.get("content-type", "")
    if sent != "application/json":  # the usual case costs nothing
        media, _, parameters = sent.partition(";")
        charset = parameters.replace(" ", "").replace('"', "").lower()
        if media.strip().lower() != "application/json" or charset not in {"", "charset=utf-8", "charset=us-ascii"}:
            shown = f"it is {sent[:80]!r}" if sent else "there is none"
            raise Refusal(
                415,
                "the body must be JSON in UTF-8",
                [Problem("Content-Type", shown, "send Content-Type: application/json")],
            )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(
            415,
            "compressed bodies are not read",
            [Problem("Content-Encoding", "the body is compressed", "send it as it is")],
            headers={"Accept-Encoding": "identity"},
        )


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"the body is longer than {most_bytes} bytes",
        [Problem("body", f"it is longer than {most_bytes} bytes", "send fewer rows or fewer histories")],
        headers={"Connection": "close"},
    )
