"""The record that browser tests rely on: whatever a page does wrong is in it."""

from __future__ import annotations

import base64
import hashlib

import pytest

from browsing import find_chromium, require_chromium, visit

BAD = """<!doctype html><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; script-src 'sha256-{digest}'"><body><script>{script}</script>
<script>window.planted = 1</script><img src="http://127.0.0.1:9/x.png"></body>"""
SCRIPT = "document.body.dataset.ready='true';console.error('told');setTimeout(() => { throw Error('thrown') });"


def test_whatever_a_page_does_wrong_is_noted(browser, tmp_path):
    """A console error, an exception, a refused script and a refused image are noted; a good page has no faults."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    (tmp_path / "bad.html").write_text(BAD.format(digest=digest, script=SCRIPT))
    (tmp_path / "good.html").write_text("<!doctype html><body data-ready='true'>")
    with visit(browser, (tmp_path / "bad.html").as_uri()) as opened:
        opened.wait_for("() => window.violations.length >= 2")
        faults = "\n".join(opened.faults())
        for part in ("told", "thrown", "script-src-elem inline", "img-src http://127.0.0.1:9/x.png"):
            assert part in faults
        assert opened.page.evaluate("window.planted") is None
    with visit(browser, (tmp_path / "good.html").as_uri()) as opened:
        assert opened.faults() == []
        assert opened.requests == [(tmp_path / "good.html").as_uri()]
        opened.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
        assert "http://127.0.0.1:9/" in opened.requests


def test_a_missing_browser_skips_or_fails(monkeypatch):
    """Without an executable a test is skipped, and fails where browser tests are required."""
    monkeypatch.delenv("MNEMOSCOPE_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_chromium() is None
    monkeypatch.delenv("MNEMOSCOPE_BROWSER_TESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        require_chromium()
    monkeypatch.setenv("MNEMOSCOPE_BROWSER_TESTS", "required")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        require_chromium()
    monkeypatch.setenv("MNEMOSCOPE_CHROMIUM", "/somewhere/chromium")
    assert find_chromium() == "/somewhere/chromium"
