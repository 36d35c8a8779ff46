"""The project's web process: ``python -m tests.django.serve`` on a free port of this machine."""

from __future__ import annotations

import os
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

import tests.django.project  # noqa: F401 - the Celery app, before Django is set up, as in manage.py


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, as most web servers have it."""

    daemon_threads = True


def main() -> None:
    """Make the tables, then serve for ever."""
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
    if not os.path.exists(os.environ["SAGA_TEST_DATABASE"]):
        call_command("migrate", run_syncdb=True, verbosity=0)
    with make_server("127.0.0.1", 0, application, server_class=Server) as server:
        print(f"port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
