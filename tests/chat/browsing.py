"""What a user does on the page, and waiting for what it leads to."""

from contextlib import suppress
from time import monotonic, sleep
from urllib.request import urlopen


TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def example(page, level="easy"):
    page.click(f"#example-{level}")
    page.wait_for_function("document.querySelector('#question textarea').value.length > 5")
    return page.input_value("#question textarea")


def finish(page):
    page.wait_for_selector("#best-1:not([disabled]):visible")


def ask(page, question, expected=""):
    page.fill("#question textarea", question)
    page.fill("#expected input, #expected textarea", expected)
    page.click("#ask")
    page.wait_for_function("document.querySelector('#question textarea').value === ''")  # taken: the old buttons are gone


def choose(page, **settings):
    """Set settings; again until they hold, as Gradio gives an accordion's parts their values anew a frame after it opens."""
    if not page.is_visible("#seed input"):
        page.click("#more button")
    for name, value in settings.items():
        box = page.locator(f"#{name} input[type=number]")
        while box.input_value() != str(value):
            box.fill(str(value))
            box.press("Tab")
            page.evaluate(TWO_FRAMES)


def wait_until(true, seconds=60):
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.02)


def is_served(url):
    with suppress(OSError):
        return urlopen(url, timeout=60).status == 200
