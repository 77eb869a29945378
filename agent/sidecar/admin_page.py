"""The HTML page of the admin interface."""

from collections.abc import Mapping
from html import escape

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>sidecar: {state}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }}
th {{ text-align: left; vertical-align: top; font-weight: 600; padding-right: 1.5rem; white-space: nowrap; }}
td, th {{ padding-block: .15rem; }}
button {{ font: inherit; }}
</style>
</head>
<body>
<h1>sidecar</h1>
<table>
{facts}</table>
<h2>Status</h2>
<table>
{looks}</table>
<h2>Actions</h2>
<table>
{changes}</table>
</body>
</html>
"""
_ROW = "<tr><th>{}</th><td>{}</td></tr>\n"
_LINK = '<a href="{0}">{0}</a>'
_BUTTON = '<form method="post" action="{0}"><button>{0}</button></form>'


def page(facts: Mapping[str, str], looks: Mapping[str, str], changes: Mapping[str, str]) -> str:
    """Return the page as HTML.

    `facts` by name, `state` among them; `looks` and `changes`: paths that show or change something, with descriptions.
    """
    return _PAGE.format(
        state=escape(facts["state"]),
        facts="".join(_ROW.format(name, escape(value) or "none") for name, value in facts.items()),
        looks="".join(_ROW.format(_LINK.format(path), about) for path, about in looks.items()),
        changes="".join(_ROW.format(_BUTTON.format(path), about) for path, about in changes.items()),
    )
