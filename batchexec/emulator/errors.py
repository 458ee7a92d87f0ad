"""Errors of the Batch service: their codes, statuses and the envelope they travel in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

_STATUS = {
    "InvalidPropertyValue": (
        400,
        "The value provided for one of the properties in the request body is invalid.",
    ),
    "InvalidRequestBody": (400, "The specified Request Body is not syntactically valid."),
    "MissingRequiredProperty": (400, "A required property was not specified in the request body."),
    "InvalidQueryParameterValue": (
        400,
        "Value for one of the query parameters specified in the request URI is invalid.",
    ),
    "OutOfRangeQueryParameterValue": (
        400,
        "A query parameter specified in the request URI is outside the permissible range.",
    ),
    "OutOfRangeInput": (400, "One of the request inputs is out of range."),
    "InvalidHeaderValue": (
        400,
        "The value provided for one of the HTTP headers was not in the correct format.",
    ),
    "InvalidAutoScalingSettings": (400, "The auto scaling settings are invalid."),
    "AutoScalingFormulaSyntaxError": (400, "The auto scaling formula has a syntax error."),
    "MissingRequiredQueryParameter": (400, "A required query parameter was not specified for this request."),
    "UnsupportedRequestVersion": (400, "The request version specified in the request URI is not supported."),
    "TaskDependenciesNotSpecifiedOnJob": (400, "The job does not use task dependencies."),
    "TaskDependencyListTooLong": (400, "The ids that the task depends on are too long together."),
    "AuthenticationFailed": (
        403,
        "Server failed to authenticate the request. Make sure the Authorization header is formed correctly.",
    ),
    "InsufficientAccountPermissions": (
        403,
        "The account being accessed does not have sufficient permissions to execute this operation.",
    ),
    "UnsupportedProperty": (400, "One of the properties in the request body is not supported."),
    "AutoScaleFormulaTooLong": (400, "The auto scaling formula has more than 8192 characters."),
    "ApplicationNotFound": (404, "The specified application does not exist."),
    "JobScheduleNotFound": (404, "The specified job schedule does not exist."),
    "PoolNotFound": (404, "The specified pool does not exist."),
    "NodeNotFound": (404, "The specified node does not exist."),
    "JobNotFound": (404, "The specified job does not exist."),
    "TaskNotFound": (404, "The specified task does not exist."),
    "FileNotFound": (404, "The specified file does not exist."),
    "ResourceNotFound": (404, "The specified resource does not exist."),
    "UnsupportedHttpVerb": (405, "The resource does not support the specified HTTP verb."),
    "PoolQuotaReached": (409, "The account has reached its quota of pools."),
    "ActiveJobAndScheduleQuotaReached": (
        409,
        "The account has reached its quota of active jobs and job schedules.",
    ),
    "PoolExists": (409, "The specified pool already exists."),
    "PoolBeingDeleted": (409, "The specified pool is being deleted."),
    "PoolBeingResized": (409, "The specified pool is being resized."),
    "NodeAlreadyInTargetSchedulingState": (409, "The node is already in the target scheduling state."),
    "NodeBeingCreated": (409, "The node is being created."),
    "NodeBeingRebooted": (409, "The node is being rebooted."),
    "NodeBeingReimaged": (409, "The node is being reimaged."),
    "NodeBeingStarted": (409, "The node is being started."),
    "NodeStateUnusable": (409, "The node is unusable."),
    "OperationNotValidOnPool": (409, "The operation is not valid for the pool."),
    "JobExists": (409, "The specified job already exists."),
    "JobCompleted": (409, "The specified job is already in a completed state."),
    "JobDisabled": (409, "The specified job is disabled."),
    "InvalidApplicationPackageReferences": (
        409,
        "One or more application package references could not be satisfied.",
    ),
    "JobNotActive": (409, "The specified job is not in an active state."),
    "JobBeingTerminated": (409, "The specified job is being terminated."),
    "JobBeingDeleted": (409, "The specified job is being deleted."),
    "JobPreparationTaskNotSpecified": (409, "The job has no job preparation task."),
    "TaskExists": (409, "The specified task already exists."),
    "TaskCompleted": (409, "The specified task is already in a completed state."),
    "TaskNotCompleted": (409, "The specified task is not completed."),
    "TaskSucceeded": (409, "The specified task has succeeded."),
    "TaskIdSameAsJobPreparationTask": (409, "The task has the id of the job preparation task."),
    "TaskIdSameAsJobReleaseTask": (409, "The task has the id of the job release task."),
    "TaskFilesUnavailable": (409, "The task files are unavailable: the node that ran it is not there."),
    "TaskFilesCleanedup": (409, "The task files were cleaned up on the node."),
    "OperationInvalidForCurrentState": (
        409,
        "The operation is not valid in the current state of the resource.",
    ),
    "ConditionNotMet": (412, "The condition specified using HTTP conditional headers is not met."),
    "RequestBodyTooLarge": (413, "The size of the request body exceeds the maximum permitted."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the file."),
    "InternalError": (500, "Server encountered an internal error. Please try again after some time."),
    "ServerBusy": (503, "The server is currently unable to receive requests. Please retry your request."),
    "TooManyEnableAutoScaleRequests": (503, "Autoscale was enabled less than 30 seconds ago."),
}


class BatchError(Exception):
    """A request that the service refuses: `code` is the service's own, `values` are its details.

    `headers` go with the reply.
    """

    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, code: str, message: str = "", **values: str) -> None:
        status, default = _STATUS[code]
        super().__init__(message or default)
        self.code = code
        self.status = status
        self.values: Mapping[str, str] = values

    def body(self) -> dict[str, object]:
        """The `BatchError` object as it stands in a collection's item."""
        found: dict[str, object] = {"code": self.code, "message": {"lang": "en-US", "value": str(self)}}
        if self.values:
            found["values"] = [{"key": key, "value": value} for key, value in self.values.items()]
        return found

    def envelope(self, metadata: str, request_id: str, time: str) -> bytes:
        body = {"odata.metadata": metadata, **self.body()}
        body["message"] = {"lang": "en-US", "value": f"{self}\nRequestId:{request_id}\nTime:{time}"}
        return json.dumps(body).encode()


class Unusable(Exception):
    """The data directory cannot be used; the message says why."""


class NotSaved(Exception):
    """What changed could not be written into the data directory, and so must not be told to anybody."""


def missing(name: str) -> BatchError:
    return BatchError("MissingRequiredProperty", PropertyName=name)


def invalid(name: str, value: object, reason: str = "") -> BatchError:
    values = {"PropertyName": name, "PropertyValue": str(value)}
    if reason:
        values["Reason"] = reason
    return BatchError("InvalidPropertyValue", **values)
