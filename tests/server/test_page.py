"""The page at `/` is safe, and writes in a browser where there is one."""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from charnn.pages import source_hash

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
# Starts the browser, which takes commands from descriptor 3 and answers on 4.
ON_PIPES = """
import os, sys
reads, writes = (os.dup(int(number)) for number in sys.argv[1:3])
for number, descriptor in ((3, reads), (4, writes)):
    os.dup2(descriptor, number)
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="there is no chromium or google-chrome on the path"
)


def test_the_policy_allows_only_the_scripts_and_styles_of_the_page_itself(served):
    connection, answer = served.open("/")
    page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    connection.close()
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert "'none'" == rules["default-src"] == rules["frame-ancestors"]
    assert "'self'" == rules["connect-src"]
    assert (source_hash(style), source_hash(script)) == (rules["style-src"], rules["script-src"])
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


def browse(served, fragment, folder, sign):
    """The document once the page has done what its address says, which `sign` tells."""
    read_end, browser_writes = os.pipe()
    browser_reads, write_end = os.pipe()

    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"),
    ]
    pipes = browser_reads, browser_writes
    browser = subprocess.Popen(
        [sys.executable, "-c", ON_PIPES, *map(str, pipes), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=pipes,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    with open(read_end, "rb") as answers, open(write_end, "wb", buffering=0) as orders:
        numbers = itertools.count(1)

        def ask(method, session=None, **params):
            order = {"id": next(numbers), "method": method, "params": params}
            orders.write(json.dumps(order | ({"sessionId": session} if session else {})).encode())
            orders.write(b"\0")
            while True:
                data = bytearray()
                while (byte := answers.read(1)) != b"\0":
                    assert byte, "the browser ended"
                    data += byte
                answer = json.loads(data)
                if answer.get("id") == order["id"]:
                    return answer["result"]

        try:
            address = f"http://127.0.0.1:{served.port}/#{fragment}"
            target = ask("Target.createTarget", url=address)["targetId"]
            session = ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            whole, document = "document.documentElement.outerHTML", ""
            deadline = time.monotonic() + 60
            while not re.search(sign, document) and time.monotonic() < deadline:
                time.sleep(0.1)
                result = ask("Runtime.evaluate", session, expression=whole)["result"]
                document = result.get("value", "")
            return document
        finally:
            browser.kill()
            browser.wait()


def text_in(document):
    found = re.search(r'<div id="text"[^>]*>(.*?)</div>', document, re.DOTALL)
    assert found, document
    return html.unescape(found[1])


@needs_chromium
@pytest.mark.slow
def test_a_browser_writes_what_the_model_writes(served, tmp_path):
    document = browse(
        served, "prompt=bad&seed=4&length=120&temperature=0.9", tmp_path, "120 tokens in"
    )
    expected = served.model.generate("bad", echo=True, seed=4, max_tokens=120, temperature=0.9)
    assert expected == text_in(document)
    assert "120 tokens in" in document
    assert '<h1 id="name">small</h1>' in document


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_a_refusal_and_asks_for_the_key(served, serve, tmp_path):
    alert = r'role="alert">[^<]*{}[^<]*</div>'
    document = browse(served, "prompt=z", tmp_path, alert.format("prompt: "))
    assert re.search(alert.format("prompt: "), document)
    locked = serve(key="secret")
    document = browse(locked, "prompt=bad", tmp_path / "locked", alert.format("API key"))
    assert re.search(alert.format("API key"), document)
    assert re.search(r'<div class="field wide" id="key-field">', document)
