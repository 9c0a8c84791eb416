"""The checks of the status page in a browser."""

import contextlib
import re
import socket

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from service import WAIT_SECONDS_MAX, Exchange, Failed, Recorder, get, wait_for

SIZES = {"1440": {"width": 1440, "height": 900}, "390": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
# WCAG's rules of A and AA, and the usual advice on landmarks and names.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
WIDER = """() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"""
AS_OF = "() => document.querySelector('#head time').dateTime"
TOKEN = "correct horse"


def expect(condition, what):
    if not condition:
        raise Failed(what)


class Test:
    """A browser, an exchange, and a recorder with some history."""

    def __init__(self, program, directory, pictures, browser):
        self.program, self.directory, self.pictures = program, directory, pictures
        self.executable = browser
        self.open = contextlib.ExitStack()

    def __enter__(self):
        self.exchange = Exchange(self.program, self.directory)
        self.open.callback(self.exchange.stop)
        self.recorder = Recorder(self.program, self.directory / "one", self.exchange)
        self.open.callback(lambda: self.recorder.stop())
        playwright = self.open.enter_context(sync_playwright())
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        self.browser = playwright.chromium.launch(executable_path=self.executable, args=arguments)
        self.open.callback(self.browser.close)
        try:
            self.inject_faults()
        except Exception:
            print(self.logs())
            self.open.close()
            raise
        return self

    def __exit__(self, *_):
        self.open.close()

    def logs(self):
        return "\n".join(f"{path}:\n{path.read_text()[-4000:]}" for path in self.directory.rglob("*.log"))

    def inject_faults(self):
        """Makes a gap that is filled, a gap that stays open while REST fails, and a job that fails."""
        gaps = lambda state: [gap for gap in self.recorder.ask("/api/v1/gaps") if gap["state"] == state]
        wait_for("trades come", lambda: self.recorder.ask("/api/v1/status")["rows"] > 50)
        self.exchange.inject("drop:BTCUSDT:20")
        wait_for("a gap is filled", lambda: gaps("filled"))
        self.exchange.inject("rest:503:1h,drop:BTCUSDT:30")
        wait_for("a gap is open", lambda: gaps("open"))
        page = lambda: get(self.recorder.url)[1]
        wait_for("the hour has a line and a job has failed", lambda: 'class="line"' in page() and "o-failed" in page())

    @contextlib.contextmanager
    def page(self, size="1440", scheme="light", script=True, url=None, may_complain=False):
        """An open page; an error or a warning in its console is a failure."""
        options = {"viewport": SIZES[size], "color_scheme": scheme, "java_script_enabled": script}
        context = self.browser.new_context(**options, reduced_motion="reduce")
        context.set_default_timeout(WAIT_SECONDS_MAX * 1000)
        page, complaints = context.new_page(), []
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        try:
            page.goto(url or self.recorder.url)
            yield page
            expect(may_complain or not complaints, f"the console has errors: {complaints}")
        finally:
            context.close()


def every_size_and_scheme(test):
    """Every size, colour scheme and script setting."""
    for size in SIZES:
        for scheme in SCHEMES:
            for script in (True, False):
                yield size, scheme, script


def it_renders_at_every_size_in_light_and_dark_with_and_without_a_script(test):
    for size, scheme, script in every_size_and_scheme(test):
        with test.page(size, scheme, script) as page:
            name = f"{size}-{scheme}{'' if script else '-plain'}"
            page.wait_for_function(AS_OF)
            page.screenshot(path=test.pictures / f"{name}.png", full_page=True)
            wide, room = page.evaluate(WIDER)
            expect(wide <= room, f"{name}: the body is {wide} pixels wide and has {room}")
            for heading in ("Notices", "The last hour", "Coverage", "Gaps", "Jobs", "Stores and connections", "Streams"):
                expect(page.get_by_role("heading", name=heading, exact=True).count() == 1, f"{name}: {heading} is missing")
            for words in ("over REST", "open for", "rows missing", "SQLite"):
                expect(words in page.content(), f"{name}: {words} is missing")
            expect(page.locator("#lost").is_hidden(), f"{name}: it shows that the service does not answer")


def no_width_makes_the_body_scroll_sideways(test):
    with test.page() as page:
        for wide in (320, 600, 768, 1023, 1024, 1200, 1750, 2560):
            page.set_viewport_size({"width": wide, "height": 800})
            needed, room = page.evaluate(WIDER)
            expect(needed <= room, f"the body is {needed} pixels wide and has {room}")


def axe_finds_no_fault_in_contrast_names_and_landmarks(test):
    axe = Axe()
    for size in SIZES:
        for scheme in SCHEMES:
            with test.page(size, scheme) as page:
                found = axe.run(page, options=RULES).response["violations"]
                words = [f"{rule['id']}: {[node['html'][:200] for node in rule['nodes'][:3]]}" for rule in found]
                expect(not found, f"{size} {scheme}: {words}")


def every_control_has_a_name_of_its_own(test):
    with test.page() as page:
        names = page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, [tabindex]')].map((element) =>
                 (element.getAttribute('aria-label') ?? element.labels?.[0]?.textContent ?? element.textContent).trim())"""
        )
        expect(len(names) > 10 and all(names), f"something has no name: {names}")
        expect(len(set(names)) == len(names), f"two have the same name: {names}")
        for drawing in page.locator("svg[role=img]").all():
            expect(drawing.get_attribute("aria-label"), "a drawing has no description")


def it_stays_fresh_without_being_loaded_again(test):
    with test.page() as page:
        page.evaluate("() => { window.stayed = true; }")
        before = page.evaluate(AS_OF)
        page.wait_for_function("(before) => document.querySelector('#head time').dateTime !== before", arg=before)
        test.exchange.inject("drop:ETHUSDT:7")
        missing = page.locator("#gaps li", has_text="7 rows missing")
        missing.first.wait_for()
        expect(page.evaluate("() => window.stayed"), "the page was loaded again")
        expect(page.evaluate("() => performance.getEntriesByType('resource').every((entry) => "
                             "new URL(entry.name).pathname === '/events')"), "the page requested more than events")


def buttons_work_with_a_script_and_keep_the_focus(test):
    with test.page() as page:
        page.evaluate("() => { window.stayed = true; }")
        page.get_by_role("button", name="Pause: retention").click()
        page.locator("#result", has_text="retention is paused").wait_for()
        expect(test.recorder.job("retention")["paused"], "it is not paused")
        page.locator("#action-items", has_text="paused: from the status page").wait_for()
        focused = page.evaluate("() => document.activeElement.id")
        expect(focused == "resume-retention", f"the focus is on {focused!r}")
        page.keyboard.press("Enter")
        page.locator("#result", has_text="retention runs again").wait_for()
        expect(not test.recorder.job("retention")["paused"], "it is still paused")
        page.get_by_role("button", name="Compare and repair").click()
        page.locator("#result", has_text="compared").wait_for()
        expect(page.evaluate("() => window.stayed"), "the page was loaded again")


def buttons_work_without_a_script(test):
    with test.page("390", script=False) as page:
        # Not state-snapshot: a press is refused while its own run, every two seconds, is under way.
        page.get_by_role("button", name="Run now: retention").click()
        page.locator("#result", has_text=re.compile("retention (ran and succeeded|has started)")).wait_for()
        wait_for("it ran", lambda: test.recorder.job("retention")["last_outcome"] == "succeeded")
        page.get_by_role("button", name="Pause: retention").click()
        page.locator("#result", has_text="retention is paused").wait_for()
        page.get_by_role("button", name="Resume: retention").click()
        page.locator("#result", has_text="retention runs again").wait_for()
        page.get_by_role("button", name="Run now: broken").click()
        page.locator("#result", has_text="broken").wait_for()
        expect(page.locator("#result .bad").count() == 1, "a failed run is not shown as failed")


def the_keyboard_reaches_everything_and_the_focus_is_seen_and_stays(test):
    with test.page() as page:
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            at = page.evaluate(
                """() => { const at = document.activeElement, style = getComputedStyle(at);
                     return [at.id || at.textContent, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                             at === document.body]; }"""
            )
            if at[2]:
                break
            expect(at[1], f"the focus on {at[0]!r} is not visible")
            reached.append(at[0])
        for wanted in ("Skip to the content", "repair", "run-retention", "pause-state-snapshot", "streams-table", "metrics"):
            expect(wanted in reached, f"{wanted} is not reached: {reached}")
        button = page.get_by_role("button", name="Run now: retention")
        button.focus()
        page.evaluate("() => { document.activeElement.dataset.old = 'yes'; }")
        page.wait_for_function("() => document.getElementById('run-retention').dataset.old === undefined")
        expect(page.evaluate("() => document.activeElement.id") == "run-retention", "an update of the page lost the focus")


def a_selection_stays_and_its_part_is_updated_when_it_is_cleared(test):
    with test.page() as page:
        page.evaluate("() => getSelection().selectAllChildren(document.querySelector('#head h1'))")
        before = page.evaluate(AS_OF)
        streams = page.locator("#streams").inner_html()
        page.wait_for_function("(before) => document.querySelector('#streams').innerHTML !== before", arg=streams)
        expect(page.evaluate("() => getSelection().toString()").startswith("Tapekeeper"), "the selection was lost")
        expect(page.evaluate(AS_OF) == before, "the part with the selection was updated")
        page.evaluate("() => getSelection().removeAllRanges()")
        page.wait_for_function("(before) => document.querySelector('#head time').dateTime > before", arg=before)


def beyond_loopback_the_form_asks_for_the_token(test):
    recorder = Recorder(test.program, test.directory / "two", test.exchange, listen="0.0.0.0", token=TOKEN)
    try:
        for script in (True, False):
            with test.page(script=script, url=recorder.url) as page:
                page.get_by_role("button", name="Pause: retention").click()
                page.locator("#result", has_text="this needs the admin token").wait_for()
                page.get_by_label("Admin token").fill("wrong")
                page.get_by_label("Admin token").press("Enter")
                page.locator("#result", has_text="the admin token is not right").wait_for()
                expect(not recorder.job("retention")["paused"], "it was paused without the token")
                page.get_by_label("Admin token").fill(TOKEN)
                page.get_by_label("Admin token").press("Enter")
                page.locator("#result", has_text="the token is right; nothing was changed").wait_for()
                page.get_by_label("Admin token").fill(TOKEN)
                page.get_by_role("button", name="Pause: retention").click()
                page.locator("#result", has_text="retention is paused").wait_for()
                # Typed text stays when the page is updated, but not when it is loaded.
                page.get_by_label("Admin token").fill(TOKEN)
                page.get_by_role("button", name="Resume: retention").click()
                page.locator("#result", has_text="retention runs again").wait_for()
        with test.page("390", "dark", url=recorder.url) as page:
            found = Axe().run(page, options=RULES).response["violations"]
            expect(not found, f"{[rule['id'] for rule in found]}")
            page.screenshot(path=test.pictures / "390-dark-token.png")
    finally:
        recorder.stop()


def another_site_can_submit_nothing_and_an_injected_script_does_not_run(test):
    with test.page(may_complain=True) as page:
        page.goto("data:text/html,<h1>elsewhere</h1>")
        page.set_content(
            f"<form method=post action={test.recorder.url}/do><button name=do value='pause retention'>Win</button></form>"
        )
        page.get_by_role("button", name="Win").click()
        page.get_by_text("a page of another site must not change anything here").wait_for()
        expect(not test.recorder.job("retention")["paused"], "it was paused from elsewhere")
        page.goto(test.recorder.url)
        page.evaluate(
            """() => { document.querySelector('#result').innerHTML =
                 '<img src="data:," onerror="window.broken = true"><p style="position:fixed">over</p>'; }"""
        )
        page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
        expect(not page.evaluate("() => window.broken"), "an injected handler ran")
        style = page.evaluate("() => getComputedStyle(document.querySelector('#result p')).position")
        expect(style == "static", "an injected style was used")


def more_pages_than_event_streams_stay_fresh_too(test):
    listeners = []
    try:
        for _ in range(40):
            listener = socket.create_connection(("127.0.0.1", test.recorder.port), timeout=WAIT_SECONDS_MAX)
            listeners.append(listener)
            listener.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if b" 503 " in listener.recv(64):
                break
        with test.page(may_complain=True) as page:
            before = page.evaluate(AS_OF)
            page.wait_for_function("(before) => document.querySelector('#head time').dateTime > before", arg=before)
            expect(page.locator("#lost").is_hidden(), "it shows that the service does not answer")
    finally:
        for listener in listeners:
            listener.close()


def it_shows_that_the_service_is_down_and_resumes_when_it_is_back(test):
    with test.page("390", may_complain=True) as page:
        page.evaluate("() => { window.stayed = true; }")
        page.wait_for_function(AS_OF)
        test.recorder.stop()
        page.locator("#lost").wait_for(state="visible")
        page.screenshot(path=test.pictures / "390-light-lost.png")
        before = page.evaluate(AS_OF)
        test.recorder.start()
        page.locator("#lost").wait_for(state="hidden")
        page.wait_for_function("(before) => document.querySelector('#head time').dateTime > before", arg=before)
        expect(page.evaluate("() => window.stayed"), "the page was loaded again")


ALL = [
    it_renders_at_every_size_in_light_and_dark_with_and_without_a_script,
    no_width_makes_the_body_scroll_sideways,
    axe_finds_no_fault_in_contrast_names_and_landmarks,
    every_control_has_a_name_of_its_own,
    it_stays_fresh_without_being_loaded_again,
    buttons_work_with_a_script_and_keep_the_focus,
    buttons_work_without_a_script,
    the_keyboard_reaches_everything_and_the_focus_is_seen_and_stays,
    a_selection_stays_and_its_part_is_updated_when_it_is_cleared,
    beyond_loopback_the_form_asks_for_the_token,
    another_site_can_submit_nothing_and_an_injected_script_does_not_run,
    more_pages_than_event_streams_stay_fresh_too,
    it_shows_that_the_service_is_down_and_resumes_when_it_is_back,
]
