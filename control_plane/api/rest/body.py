"""What the bodies of requests have in common: a member that nobody knows, or one of another type, is refused.

A misspelt `percent` would otherwise be the default, which is everybody, and `true` would be one percent.
Alerts of Falco are taken as Falco writes them.
"""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """The body of a request, as the OpenAPI document has it and not otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True)
