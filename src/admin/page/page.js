"use strict";
// The page is whole without this; with it, it stays fresh.
(() => {
  const EVERY_MS = 2000, ANSWER_MAX_MS = 10000;
  const lost = document.querySelector("#lost");
  const renew = async () => {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MAX_MS) });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = fresh.querySelector("main"), old = document.querySelector("main");
    if (!main) throw new Error("no page");
    // Whoever reads a wide table or selects text keeps the place.
    if (getSelection().toString() !== "" && old.contains(getSelection().anchorNode)) return;
    const places = [...old.querySelectorAll(".scroll")].map((region) => [region.id, region.scrollLeft]);
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceWith(main);
    for (const [id, left] of places) {
      const region = document.getElementById(id);
      if (region) region.scrollLeft = left;
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    document.title = fresh.title;
  };
  const turn = async () => {
    if (!document.hidden) {
      try {
        await renew();
        lost.hidden = true;
      } catch {
        lost.hidden = false;
      }
    }
    setTimeout(turn, EVERY_MS);
  };
  setTimeout(turn, EVERY_MS);
})();
