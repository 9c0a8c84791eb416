"use strict";
// The page is whole without this; with it, it stays fresh and keeps its place.
(() => {
  const SILENCE_MAX_MS = 10000, POLL_MS = 5000, AGAIN_MS = 10000, ANSWER_MAX_MS = 40000;
  const element = (id) => document.getElementById(id);
  const version = document.documentElement.dataset.page;
  let heard = Date.now(), source = null, polling = 0;

  // Puts a part in its place; who has the focus keeps it, a table stays scrolled, and who selects text keeps it until
  // the selection is let go.
  const held = new Map();
  const put = (id, markup) => {
    const place = element(id);
    if (!place) return;
    const selection = getSelection();
    if (!selection.isCollapsed && place.contains(selection.anchorNode)) return held.set(id, markup);
    held.delete(id);
    const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = [...place.querySelectorAll(".scroll")].map((region) => [region.id, region.scrollLeft]);
    place.innerHTML = markup;
    for (const [region, left] of scrolled) if (element(region)) element(region).scrollLeft = left;
    if (focused) (element(focused) ?? element(focused.replace(/^(pause|resume)-/, other)))?.focus({ preventScroll: true });
  };
  document.addEventListener("selectionchange", () => {
    if (getSelection().isCollapsed) for (const [id, markup] of [...held]) put(id, markup);
  });
  // What was a job's one button is its other one now.
  const other = (verb) => (verb === "pause-" ? "resume-" : "pause-");
  // Parts, as an event or an answer brings them. A page of another program begins anew.
  const take = (news) => {
    if (news.page !== version) return location.reload();
    for (const [id, markup] of Object.entries(news.parts)) put(id, markup);
    document.title = news.title;
    heard = Date.now();
    element("lost").hidden = true;
    document.body.classList.remove("old");
  };
  const ask = async (address, options) => {
    const headers = { Accept: "application/json" }, signal = AbortSignal.timeout(ANSWER_MAX_MS);
    const answer = await fetch(address, { cache: "no-store", headers, signal, ...options });
    const news = await answer.json();
    if (!answer.ok) throw new Error(news.error.message);
    take(news);
  };

  const listen = () => {
    source = new EventSource("/events");
    source.onmessage = (event) => {
      take(JSON.parse(event.data));
      clearInterval(polling);
      polling = 0;
    };
    source.onerror = () => {
      // While it connects again it does so by itself; when it was refused, we ask from time to time and try again.
      if (source.readyState !== EventSource.CLOSED) return;
      polling ||= setInterval(() => ask("/").catch(() => {}), POLL_MS);
      setTimeout(() => { if (source?.readyState === EventSource.CLOSED && !document.hidden) listen(); }, AGAIN_MS);
    };
  };
  // A page that nobody sees takes no place from one that is looked at.
  const look = () => {
    if (document.hidden) { source?.close(); source = null; clearInterval(polling); polling = 0; }
    else if (!source) { heard = Date.now(); listen(); }
  };
  document.addEventListener("visibilitychange", look);
  setInterval(() => {
    const old = !document.hidden && Date.now() - heard >= SILENCE_MAX_MS;
    element("lost").hidden = !old;
    document.body.classList.toggle("old", old);
  }, 1000);
  look();

  const say = (words) => {
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
      await ask(form.action, { method: "POST", body: new URLSearchParams(new FormData(form, submitter)) });
    } catch (error) {
      say(`nothing was heard of it: ${error.message}`);
    }
    submitter.ariaDisabled = "false";
    element("result").scrollIntoView({ block: "nearest" });
  });
})();
