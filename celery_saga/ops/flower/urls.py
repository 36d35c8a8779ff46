"""Where the tab's pages are, and how they get into an unmodified Flower.

Flower has no interface for plugins. What this module relies on, in Flower 2.0 to 2.2:

- ``flower.urls.handlers`` is the list from which the application is made; its last entry takes all;
- ``flower.urls.settings`` may name a template loader;
- every page includes ``navbar.html``, whose first list is that of the tabs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flower import urls
from tornado.template import Loader, Template
from tornado.web import StaticFileHandler, url

from celery_saga.ops.flower import api, pages

HERE = Path(__file__).parent

#: The tab, in the list of Flower's own ones; only where the app has sagas.
_TAB = """{% if has_sagas(handler) %}<li class="nav-item">
  <a class="nav-link text-body{% if active_tab == 'sagas' %} active{% end %}"
    href="{{ reverse_url('sagas') }}">Sagas</a>
</li>{% end %}
</ul>"""


class TabLoader(Loader):
    """Finds the tab's templates, then Flower's; adds the tab to the navigation bar."""

    def __init__(self, root: str) -> None:
        super().__init__(root, namespace={"has_sagas": pages.has_sagas})

    def _create_template(self, name: str) -> Template:
        own = HERE / "templates" / name
        path = own if own.exists() else Path(self.root) / name
        source = path.read_text(encoding="utf-8")
        if name == "navbar.html":
            source = source.replace("</ul>", _TAB, 1)
        return Template(source, name=name, loader=self)


def handlers() -> list[Any]:
    """The tab's pages and its part of Flower's API."""
    return [
        url(r"/sagas", pages.SagasView, name="sagas"),
        url(r"/saga/([^/]+)", pages.SagaView, name="saga"),
        url(r"/saga-static/(.*)", StaticFileHandler, {"path": str(HERE / "static")}),
        url(r"/api/sagas", api.ListSagas, name="api_sagas"),
        url(r"/api/saga/info/([^/]+)", api.SagaInfo, name="api_saga"),
        url(r"/api/saga/export/([^/]+)", api.SagaExport, name="api_saga_export"),
        url(r"/api/saga/([a-z]+)/([^/]+)", api.SagaVerb, name="api_saga_verb"),
    ]


def extend() -> None:
    """Put the pages in front of Flower's, and the loader into its settings; once in a process."""
    if any(getattr(each, "name", None) == "sagas" for each in urls.handlers):
        return
    loader = TabLoader(urls.settings["template_path"])
    for name in ("base.html", "navbar.html", "sagas.html", "saga.html"):
        loader.load(name)  # what is missing is found now, and nothing is changed then
    urls.handlers[:0] = handlers()
    urls.settings["template_loader"] = loader
