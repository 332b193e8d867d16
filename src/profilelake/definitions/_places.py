"""Where identifiers are read from, as paths, so that no two types share a place."""

from typing import Final

from profilelake.semantics.extraction import PATH_ROOTS, PATH_STEPS_MAX, custom_keys

PATH_CHARACTERS_MAX: Final = 300

PLACES: Final[dict[str, tuple[str, ...]]] = {
    "user_id": (),
    "anonymous_id": (),
    "group_id": (),
    "email": ("traits.email", "context.traits.email", "properties.email"),
    "ga_client_id": ("context.integrations.Google Analytics.clientId",),
    **{
        f"{system}.{name}": (f"context.device.{key}",)
        for system in ("android", "ios")
        for name, key in (("id", "id"), ("idfa", "advertisingId"), ("push_token", "token"))
    },
}
"""The free-form places of the types that every event is read for; the others stand in fields of their own."""


def custom_places(type: str) -> tuple[str, ...]:
    """Return the places a custom type is read from."""
    return tuple(
        f"{part}.{key}" for part in ("traits", "properties", "context.traits") for key in custom_keys(type)
    )


def fault_of_path(path: str) -> str | None:
    """Return what is wrong with a path and what to do, None where nothing is."""
    root, *steps = path.split(".")
    if root not in PATH_ROOTS or not steps:
        return (
            f"a path begins with {', '.join(f'{name}.' for name in PATH_ROOTS)} such as context.device.serial"
        )
    if len(path) > PATH_CHARACTERS_MAX or len(steps) + 1 > PATH_STEPS_MAX:
        return f"a path has at most {PATH_STEPS_MAX} steps and {PATH_CHARACTERS_MAX} characters"
    if not all(step and step.isprintable() and not set(step) & set('"\\') for step in steps):
        return "each step between the dots is a key: printable, without quotes and backslashes"
    if path.startswith("context.externalIds"):
        return "external ids are read by their type; name the type, and no path"
    if path == "context.ip" or path.startswith("context.ip."):
        return "an address is shared by many and filled in on arrival; it identifies nobody"
    return None
