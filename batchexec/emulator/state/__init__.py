"""What the service knows: pools, nodes, jobs and tasks as plain objects, each changing state in one place."""

from .account import Account
from .job import Job, Task, settings
from .pool import Node, Pool
from .resource import Body, Resource, continue_serials, next_serial, watch

__all__ = [
    "Account",
    "Body",
    "Job",
    "Node",
    "Pool",
    "Resource",
    "Task",
    "continue_serials",
    "next_serial",
    "settings",
    "watch",
]
