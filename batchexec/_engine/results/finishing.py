"""What a call makes of its items' outcomes before their futures have them: a Command its results and tables."""

from __future__ import annotations

from collections.abc import Callable

from batchexec._engine.sending.work import Chunk
from batchexec.futures import Delivery, Finished, Outcome


def finished(chunk: Chunk, finish: Callable[[Finished], Outcome], delivery: Delivery) -> list[Outcome]:
    """What the call makes of its items' outcomes."""
    made = []
    seconds = iter(delivery.seconds)
    for index, outcome in enumerate(delivery.outcomes):
        item = Finished(
            item=chunk.first_item + index,
            index=chunk.offset + index,
            value=outcome.value,
            error=outcome.error,
            outputs=delivery.outputs[index] if delivery.outputs else [],
            node_id=delivery.node_id,
            seconds=0.0 if index in chunk.failed else next(seconds),
            task_id=delivery.task_id,
        )
        try:
            made.append(finish(item))
        except BaseException as error:  # noqa: BLE001 - whatever is wrong there, the future must not hang
            made.append(Outcome(None, error))
    return made
