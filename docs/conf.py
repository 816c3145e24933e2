"""The documentation site: `make docs` builds it from these pages and from the docstrings into `site/`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the site needs no network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # nor does it need to know which processors are slow
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import lamp_lightning  # noqa: E402  (from this checkout)

project = "lamp-lightning"
author = "the authors of lamp-lightning"
copyright = "the authors of lamp-lightning, Apache-2.0"
release = version = lamp_lightning.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "settings_page",
]
exclude_patterns = ["_*"]
templates_path: list[str] = []
default_role = "code"  # single backticks in docstrings are code
nitpicky = False

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Docstrings: Google style
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_default_options = {"members": True}
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # what Lightning and torchmetrics say stands in their own documentation
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 80

# Pages
html_theme = "furo"
html_title = f"lamp-lightning {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}
copybutton_exclude = ".linenos, .gp, .go"  # the prompts and the output of examples are not copied

# Pages whose text stands elsewhere in the repository, where people look for it.
ELSEWHERE = {
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "security": "SECURITY.md",
    "data": "data/README.md",
}
ROOMS = ("diffusion", "models", "data", "metrics", "report", "toyworld")


def read_elsewhere(app: Any, name: str, source: list[str]) -> None:
    """Take the text of such a page from its own file, with links that lead inside the site."""
    if name not in ELSEWHERE:
        return
    file = HERE.parent / ELSEWHERE[name]
    text = file.read_text(encoding="utf-8").replace("](docs/", "](")
    for page, other in ELSEWHERE.items():
        text = text.replace(f"]({other})", f"]({page}.md)")
    app.env.note_dependency(file)
    source[0] = text


def setup(app: Any) -> None:
    # Public names are imported at first use: autodoc sees them once they have been asked for. What two
    # modules offer is described once, in the first of them.
    seen: set[int] = set()
    for module in (lamp_lightning, *(importlib.import_module(f"lamp_lightning.{room}") for room in ROOMS)):
        for name in module.__all__:
            setattr(module, name, getattr(module, name))
        module.__all__ = [name for name in module.__all__ if id(getattr(module, name)) not in seen]
        seen.update(id(getattr(module, name)) for name in module.__all__)
    app.connect("source-read", read_elsewhere)
