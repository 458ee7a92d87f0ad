"""One task as its environment describes it: its chunk is fetched, its result stored once."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from batchexec._wire import envelope, names, payload

from . import cache, logs
from .refusals import Refusal
from .store import PUT_LIMIT, Store


class Task:
    """What the environment says of the task. Key and SAS are taken out of `env` here."""

    def __init__(self, env: dict[str, str], work_dir: str) -> None:
        spec = json.loads(env[names.ENV_CHUNK])
        self.job = env[names.ENV_JOB]
        self.key = base64.b64decode(env[names.ENV_KEY])
        self.client_python = env[names.ENV_PYTHON]
        self.chunk: int = spec["chunk"]
        self.generation: int = spec["gen"]
        self.spec = spec
        self.node = env.get("AZ_BATCH_NODE_ID", "")
        self.work_dir = work_dir
        self.task_dir = env.get("AZ_BATCH_TASK_DIR", work_dir)
        self.store = Store(env[names.ENV_STORE])
        self.cache = cache.NodeCache(
            os.path.join(env.get("AZ_BATCH_JOB_PREP_WORKING_DIR", work_dir), "cache"), self.store, spec["blobs"]
        )
        self.result_name = names.result_blob(self.chunk, self.generation)
        self.gpus = "" if "CUDA_VISIBLE_DEVICES" in env else env.get(names.ENV_GPUS, "")
        self.pip: dict[str, Any] = json.loads(env.get(names.ENV_PIP) or "{}")  # see names.ENV_PIP
        self.is_forked = False  # from a process that may have loaded more than a fresh one
        for name in names.ENV_SECRET:
            env.pop(name, None)
            os.environ.pop(name, None)
        os.environ[names.ENV_INSIDE] = "1"

    def has_result(self) -> bool:
        return self.store.exists(self.result_name, self.spec["out"])

    def fetch(self) -> tuple[dict[str, Any], list[memoryview]]:
        """Header and frames of the chunk. Raises Refusal when it is not what our client signed."""
        start, stop = self.spec["range"]
        data = self.store.get(names.pack_blob(self.spec["pack"]), self.spec["in"], (start, stop))
        about = envelope.context("chunk", self.job, self.chunk, self.generation)
        try:
            return envelope.unseal(self.key, about, data)
        except envelope.BadEnvelope as error:
            raise Refusal("tampered", f"chunk {self.chunk}: {error}") from error

    def store_result(self, header: dict[str, Any], frames: list[payload.Frame]) -> bool:
        """Whether all of it is stored, and not only why it cannot be. `frames` end with the tails of the streams."""
        data = self.sealed(header, frames)
        if len(data) > PUT_LIMIT:
            self.store_failure("too_large", f"the chunk's results take {len(data) / 2**20:,.0f} MiB", frames)
            return False
        self.put_result(data, len(data))
        return True

    def store_failure(self, code: str, text: str, frames: list[payload.Frame]) -> None:
        """In place of a result: why it cannot be stored, and the tails of the streams, with which `frames` end."""
        data = self.sealed({"node": self.node, "failure": {"code": code, "text": text}}, frames[-2:])
        self.put_result(data, len(data))

    def put_result(self, body: Any, length: int) -> None:
        """`body`: bytes, or a file."""
        self.store.put_new(self.result_name, self.spec["out"], body, length)

    def sealed(self, header: dict[str, Any], frames: list[payload.Frame]) -> bytes:
        about = envelope.context("result", self.job, self.chunk, self.generation)
        return envelope.seal(self.key, about, header, frames)

    def upload_log(self, paths: list[str], header: dict[str, Any], frames: list[bytes]) -> None:
        """Both streams whole, after a signed head with sizes and tails. Overwrites what an earlier try left."""
        about = envelope.context("log", self.job, self.chunk, self.generation)
        header = {**header, "node": self.node, "log_sizes": logs.sizes(paths)}
        file, length = logs.log_file(envelope.seal(self.key, about, header, frames), paths)
        with file:
            self.store.put(names.log_blob(self.chunk, self.generation), self.spec["log"], file, length)
