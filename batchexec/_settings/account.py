"""The account: whether one is meant, what its settings imply of each other, and what a half configuration lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from .checks import connection_parts
from .given import DEFAULT, ENVIRONMENT, UNSET, Given, Origin, Secret, derived
from .wording import quoted

_BATCH = ("batch_account", "batch_endpoint", "batch_key")
_STORAGE = ("storage_account", "storage_key", "storage_connection_string", "blob_endpoint")
FIELDS = _BATCH + _STORAGE


def is_local(origins: Mapping[str, Origin], where: Given | None) -> bool:
    """True when account settings do not matter: asked for, or none is set that speaks of Batch.

    Storage variables alone are exported on many machines for other tools; those set by keyword, file or
    BATCHEXEC_* are meant for us.
    """
    place = where.value if where else "auto"
    place = place.strip().lower() if isinstance(place, str) else place
    if place in ("local", "azure"):
        return bool(place == "local")

    def meant_for_us(name: str) -> bool:
        origin = origins.get(name, UNSET)
        ours = origin.level != ENVIRONMENT or origin.source.startswith("environment BATCHEXEC_")
        return ours and origin.level != DEFAULT

    return not any(name in origins for name in _BATCH) and not any(
        meant_for_us(name) for name in (*_STORAGE, "credential")
    )


def derive(given: dict[str, Given]) -> list[str]:
    """Fill in what other settings imply: the parts of a connection string, names in URLs, URLs of names."""
    problems = _unfold_connection_string(given)
    for account, endpoint, host in (
        ("batch_account", "batch_endpoint", r"([a-z0-9]{3,24})\.[a-z0-9-]+(\.\w+)?\.batch\..+"),
        ("storage_account", "blob_endpoint", r"([a-z0-9]{3,24})\.([\w-]+\.)?blob\..+"),
    ):
        url, name = given.get(endpoint), given.get(account)
        if url is None:
            continue
        parts = urlsplit(url.value)
        in_host = re.fullmatch(host, parts.hostname or "")
        in_path = re.fullmatch("/([a-z0-9]{3,24})", parts.path)  # emulators: http://127.0.0.1:10000/NAME
        if name is None and (found := in_host or in_path):
            given[account] = derived(found[1], endpoint, url)
        elif name is not None and in_host and name.value != in_host[1]:
            problems.append(
                f"{account} {name.value!r} ({name.origin.source}) does not belong to {endpoint} "
                f"{quoted(url.value)} ({url.origin.source})"
            )
    name = given.get("storage_account")
    if name and "blob_endpoint" not in given:
        url_text = f"https://{name.value}.blob.core.windows.net"
        given["blob_endpoint"] = derived(url_text, "storage_account", name)
    return problems


def _unfold_connection_string(given: dict[str, Given]) -> list[str]:
    string, name = given.get("storage_connection_string"), given.get("storage_account")
    if string is None:
        return []
    parts = connection_parts(string.value)
    if name is not None and name.value != parts["storage_account"]:
        if name.origin.level > string.origin.level:
            del given["storage_connection_string"]  # another account was asked for, more explicitly
            return []
        if name.origin.level == string.origin.level:
            return [
                f"storage_account {name.value!r} ({name.origin.source}) is not the account of "
                f"storage_connection_string ({string.origin.source})"
            ]
    for field_name, value in parts.items():
        present = given.get(field_name)
        if present is None or present.origin.level < string.origin.level:
            value = Secret(value) if field_name == "storage_key" else value
            given[field_name] = derived(value, "storage_connection_string", string)
    return []


def missing(values: Mapping[str, str | None]) -> list[str]:
    """What an account, given the values of FIELDS, needs and does not have, in the words of `az batch`."""
    storage = (
        "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY "
        "(without the key your Azure login is used)"
    )
    if not any(values.values()):
        return [
            "no account is configured: set AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT and "
            f"AZURE_BATCH_ACCESS_KEY (without the key your Azure login is used), and {storage}; "
            "where='local' runs on this machine"
        ]
    lacks = []
    if not values["batch_account"]:
        lacks.append("batch_account is missing: set AZURE_BATCH_ACCOUNT to the name of the Batch account")
    if not values["batch_endpoint"]:
        lacks.append(
            "batch_endpoint is missing: set AZURE_BATCH_ENDPOINT to the account's URL, shown on its page in "
            f"the Azure portal or by `az batch account show --name {values['batch_account'] or 'NAME'} "
            "--resource-group GROUP --query accountEndpoint`"
        )
    if not values["storage_account"] or not values["blob_endpoint"]:
        lacks.append(f"storage_account is missing: {storage}")
    return lacks
