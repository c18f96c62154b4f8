// Lists: the server renders them again while somebody looks.
import { call, pause, sleep } from "./live.js";
import { localTimes, main, of, say, text } from "./page.js";

const AGAIN_MS = 20_000;

async function read() {
  const answer = await call(location.pathname + location.search, { headers: { Accept: "text/html" } });
  if (answer.url) return location.assign(answer.url);
  if (answer.status !== 200) return say("old", text("js.list_old"));
  const fresh = new DOMParser().parseFromString(answer.text, "text/html").getElementById("list");
  if (of("list").innerHTML !== fresh.innerHTML && !of("list").contains(document.activeElement)) {
    of("list").replaceWith(document.importNode(fresh, true));
    localTimes();
  }
  say("old", "");
}

async function poll() {
  for (;;) {
    await sleep(of("old").textContent ? pause(5) : AGAIN_MS * (0.5 + Math.random()));
    if (!document.hidden) await read();
  }
}

localTimes();
document.addEventListener("visibilitychange", () => { if (!document.hidden) read(); });
addEventListener("pageshow", (event) => { if (event.persisted) read(); });
if (main) poll();
