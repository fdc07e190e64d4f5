"""Sphinx configuration of the documentation site.

The source directory is the repository's root, so that links between all its pages work here as
they do in an editor. Nothing is fetched from the network when the site is built or read.
"""

import contextlib
import io
from importlib import import_module

from docutils import nodes
from docutils.parsers.rst import Directive
from latex2mathml.converter import convert
from sphinx.addnodes import download_reference
from sphinx.util.inspect import signature, stringify_signature

import minidl

project = "minidl"
author = "The minidl authors"
copyright = f"2026, {author}"
release = minidl.__version__
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "examples/README.md",
    "bench/RESULTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
html_extra_path = ["root"]
extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]

smartquotes = False  # "--" is part of options

# Pages in Markdown. Their headings are the targets of links, as on GitHub.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # the tutorial is stored with its outputs; a test executes it

# Docstrings. Single backticks are names of Python, which become links if they are documented.
default_role = "py:obj"
add_module_names = False
python_maximum_signature_line_length = 120
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_class_members_toctree = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_math_renderer = "mathml"  # browsers draw MathML by themselves, without a script
html_title = f"minidl {release}"
html_copy_source = False
html_show_sphinx = False


class CommandHelp(Directive):
    """The help text of a command, such as ``minidl.train``."""

    required_arguments = 1

    def run(self):
        """Return a literal block of what ``--help`` prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            import_module(self.arguments[0]).main(["--help"])
        text = printed.getvalue()
        return [nodes.literal_block(text, text, language="text")]


def is_left_out(app, what, name, member, skip, options):
    """Return True for fields of named tuples, and for what estimators inherit from scikit-learn."""
    is_field = str(member.__doc__).startswith("Alias for field number")
    is_of_sklearn = str(getattr(member, "__module__", "")).startswith("sklearn.")
    return True if is_field or is_of_sklearn else None


def arguments_of(app, what, name, member, options, arguments, result):
    """Return the arguments of ``__init__`` for classes whose ``__new__`` chooses a subclass."""
    chooses = what == "class" and member.__new__ is not object.__new__
    if not chooses or member.__init__ is object.__init__:
        return None
    own = signature(member.__init__, bound_method=True)
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), None


def open_pages(app, doctree, docname):
    """Let links to HTML files, such as the playground, open them instead of saving them."""
    for link in list(doctree.findall(download_reference)):
        file = link.get("filename", "")
        if file.endswith(".html"):
            address = "../" * docname.count("/") + "_downloads/" + file
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def write_math(translator, node):
    """Write a formula as MathML."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app):
    """Add what this site needs to Sphinx."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-signature", arguments_of)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("doctree-resolved", open_pages)
