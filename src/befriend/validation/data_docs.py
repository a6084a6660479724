"""Views of the Data Docs, Great Expectations' website about checked data, whose pages need no network and no script.

The templates that come with Great Expectations load style sheets, scripts and a logo from other servers. The views here
put templates of this package before them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from great_expectations.render.view import DefaultJinjaPageView

from befriend import files
from befriend.plots import DARK, LIGHT


class DataDocsPage(DefaultJinjaPageView):
    """A page of the Data Docs with its style inline: the index, an expectation suite, or the results of one."""

    _template = "data_docs_page.j2"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        own_templates = jinja2.PackageLoader("befriend.validation", "templates")
        self.env.loader = jinja2.ChoiceLoader([own_templates, self.env.loader])
        self.env.globals["palettes"] = {"light": LIGHT, "dark": DARK}


def site_config(folder: Path) -> dict[str, Any]:
    """The configuration of a Data Docs site in `folder` with these views, for a context of Great Expectations."""
    view = {"view": {"module_name": __name__, "class_name": DataDocsPage.__name__}}
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", **view},
        "site_section_builders": {"expectations": view, "validations": view},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())},
    }


def remove_unused_files(folder: Path) -> None:
    """Removes fonts and images from a site, 4 MB that none of its pages refers to."""
    files.remove(folder / "static")
