"""The page in a real browser, with the embedded models."""

import json
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from optimum_ssgr.chat.settings import ChatSettings

from .browsing import ask, choose, example, finish, wait_until
from .conftest import serve


pytestmark = pytest.mark.slow


COLUMNS = (1, 2, 3)


def unfold(page):
    """Open the thinking of the first column, once it has folded to its title."""
    shown = "document.querySelector('#chat-1 .thought-group').innerText.trim()"
    page.wait_for_function(f"/^\\S.{{0,50}}$/s.test({shown})")
    page.locator("#chat-1 .thought-group").get_by_role("button").first.press("Enter")


def test_three_answers_with_numbers_verdicts_and_folded_thinking(open_page, served):
    page = open_page(served[0])
    choose(page, temperature=0)
    question = example(page)
    page.press("#question textarea", "Enter")
    finish(page)
    for column in COLUMNS:
        assert question.splitlines()[0] in page.inner_text(f"#chat-{column}")
        numbers = page.inner_text(f"#numbers-{column}")
        for unit in ("tokens", "s", "tok/s", "s to first"):
            assert unit in numbers
        assert ("right" in numbers) != ("wrong" in numbers)
    assert "right" in page.inner_text("#numbers-1")
    assert page.locator("#chat-1 .katex .boxpad, #chat-1 .katex .fbox").count() >= 1  # the box is set as mathematics
    unfold(page)
    page.wait_for_function("document.querySelector('#chat-1 .thought-group').innerText.length > 50")
    assert re.match(r"Thought\s*\([\d.]+s\)", page.inner_text("#chat-1 .thought-group"))
    assert "known answer" in page.inner_text("#status").lower()
    assert page.outside == [] and page.errors == []


def test_answers_stream_at_once(open_page, stub):
    """Three servers wait a moment after every word: before the first column is whole, all of them show something."""
    stub.pause = 0.2
    models = ("right", "wrong", "opened")
    with serve(ChatSettings(models=models, engine=stub.url, votes="/dev/null")) as (url, _):
        page = open_page(url)
        page.evaluate(
            """() => { window.seen = []; setInterval(() => { window.seen.push([1, 2, 3].map(
                 column => document.querySelector(`#chat-${column}`).innerText.length)); }, 50); }"""
        )
        ask(page, "6 * 7?", "42")
        finish(page)
        lengths = page.evaluate("window.seen")
        assert all(len({row[column] for row in lengths}) >= 4 for column in range(3))
        whole = [max(row[column] for row in lengths) for column in range(3)]
        asked = [next(row for row in lengths if row[0] > 0)[column] for column in range(3)]
        assert any(all(asked[c] < row[c] < whole[c] for c in range(3)) for row in lengths)
        assert [word in page.inner_text(f"#numbers-{c}") for c, word in ((1, "right"), (2, "wrong"), (3, "right"))] == [
            True
        ] * 3


def test_stopping_one_column_then_all_and_a_dead_one(open_page, stub):
    stub.pause = 0.05
    addresses = ",".join([stub.url] * 4)
    settings = ChatSettings(models=("endless", "endless", "dead", "right"), engine=addresses, votes="/dev/null")
    with serve(settings) as (url, comparison):
        page = open_page(url)
        ask(page, "6 * 7?", "42")
        page.wait_for_selector("#numbers-3 >> text=failed")
        page.wait_for_selector("#numbers-4 >> text=tokens")
        page.wait_for_selector("#chat-1 >> text=again")
        page.click("#stop-1")
        page.wait_for_selector("#numbers-1 >> text=stopped")
        assert page.locator("#stop:visible").count() == 1 and "stopped" not in page.inner_text("#numbers-2")
        page.click("#stop")
        finish(page)
        assert "stopped" in page.inner_text("#numbers-2")
        unfold(page)
        page.wait_for_selector("#chat-1 >> text=again")  # what was written stays
        assert "does not answer" in page.inner_text("#chat-3") and stub.url not in page.content()
        assert "right" in page.inner_text("#numbers-4")
        wait_until(lambda: stub.running == 0 and comparison.running == 0)


