"""Faults of whole nodes: preempted, rebooted, unusable, out of contact; when a task starts, at a time, or at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from batchexec.emulator.clock import Clock
from batchexec.emulator.errors import BatchError, invalid
from batchexec.emulator.state import Account, Node

from .faults import NODE, Fault, Faults

if TYPE_CHECKING:
    from batchexec.emulator.scheduling.nodes import Nodes

_ALIVE = ("idle", "running")
ACTIONS = ("preempt", "recreate", "reboot", "unusable", "offline", "give-up", "reconnect")
_UNUSABLE = "The node could not be used any more"


def immune(node: Node) -> frozenset[str]:
    """The kinds of fault that cannot strike a node: dedicated ones are never preempted."""
    return frozenset(("preempt",)) if node.dedicated else frozenset()


def strike_later(nodes: Nodes, clock: Clock, node: Node, fault: Fault) -> None:
    clock.call_later(fault["seconds"], lambda: _strike(nodes, clock, node, fault))


def arm(faults: Faults, specs: object, account: Account, nodes: Nodes, clock: Clock) -> list[Fault]:
    """Arm faults, and set the clock for those that strike at a time. Raises BadFault."""
    armed = faults.arm(specs)
    for fault in armed:
        if fault.point == NODE and fault["at"] is not None:
            clock.call_later(fault["at"], partial(_strike_any, faults, account, nodes, clock, fault))
    return armed


def _strike_any(faults: Faults, account: Account, nodes: Nodes, clock: Clock, fault: Fault) -> None:
    """Strike one of the living nodes that match, unless the fault was disarmed meanwhile."""
    if fault not in faults.all():
        return
    there = [node for pool in account.pools.values() for node in pool.nodes.values()]
    living = [node for node in there if node.state in _ALIVE and fault.kind not in immune(node)]
    fault.random.shuffle(living)
    for node in living:
        if fault.strikes({"pool": node.pool.id, "node": node.id}):
            _strike(nodes, clock, node, fault)
            return


def _strike(nodes: Nodes, clock: Clock, node: Node, fault: Fault) -> None:
    if node.id not in node.pool.nodes or node.state not in _ALIVE:
        return  # gone, or struck already
    if fault.kind == "preempt":
        nodes.preempt(node, fault["back"])
    elif fault.kind == "reboot":
        nodes.reboot(node, "requeue")
    elif fault.kind == "unusable":
        nodes.make_unusable(node, fault["code"], fault["message"] or _UNUSABLE)
    else:
        nodes.disconnect(node)
        if fault["given_up"] is not None:
            clock.call_later(fault["given_up"], lambda: nodes.give_up(node))
        if fault["back"] is not None:
            clock.call_later(fault["back"], lambda: nodes.reconnect(node))


def act(nodes: Nodes, node: Node, action: str, body: Mapping[str, Any]) -> None:
    """Do something to a node at once. Raises BatchError where it cannot be done."""
    if action == "preempt":
        if node.dedicated:
            raise BatchError("OperationInvalidForCurrentState", Reason="a dedicated node is never preempted")
        nodes.preempt(node)
    elif action == "recreate":
        nodes.recreate(node)
    elif action == "reboot":
        nodes.reboot(node, "requeue")
    elif action == "unusable":
        nodes.make_unusable(node, str(body.get("code") or "NodeUnusable"), str(body.get("message") or _UNUSABLE))
    elif action == "offline":
        nodes.disconnect(node)
    elif action == "give-up":
        nodes.give_up(node)
    elif action == "reconnect":
        nodes.reconnect(node)
    else:
        raise invalid("action", action, f"it is one of {', '.join(ACTIONS)}")
