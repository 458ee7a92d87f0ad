"""The container image of the nodes, and how they log in to the registry that it comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from batchexec.config import BatchConfig, Secret, host_of
from batchexec.errors import ConfigError

Json = dict[str, Any]

_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


def default_image() -> str:
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def image_of(config: BatchConfig) -> str:
    """The image's full name: without a server in it, an image is looked for at Docker Hub, whatever logins there are
    (REST documentation of ContainerConfiguration)."""
    image = config.image or default_image()
    if config.registry and config.registry not in _DOCKER_HUB and not host_of(image):
        return f"{config.registry}/{image}"
    return image


def container_registries(config: BatchConfig) -> list[Json]:
    """What a pool logs in with; the password is read here and kept nowhere. Raises ConfigError where it cannot be."""
    if config.registry_identity:
        return [_by_identity(config)]
    if config.registry_user:
        return [{**_server(config), "username": config.registry_user, "password": _password(config)}]
    return []


def task_registry(config: BatchConfig) -> Json | None:
    """What a task logs in with, for a pool that has not fetched its image: an identity is no secret, a password is."""
    return _by_identity(config) if config.registry_identity else None


def _by_identity(config: BatchConfig) -> Json:
    return {**_server(config), "identityReference": {"resourceId": config.registry_identity}}


def _server(config: BatchConfig) -> Json:
    """The service's own default is Docker Hub."""
    server = config.registry or host_of(config.image or "")
    return {"registryServer": server} if server else {}


def _password(config: BatchConfig) -> str:
    path = Path(config.registry_password_file or "").expanduser()
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"registry_password_file: {path} cannot be read: {reason}") from None
    if not text:
        raise ConfigError(f"registry_password_file: {path} is empty")
    return Secret(text)