def test_closing_the_tab_stops_the_models(open_page, stub):
    stub.pause = 0.05
    with serve(ChatSettings(models=("endless", "right"), engine=stub.url, votes="/dev/null")) as (url, comparison):
        page = open_page(url)
        ask(page, "6 * 7?")
        page.wait_for_selector("#chat-1 >> text=again")
        assert stub.running and comparison.running
        page.close()
        wait_until(lambda: stub.running == 0 and comparison.running == 0)


def test_a_hostile_answer_and_question_are_text(open_page, stub):
    with serve(ChatSettings(models=("hostile", "right"), engine=stub.url, votes="/dev/null")) as (url, _):
        page = open_page(url)
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        ask(page, "<img src=x onerror=window.hacked=20> [a](javascript:window.hacked=21)", "<b>7</b>")
        finish(page)
        unfold(page)
        page.wait_for_selector("#chat-1 >> text=<b>bold</b>")
        assert page.evaluate("window.hacked") is None and dialogs == []
        for tag in ("img", "script", "iframe", "form", "input", "style", "a", "svg[onload]", "object"):
            assert page.locator(f"#columns .message-content {tag}:not(.katex *)").count() == 0, tag
        assert page.locator("#status b, .badge b").count() == 0
        text = page.inner_text("#chat-1")
        for part in ("<svg onload=", "[md](javascript:", "![pixel](http://192.0.2.1/", "1 < 2 && 3 > 2", "print('<tag>')"):
            assert part in text, part
        assert page.outside == [] and page.errors == []


def test_a_link_fills_the_form_and_runs_nothing(open_page, served):
    url, comparison, _ = served
    link = {"q": "Count <b>\nthe digit", "a": "4", "temperature": "0.3", "tokens": "77", "seed": "5", "blind": "1", "evil": "x"}
    page = open_page(f"{url}?{urlencode(link)}")
    page.wait_for_function("document.querySelector('#question textarea').value.startsWith('Count')")
    assert page.input_value("#question textarea") == link["q"]
    page.wait_for_selector("#heading-1 >> text=Model A")
    assert comparison.running == 0 and page.locator(".message-content").count() == 0
    choose(page)
    assert page.input_value("#seed input") == "5" and page.input_value("#tokens input[type=number]") == "77"
    page.click("#copy")
    page.wait_for_function("document.querySelector('#link textarea, #link input').value.includes('seed=5')")
    copied = parse_qs(urlsplit(page.input_value("#link textarea, #link input")).query)
    assert {name: values[0] for name, values in copied.items()} == {name: link[name] for name in link if name != "evil"}


@pytest.mark.parametrize("query", ["temperature=9&tokens=-1&seed=x&blind=maybe", "q=" + "x" * 9000])
def test_a_bad_link_changes_nothing_it_may_not(open_page, served, query):
    page = open_page(f"{served[0]}?{query}")
    choose(page)
    assert page.input_value("#seed input") == "0" and page.input_value("#tokens input[type=number]") == "400"
    assert len(page.input_value("#question textarea")) <= 4000


def test_blind_vote_hides_then_reveals(open_page, served):
    url, comparison, votes = served
    page = open_page(url)
    page.check("#blind input")
    page.wait_for_selector("#heading-1 >> text=Model A")
    assert "SSGR" not in page.inner_text("#columns") and "tiny-reasoner" not in page.inner_text("#columns")
    example(page)
    page.click("#ask")
    finish(page)
    assert "Dense" not in page.inner_text("#columns") + page.inner_text("#status")
    page.evaluate("document.querySelector('#numbers-1 .numbers').id = 'before'")
    page.click("#again")
    page.wait_for_selector("#before", state="detached")
    finish(page)
    assert "Dense" not in page.inner_text("#columns") + page.inner_text("#status")
    page.click("#more button")
    with page.expect_download() as download:
        page.click("#json")
    assert json.loads(download.value.path().read_text())["models"] == ["Model A", "Model B", "Model C"]
    page.click("#best-2")
    page.wait_for_selector("#columns >> text=Dense")
    page.wait_for_selector("#best-2[disabled]")
    vote = json.loads(votes.read_text().splitlines()[-1])
    title = next(model.title for model in comparison.models if model.source == vote["vote"])
    assert vote["blind"] and title in page.inner_text("#heading-2")
    assert vote["columns"][1]["model"] == vote["vote"]


