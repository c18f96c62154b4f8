// The page of an order: shows each state as soon as the shop has it. The server renders the states.
import { call, clock, pause, sleep, watch } from "./live.js";
import { countDown, focusOn, localTimes, main, of, say, takeServed, text } from "./page.js";

const ENDED = new Set(["declined", "expired", "cancelled", "failed", "refunded"]);

const isOver = () => "over" in main.dataset;
const standOf = ({ dataset: { version, changes } }) => `${version} ${changes}`;

let stop = null, reading = false, again = false, stale = false;

// Forget an order that ended without a unit: the next press on the product's page is a first one.
function tidy() {
  const name = `order ${main.dataset.product}`;
  const kept = JSON.parse(localStorage.getItem(name));
  if (ENDED.has(main.dataset.state) && kept?.order === main.dataset.order) localStorage.removeItem(name);
}

// Take over the page that the server has rendered; `sentForm`: it answers a form.
function take(answer, sent, sentForm = false) {
  const page = new DOMParser().parseFromString(answer.text, "text/html");
  const fresh = page.getElementById("main");
  if (fresh?.dataset.page !== "order") return location.assign(answer.url ?? location.href);
  clock.take(fresh.dataset.now, sent);
  if (Date.parse(fresh.dataset.now) < Date.parse(main.dataset.now)) return;
  const changed = standOf(fresh) !== standOf(main);
  delete main.dataset.over;
  Object.assign(main.dataset, fresh.dataset);
  const focused = sentForm || document.activeElement?.closest("#details");
  // What the buyer has opened stays open while the order stays as it is.
  const open = of("details").querySelector("details[open]") !== null;
  say("state", fresh.querySelector("#state").textContent);
  of("state").className = fresh.querySelector("#state").className;
  if (sentForm || !open || changed) {
    of("details").replaceWith(document.importNode(fresh.querySelector("#details"), true));
    localTimes();
    if (focused) focusOn("state");
  }
  tidy();
  turn();
}

// Read the page again until the shop answers; one reading at a time, and one more if it was asked for meanwhile.
async function read() {
  if (reading) { again = true; return; }
  reading = true;
  for (let tries = 0; ; tries += 1) {
    again = false;
    const sent = performance.now();
    const answer = await call(location.pathname + location.search, { headers: { Accept: "text/html" } });
    if (answer.status === 200 || answer.status === 404) { take(answer, sent); if (!again) break; continue; }
    say("old", text("js.unreachable"));
    await sleep(Math.max(answer.wait, pause(tries)));
  }
  reading = false;
  say("old", stale ? text("js.old") : "");
}

// Send a form until the shop answers. Each of these forms may be sent twice: a repetition changes nothing.
async function send(event) {
  const form = event.target;
  if (!("kept" in form.dataset)) return;
  event.preventDefault();
  const button = form.querySelector("button");
  const body = new URLSearchParams(new FormData(form));
  button.disabled = true;
  for (let tries = 0; ; tries += 1) {
    const sent = performance.now();
    const answer = await call(form.action, { method: "POST", body });
    if (answer.status !== 0 && answer.status < 500 && answer.status !== 429) { take(answer, sent, true); break; }
    say("old", text("js.unreachable"));
    await sleep(Math.max(answer.wait, pause(tries)));
  }
  button.disabled = false;
  say("old", "");
}

// Follow the order while it can change: money may be given back after it was confirmed.
function turn() {
  if (isOver()) {
    stop?.();
    [stop, stale] = [null, false];
    say("old", "");
  } else if (stop === null) follow();
}

function follow() {
  const expired = async () => {
    stop?.();
    stop = null;
    await read();
  };
  stop = watch(() => main.dataset.stream, (order) => {
    if (order.version > Number(main.dataset.version)) read();
  }, (state) => {
    stale = state === "stale";
    if (stale) read();
    else if (!reading) say("old", "");
  }, {
    "token-expired": expired,
    changed: (event) => { if (JSON.parse(event.data).changes > Number(main.dataset.changes)) read(); },
  });
}

// Without a stream, ask.
async function poll() {
  for (;;) {
    await sleep(5000 + 5000 * Math.random());
    if (stale && !document.hidden) await read();
  }
}

function start() {
  localTimes();
  takeServed();
  tidy();
  document.addEventListener("submit", send);
  addEventListener("pageshow", (event) => { if (event.persisted) read(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !isOver()) read(); });
  let over = false;
  setInterval(() => {
    if (clock.slept() && !isOver()) read();
    const until = of("countdown")?.dataset.until;
    if (!until || !clock.known) return;
    const left = countDown(Date.parse(until));
    if (left === 0 && !over) read();
    over = left === 0;
  }, 250);
  turn();
  poll();
}

start();
