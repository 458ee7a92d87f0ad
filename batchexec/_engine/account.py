"""The account that a configuration or the local service describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchexec.config import BatchConfig

if TYPE_CHECKING:
    from batchexec._azure.account import Account


def azure_account(config: BatchConfig) -> Account:
    from batchexec._azure.account import Account

    return Account(
        batch_endpoint=config.batch_endpoint or "",
        batch_account=config.batch_account or "",
        batch_key=config.batch_key,
        blob_endpoint=config.blob_endpoint or "",
        storage_account=config.storage_account or "",
        storage_key=config.storage_key,
        credential=config.credential,
    )


def local_account(ready: Mapping[str, Any]) -> Account:
    """`ready` is what the local service printed when it started."""
    from batchexec._azure.account import Account

    return Account(
        batch_endpoint=ready["batch_endpoint"],
        batch_account=ready["account"],
        batch_key=ready["batch_key"],
        blob_endpoint=ready["blob_endpoint"],
        storage_account=ready["storage_account"],
        storage_key=ready["storage_key"],
    )
