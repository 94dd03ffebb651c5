"""The site that `make docs` has built, on a server of its own, and a browser without a network."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from visits import PAGES, SITE, Visit, visit

# Only the server of these tests has a name that is found.
FLAGS = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # whose connections are used again

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the site, which opens without a server too."""
    return SITE


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The site's address on the server; it ends in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    flags = FLAGS if os.getuid() else [*FLAGS, "--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visits(browser: Browser, url: str) -> dict[str, Visit]:
    """Every page by its path, as a phone shows it."""
    page = browser.new_page(viewport={"width": 360, "height": 800})
    return {path: visit(page, url + path) for path in PAGES}
