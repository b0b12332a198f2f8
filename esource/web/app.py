"""The wiring: a configuration, a hub, and the views on it."""

import os

from flask import Flask

from esource.config import Config
from esource.hub.hub import Hub
from esource.web import ops, page, views
from esource.web.origin import Origins


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI application; its hub is `app.extensions["esource"]`.

    What answers without it, `views.Directly`, is `app.extensions["esource.directly"]`.

    Nothing is opened or locked yet. `server` does it at the start of the worker, and without
    gunicorn the first request does.
    """
    app = Flask("esource", static_folder=None, template_folder=None)
    # `//orders` is no channel, and a redirect would lose the body of a POST.
    app.url_map.merge_slashes = False
    hub = Hub(config or Config.from_env(os.environ))
    app.extensions["esource"] = hub
    origins = Origins(hub.config)
    app.extensions["esource.directly"] = views.register(app, hub, origins)
    ops.register(app, hub, origins)
    page.register(app, hub.config.ui)
    return app
