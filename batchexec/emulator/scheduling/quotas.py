"""What the account may have at once: cores, pools and active jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchexec.emulator.errors import BatchError

if TYPE_CHECKING:
    from batchexec.emulator.faults.faults import Fault
    from batchexec.emulator.state import Account, Body, Pool


@dataclass(frozen=True)
class Quotas:
    """None stands for no limit. Spot cores are one number across all sizes, as dedicated ones are."""

    cores: int | None = None
    spot_cores: int | None = None
    pools: int | None = None
    jobs: int | None = None

    def admit_pool(self, account: Account) -> None:
        """Raise unless there is room for one more pool; one that is being deleted still takes its place."""
        if self.pools is not None and len(account.pools) >= self.pools:
            raise BatchError("PoolQuotaReached", Quota=str(self.pools))

    def admit_job(self, account: Account) -> None:
        """Raise unless there is room for one more active job; completed ones take no place."""
        if self.jobs is not None and sum(job.takes_quota for job in account.jobs.values()) >= self.jobs:
            raise BatchError("ActiveJobAndScheduleQuotaReached", Quota=str(self.jobs))

    def grant(self, account: Account, pool: Pool, dedicated: bool, wanted: int) -> tuple[int, Body | None]:
        """How many of the nodes wanted the pool gets, and the resize error that tells of the others."""
        if wanted > 0 and account.faults.active:
            fault = account.faults.take("allocation", pool=pool.id, dedicated=str(dedicated).lower())
            if fault is not None:
                return min(wanted, fault["nodes"]), _told_so(fault, wanted)
        quota = self.cores if dedicated else self.spot_cores
        if quota is None or wanted <= 0:
            return max(0, wanted), None
        taken = sum(cores_of(other.vm_size) * other.count(dedicated) for other in account.pools.values())
        granted = min(wanted, max(0, quota - taken) // cores_of(pool.vm_size))
        if granted == wanted:
            return granted, None
        code, kind = (
            ("AccountCoreQuotaReached", "") if dedicated else ("AccountLowPriorityCoreQuotaReached", "low priority ")
        )
        values = {"CoreQuota": quota, "CoresInUse": taken, "NodesWanted": wanted, "NodesGranted": granted}
        return granted, {
            "code": code,
            "message": f"The specified account has reached {kind}core quota",
            "values": [{"name": name, "value": str(value)} for name, value in values.items()],
        }


def _told_so(fault: Fault, wanted: int) -> Body:
    values = {"NodesWanted": wanted, "NodesGranted": min(wanted, fault["nodes"])}
    return {
        "code": fault["code"],
        "message": fault["message"] or "The service was told not to allocate these nodes",
        "values": [{"name": name, "value": str(value)} for name, value in values.items()],
    }


def cores_of(vm_size: str) -> int:
    """vCPUs as the size's name tells them: Standard_D4s_v5 has 4."""
    match = re.match(r"(?:Standard|Basic)_[A-Za-z]+(\d+)", vm_size, re.IGNORECASE)
    return max(1, int(match.group(1))) if match else 1
