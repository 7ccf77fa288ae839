"""Take the screenshots of the comparison page: `python benchmarks/screenshots.py DEMO`.

DEMO is the folder that `optimum-cli ssgr demo DEMO` wrote. The question is the first example that the dense model and the one
pruned with its own traces get right, greedily, and the one pruned with general text does not. Needs Debian's Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from optimum_ssgr.chat.comparison import ComparisonSession
from optimum_ssgr.chat.conversation import Conversation
from optimum_ssgr.chat.embedded import CALIBRATION, find_demo
from optimum_ssgr.chat.page import build_page, launch_arguments, open_comparison
from optimum_ssgr.chat.settings import ChatSettings
from optimum_ssgr.records import Problem


DOCS = Path(__file__).parents[1] / "docs"
DESKTOP = {"viewport": {"width": 1440, "height": 940}}
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


def telling_example(comparison: ComparisonSession) -> Problem:
    """Find an example that tells the models apart."""
    for level in ("medium", "hard", "easy"):
        for problem in comparison.examples[level]:
            turn = comparison.turn(problem.question, "", 0, CALIBRATION.max_new_tokens, 0)
            *_, answers = comparison.answer(Conversation.start(3, blind=False).asking(turn), "screenshots")
            if [answer.correct for answer in answers] == [True, False, True]:
                return problem
    raise SystemExit("no example tells these models apart")


def ask(page: Page, problem: Problem) -> None:
    """Ask a problem greedily, unfold the thinking of the second column, and wait for the answers."""
    page.click("#more button")
    temperature = page.locator("#temperature input[type=number]")
    while temperature.input_value() != "0":  # a frame after the settings open, Gradio gives them their values anew
        temperature.fill("0")
        temperature.press("Tab")
        page.evaluate(TWO_FRAMES)
    page.click("#more button")
    page.fill("#question textarea", problem.question)
    page.click("#ask")
    page.wait_for_selector("#best-1:visible")
    page.locator("#chat-2 .thought-group").get_by_role("button").first.click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    page.wait_for_timeout(1000)


def shoot(browser: Browser, url: str, name: str, problem: Problem | None, **options: object) -> None:
    """Open the page, ask or turn to the results, and save a picture."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#columns > [role=region]")  # labelled when all else is loaded
    if problem:
        ask(page, problem)
    else:
        page.get_by_role("tab", name="Results").click()
        page.wait_for_function("[...document.querySelectorAll('.plot img')].every(image => image.naturalWidth > 100)")
        page.wait_for_timeout(1000)
    page.screenshot(path=DOCS / f"{name}.png", full_page=problem is None)
    context.close()


def main() -> None:
    """Serve the page and take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    demo = parser.parse_args().demo
    settings = ChatSettings(
        models=find_demo(demo),
        max_new_tokens=CALIBRATION.max_new_tokens,
        results=str(demo),
        calibration=str(demo / "calibration"),
    )
    comparison = open_comparison(settings)
    served = build_page(comparison, lambda vote: None)
    _, url, _ = served.launch(quiet=True, prevent_thread_lock=True, **launch_arguments())
    problem = telling_example(comparison)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shoot(browser, url, "chat_light", problem, color_scheme="light", **DESKTOP)
        shoot(browser, url, "chat_dark", problem, color_scheme="dark", **DESKTOP)
        shoot(browser, url, "chat_phone", problem, color_scheme="light", **PHONE)
        shoot(browser, url, "chat_results", None, color_scheme="light", **DESKTOP)
        browser.close()
    served.close(verbose=False)


if __name__ == "__main__":
    main()
