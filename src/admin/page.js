"use strict";
// The page is whole without this; with it, it stays fresh.
(() => {
  const renew = async () => {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.querySelector("main").replaceWith(fresh.querySelector("main"));
      document.title = fresh.title;
    } catch {
      document.querySelector("#lost").hidden = false;
    }
  };
  setInterval(() => { if (!document.hidden) renew(); }, 2000);
})();
