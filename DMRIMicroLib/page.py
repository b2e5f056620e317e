"""How pages of HTML are made of templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def rendered(template: Path, **values: Any) -> str:
    """Fill in a template."""
    return pages(template.parent).get_template(template.name).render(**values)


def pages(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder; values are escaped, and a missing one is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
