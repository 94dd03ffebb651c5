"""How Sphinx builds the site: ``make docs``."""

import sys
from pathlib import Path

import mobilevlm

HERE = Path(__file__).parent
sys.path.append(str(HERE / "_extensions"))

project = "mobilevlm"
version = release = mobilevlm.__version__
licence = (HERE.parent / "LICENSE").read_text("utf-8").splitlines()
project_copyright = licence[2].removeprefix("Copyright (c) ")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "accessible",
    "links",
    "api_pages",
    "names",
    "pictures",
    "signatures",
]
exclude_patterns = ["_extensions", "recipes"]

# Headings have the anchors that they have on GitHub.
myst_heading_anchors = 4

# A notebook that fails is a page that is not true.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "remove"  # what packages say of one environment, with its paths

# A name in single backticks is code, and a link where it is one of ours.
default_role = "name"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
# Other projects are not linked: that would take their inventories from the network.
nitpick_ignore_regex = [
    ("py:class", r"mobilevlm\..*\.[A-Z]"),  # type variables
    ("py:.*", r"(torch|numpy|pydantic|transformers|collections|importlib|os|pathlib|typing)\..*"),
]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
