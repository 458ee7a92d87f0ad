"""The control route, on the port of the Batch service and behind its authentication: faults, and blows to nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

from batchexec.emulator.clock import Clock
from batchexec.emulator.errors import BatchError, invalid
from batchexec.emulator.faults import nodes as faulty_nodes
from batchexec.emulator.faults.faults import BadFault, Faults
from batchexec.emulator.state import Account

from .server import Call, Operation, answer, done

if TYPE_CHECKING:
    from batchexec.emulator.scheduling.nodes import Nodes


class FaultRoutes:
    def __init__(self, account: Account, clock: Clock, faults: Faults, nodes: Nodes) -> None:
        self._account = account
        self._clock = clock
        self._faults = faults
        self._nodes = nodes

    def operations(self) -> dict[str, Operation]:
        return {
            "GET emulator/*": self.list,
            "POST emulator/*": self.arm,
            "DELETE emulator/*": self.disarm,
            "POST emulator/*/pools/*/nodes/*": self.act,
        }

    def list(self, call: Call) -> web.Response:
        """What is armed, and how often each has matched and fired."""
        _check(call)
        return answer({"value": [fault.shown() for fault in self._faults.all()]})

    def arm(self, call: Call) -> web.Response:
        """Arm the faults in the body, or none if one is wrong."""
        _check(call)
        try:
            specs = json.loads(call.raw_body)
            armed = faulty_nodes.arm(self._faults, specs, self._account, self._nodes, self._clock)
        except BadFault as error:
            raise BatchError("InvalidPropertyValue", Reason=str(error)) from None
        except (ValueError, RecursionError) as error:
            raise BatchError("InvalidRequestBody", Reason=str(error)) from None
        response = answer({"value": [fault.shown() for fault in armed]})
        response.set_status(201)
        return response

    def disarm(self, call: Call) -> web.Response:
        """Take away one fault by `?id=`, or all."""
        _check(call)
        id = call.query.get("id")
        if id is not None and not id.isdecimal():
            raise BatchError("InvalidQueryParameterValue", QueryParameterName="id", QueryParameterValue=id)
        if not self._faults.disarm(None if id is None else int(id)):
            raise BatchError("ResourceNotFound")
        return done(204, call)

    def act(self, call: Call) -> web.Response:
        """`POST /emulator/<action>/pools/<pool>/nodes/<node>`: 204 when it was done."""
        action, pool_id, node_id = call.ids
        node = self._account.pool(pool_id).nodes.get(node_id.lower())
        if node is None:
            raise BatchError("NodeNotFound")
        faulty_nodes.act(self._nodes, node, action, call.body_or_empty())
        return done(204, call)


def _check(call: Call) -> None:
    if call.ids[0].lower() != "faults":
        raise invalid("path", call.path, "the control route is /emulator/faults")
