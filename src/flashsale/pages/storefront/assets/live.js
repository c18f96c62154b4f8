// Values that the shop sends, and the shop's clock. Storefront and console use this module.

const STALE_MS = 3000;     // a stream that is away for less has only reconnected
const ANSWER_MS = 10_000;
const PAUSE_MAX_MS = 15_000;
const PLAIN_MS = 60_000;   // after this time at most, a stream without details is opened with them again

// The device's clock may be wrong, so only its monotonic clock is used, from a time that the shop told.
const SLEPT_MS = 1000;
const between = () => Date.now() - performance.now();
let base = null, spent = Infinity, apart = between();
export const clock = {
  // `text`: the shop's time; `sent` and `came`: this page's time of question and answer.
  take(text, sent, came = performance.now()) {
    const told = Date.parse(text), late = base + came - told;
    if (Number.isNaN(told)) return;
    // The shop's time of now is between what was told and that with the time of the answer, or this clock stood still.
    if (base !== null && late >= 0 && late <= came - sent && came - sent > spent) return;
    spent = came - sent;
    base = told + spent / 2 - came;
  },
  get known() { return base !== null; },
  now: () => base + performance.now(),
  // Whether the device has slept since the last call: its monotonic clock may have stood still, and the other went on.
  slept() {
    const before = apart;
    apart = between();
    return Math.abs(apart - before) > SLEPT_MS;
  },
};
document.addEventListener("visibilitychange", () => { spent = Infinity; });

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// How long to wait before another try: longer each time, and spread, because many pages wait for the same shop.
export const pause = (tries) => Math.min(PAUSE_MAX_MS, 500 * 2 ** Math.min(tries, 10)) * (0.5 + Math.random() / 2);

// Send a request. Status 0: there was no answer, so what was asked for may have happened or not. `url`: of a redirect.
export async function call(path, options = {}) {
  const sent = performance.now();
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS), ...options });
    const text = await answer.text();
    let body = {};
    try { body = JSON.parse(text) ?? {}; } catch { /* no JSON */ }
    if (body.now) clock.take(body.now, sent);
    const wait = 1000 * (Number(answer.headers.get("Retry-After")) || 0);
    return { status: answer.status, url: answer.redirected ? answer.url : null, wait, body, text };
  } catch {
    return { status: 0, url: null, wait: 0, body: {}, text: "" };
  }
}

// Follow a stream while the page is visible. `url`: a function that returns its address.
// Calls onValue(data) and onState("live" | "stale"); returns a function that stops it.
export function watch(url, onValue, onState, events = {}) {
  let source = null, tries = 0, again = 0, late = 0, plain = false;
  const close = () => { clearTimeout(again); source?.close(); source = null; };
  const stale = () => { late ||= setTimeout(() => onState("stale"), STALE_MS); };
  function live() {
    clearTimeout(late);
    late = tries = 0;
    if (plain) again = setTimeout(open, PLAIN_MS * (0.5 + Math.random() / 2));
    plain = false;
    onState("live");
  }
  function open() {
    close();
    source = new EventSource(plain ? url().replace(/[?&]details=true/, "") : url());
    source.onopen = live;
    source.onmessage = (event) => onValue(JSON.parse(event.data));
    for (const [name, act] of Object.entries(events)) source.addEventListener(name, act);
    source.onerror = () => {
      stale();
      // CLOSED: the answer was no stream. Otherwise the browser reconnects by itself.
      if (source?.readyState !== EventSource.CLOSED) return;
      // A process of the release before refuses `details`, so every other try is without.
      plain = source.url.includes("details=true");
      clearTimeout(again);
      again = setTimeout(open, pause(tries++));
    };
  }
  // A hidden page needs no values, and browsers have few connections to a host.
  const turn = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", turn);
  if (!document.hidden) open();
  return () => { document.removeEventListener("visibilitychange", turn); clearTimeout(late); close(); };
}

export const watchStock = (product, onStock, onState = () => {}) =>
  watch(() => `/sse/stock/${product}`, ({ stock, version }) => onStock(stock, version), onState);

// The same, with the product at the beginning and after each change.
export const watchProduct = (product, onStock, onProduct, onState) => watch(
  () => `/sse/stock/${product}?details=true`, ({ stock, version }) => onStock(stock, version), onState,
  { product: (event) => onProduct(JSON.parse(event.data)) },
);
