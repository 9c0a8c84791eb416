"use strict";
// The page is complete without this script. The script updates it in place and keeps focus, scrolling and selection.
(() => {
  const SILENCE_MAX_MS = 10000, POLL_MS = 5000, RETRY_MS = 10000, RESPONSE_MAX_MS = 40000;
  const element = (id) => document.getElementById(id);
  const version = document.documentElement.dataset.page;
  let updatedAt = Date.now(), source = null, polling = 0;

  // Replaces a part. The focus stays, a table keeps its scroll position, and a part with selected text is replaced only when
  // the selection is cleared.
  const deferred = new Map();
  const replace = (id, markup) => {
    const target = element(id);
    if (!target) return;
    const selection = getSelection();
    if (!selection.isCollapsed && target.contains(selection.anchorNode)) return deferred.set(id, markup);
    deferred.delete(id);
    const focused = target.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = [...target.querySelectorAll(".scroll")].map((region) => [region.id, region.scrollLeft]);
    target.innerHTML = markup;
    for (const [region, left] of scrolled) if (element(region)) element(region).scrollLeft = left;
    if (focused) (element(focused) ?? element(focused.replace(/^(pause|resume)-/, other)))?.focus({ preventScroll: true });
  };
  document.addEventListener("selectionchange", () => {
    if (getSelection().isCollapsed) for (const [id, markup] of [...deferred]) replace(id, markup);
  });
  // Pausing a job replaces its pause button by a resume button, and the other way round.
  const other = (verb) => (verb === "pause-" ? "resume-" : "pause-");
  // Applies an update. A page that another program rendered reloads itself.
  const apply = (update) => {
    if (update.page !== version) return location.reload();
    for (const [id, markup] of Object.entries(update.parts)) replace(id, markup);
    document.title = update.title;
    updatedAt = Date.now();
    element("lost").hidden = true;
    document.body.classList.remove("old");
  };
  const request = async (address, options) => {
    const headers = { Accept: "application/json" }, signal = AbortSignal.timeout(RESPONSE_MAX_MS);
    const response = await fetch(address, { cache: "no-store", headers, signal, ...options });
    const update = await response.json();
    if (!response.ok) throw new Error(update.error.message);
    apply(update);
  };

  const listen = () => {
    source = new EventSource("/events");
    source.onmessage = (event) => {
      apply(JSON.parse(event.data));
      clearInterval(polling);
      polling = 0;
    };
    source.onerror = () => {
      // The browser reconnects by itself; after a refusal, poll and try again.
      if (source.readyState !== EventSource.CLOSED) return;
      polling ||= setInterval(() => request("/").catch(() => {}), POLL_MS);
      setTimeout(() => { if (source?.readyState === EventSource.CLOSED && !document.hidden) listen(); }, RETRY_MS);
    };
  };
  // A hidden page unsubscribes, so that it takes no permit from a visible one.
  const updateSubscription = () => {
    if (document.hidden) { source?.close(); source = null; clearInterval(polling); polling = 0; }
    else if (!source) { updatedAt = Date.now(); listen(); }
  };
  document.addEventListener("visibilitychange", updateSubscription);
  setInterval(() => {
    const old = !document.hidden && Date.now() - updatedAt >= SILENCE_MAX_MS;
    element("lost").hidden = !old;
    document.body.classList.toggle("old", old);
  }, 1000);
  updateSubscription();

  const showError = (words) => {
    const line = document.createElement("p");
    line.className = "bad";
    line.textContent = words;
    element("result").replaceChildren(line);
  };
  document.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { target: form, submitter } = event;
    if (submitter.ariaDisabled === "true") return;
    submitter.ariaDisabled = "true";
    try {
      await request(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, submitter)) });
    } catch (error) {
      showError(`the service did not answer: ${error.message}`);
    }
    submitter.ariaDisabled = "false";
    element("result").scrollIntoView({ block: "nearest" });
  });
})();
