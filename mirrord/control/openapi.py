"""The API's description, OpenAPI 3.1, made of the models."""

from __future__ import annotations

from typing import Any


def document() -> dict[str, Any]:
    return {"openapi": "3.1.0"}
