"""The reference of all settings as Markdown, made from their declarations: ``python -m flts_ray.config_docs``."""

from __future__ import annotations

from flts_ray.config import Settings
from flts_ray.config_layers import flatten, setting_fields
from flts_ray.env_names import LEGACY_NAMES, PREFIX, SWITCHES
from flts_ray.recipes import RECIPES

HEAD = """# Settings

Made by `python -m flts_ray.config_docs`; do not edit by hand.

Later layers win: defaults < recipe < YAML file (`--config` or `FLTS_CONFIG`) < environment < command line
(`--set key=value`). `flts config show` prints every value and where it came from. Any key can be set from the
environment as `FLTS_<SECTION>__<KEY>`, for example `FLTS_TRAINING__EPOCHS`. Credentials of the object store are
no settings: they come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` only.

| key | default | meaning | old name |
|---|---|---|---|
"""


def markdown() -> str:
    """The whole page."""
    defaults = flatten(Settings())
    old: dict[str, list[str]] = {}
    for name, (key, _) in LEGACY_NAMES.items():
        old.setdefault(key, []).append(f"`{name}`")
    rows = [
        f"| `{key}` | {_text(defaults[key])} | {field.description} | {', '.join(old.get(key, []))} |"
        for key, field in setting_fields().items()
    ]
    recipes = [
        f"## Recipe `{name}`\n\n"
        + ("The defaults above.\n" if not values else "")
        + "".join(f"- `{key}` = {_text(value)}\n" for key, value in values.items())
        for name, values in RECIPES.items()
    ]
    switches = "".join(
        f"- `{switch}` must be on for {', '.join(f'`{name}`' for name in names if name != switch)} to count.\n"
        for switch, names in SWITCHES.items()
    )
    prefix = f"Names with the prefix `{PREFIX}` that are no setting are refused, with the nearest name.\n"
    return HEAD + "\n".join(rows) + "\n\n## Old switches\n\n" + switches + "\n" + prefix + "\n" + "\n".join(recipes)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(f"`{part}`" for part in value) or "none"
    return f"`{value}`" if value not in ("", None) else "empty"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