def test_further_turns_regenerate_and_download(open_page, served):
    page = open_page(served[0])
    choose(page, tokens=30)
    for _ in range(2):
        ask(page, "Count the digit 1.\na 1\nb 2")
        finish(page)
    assert page.locator("#chat-1 .user-row").count() == 2
    assert "truncated" in page.inner_text("#numbers-1")
    page.evaluate("document.querySelector('#numbers-1 .numbers').id = 'before'")
    page.click("#again")
    page.wait_for_selector("#before", state="detached")
    finish(page)
    assert page.input_value("#seed input") == "1"
    assert page.locator("#chat-1 .user-row").count() == 2
    with page.expect_download() as download:
        page.click("#json")
    exported = json.loads(download.value.path().read_text())
    assert [turn["seed"] for turn in exported["turns"]] == [0, 1] and len(exported["models"]) == 3
    with page.expect_download() as download:
        page.click("#markdown")
    assert download.value.path().read_text().startswith("# Comparison")
    page.click("#fresh")
    page.wait_for_function("document.querySelectorAll('.message-content').length === 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_only_the_columns_scroll_sideways(open_page, served, scheme):
    page = open_page(served[0], viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme=scheme)
    example(page)
    page.click("#ask")
    finish(page)
    for tab in ("Compare", "Results"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector("#columns:visible" if tab == "Compare" else "#heat:visible")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    page.get_by_role("tab", name="Compare").click()
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('#columns'))")
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    page.click("#theme")
    assert page.evaluate("document.body.classList.contains('dark')") != dark


def test_everything_can_be_reached_by_keyboard_and_has_a_name(open_page, served):
    page = open_page(served[0])
    example(page)
    page.focus("#question textarea")
    page.keyboard.press("Enter")
    finish(page)
    page.focus("#question textarea")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.closest('[id]') || {}).id"))
    for name in ("ask", "example-easy", "example-hard", "again", "fresh", "best-1", "best-3", "vote-tie", "theme"):
        assert name in reached, name
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("#columns button, #asking textarea, #asking input, #tools button, #tools input")]
             .filter(e => e.offsetParent && !e.ariaHidden)
             .filter(e => !(e.innerText.trim() || e.ariaLabel || e.title || e.placeholder || e.labels?.length))
             .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    regions = page.locator("#columns > [role=region]")
    assert [regions.nth(index).get_attribute("aria-label") for index in range(3)] == ["Column 1", "Column 2", "Column 3"]
    assert page.locator("#status [role=status]").get_attribute("aria-live") == "polite"
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#heat:visible")


def test_the_results_tab_shows_heat_funnel_and_histograms(open_page, served):
    page = open_page(served[0])
    page.get_by_role("tab", name="Results").click()
    page.wait_for_selector("#heat >> text=self_attn.q_proj")
    assert "selected" in page.inner_text("#funnel")
    page.wait_for_function("document.querySelector('.plot img').naturalWidth > 100")
    assert page.outside == []


def test_a_question_while_the_models_answer_again_is_refused(open_page, stub):
    with serve(ChatSettings(models=("endless", "right"), engine=stub.url, votes="/dev/null")) as (url, comparison):
        page = open_page(url)
        ask(page, "6 * 7?")
        page.wait_for_selector("#chat-1 >> text=again")
        page.click("#stop")
        finish(page)
        page.click("#again")
        page.wait_for_selector("#stop")  # the box was emptied for the question that is asked again
        wait_until(lambda: len(stub.bodies) == 4)
        page.fill("#question textarea", "Sure?")
        page.press("#question textarea", "Enter")
        page.wait_for_selector("text=The models are still answering; stop them first.")
        assert comparison.running and page.input_value("#question textarea") == "Sure?"
        page.click("#stop")
        finish(page)
        page.click("#more button")
        with page.expect_download() as download:
            page.click("#json")
        assert len(json.loads(download.value.path().read_text())["turns"]) == 1 and len(stub.bodies) == 4
