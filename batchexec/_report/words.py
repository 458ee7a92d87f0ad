"""Exceptions in words, whatever their own methods do."""

from __future__ import annotations


def text_of(error: BaseException) -> str:
    """Its text, where it has one that can be had."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - user code may have made the class; it is to be described, not met
        return f"<no text: its __str__ raises {type(broken).__name__}>"


def described(error: BaseException) -> str:
    """Its class and its text."""
    return f"{type(error).__name__}: {text_of(error)}"
