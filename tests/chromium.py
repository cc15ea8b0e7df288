"""Chromium, driven by Selenium: for tests of pages."""

import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@contextmanager
def chromium(profile: Path, *switches: str) -> Iterator[webdriver.Chrome]:
    """A browser with a *profile* of its own, which keeps what consoles say."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", f"user-data-dir={profile}",
        *switches,
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def trusting(certfile: str) -> str:
    """The switch that has it believe this certificate. With errors merely ignored it would keep nothing in its cache,
    and so heed no early hint."""
    certificate = load_pem_x509_certificate(Path(certfile).read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"ignore-certificate-errors-spki-list={b64encode(sha256(key).digest()).decode()}"
