// The page of a product: the countdown, the stock, and one button that makes one order at most.
import { call, clock, pause, sleep, watchProduct } from "./live.js";
import { amount, countDown, focusOn, has, localTimes, main, number, of, say, text } from "./page.js";

const LOOK_MS = 60_000;          // every change comes over the stream: this finds a stream that is dead without an error
const ASK_AGAIN_MS = 600_000;    // an older request without an answer waits for the buyer to press again
const ARMED_MS = 1500;           // a button with another label can be pressed after this time
const EARLY_TRIES = 4;
const UNDECIDED = new Set([0, 401, 408, 421, 425, 429]);

const product = main.dataset.product;
const names = { asked: `asked ${product}`, mine: `order ${product}`, turn: `turn ${product}` };
const button = of("buy"), label = button.textContent;

let terms = null;                // the product as the shop described it last, in an event or an answer
let known = null;                // the same, once an answer has told the time too
let stock = null, version = -1, stale = false;
let misses = 0;                  // looks without an answer, one after the other
let asking = null;               // the key of what is said while a request is not decided
let refusal = null;              // what was said of the last request, while the sale stays as it was then
let seen = null, seenAt = -ARMED_MS;  // the order that this page has shown
let token = null;
let shownTerms = "";             // the terms as this page has written them
let turns = 0;                   // the requests of this login that the shop has decided

// What a tab knows of its own request, all tabs know: two tabs that press send one request, and so does a tab that was
// closed and opened again. The key stays until the shop has decided.
function kept(name) {
  try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
}

function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, JSON.stringify(value));
  } catch { /* the browser keeps nothing: this page still sends one key */ }
}

// A browser may show one tab late what another one keeps. So all tabs of a login make the same key until they know of a
// decision, and the shop makes one order of it.
const turn = () => Math.max(turns, kept(names.turn) ?? 0);
const keyOf = (visit) => `${visit}-${product}-${turn()}`;

function decided() {
  turns = turn() + 1;
  keep(names.turn, turns);
  keep(names.asked, null);
}

// The order that this browser has, unless somebody else is signed in now.
function mine() {
  const own = kept(names.mine);
  return own && !(token && own.account !== token.account) ? own.order ?? null : null;
}

// One tab at a time begins a request.
const alone = (act) => (navigator.locks ? navigator.locks.request(names.asked, act) : act());

function phase() {
  const starts = known.startsAt && Date.parse(known.startsAt), ends = known.endsAt && Date.parse(known.endsAt);
  if (known.archivedAt || (ends && clock.now() >= ends)) return "ended";
  if (known.paused) return "paused";
  if (starts && clock.now() < starts) return "before";
  return stock > 0 ? "open" : "sold_out";
}

function stateNow() {
  if (asking) return { "js.unsure": "unreachable", "js.accepted": "accepted" }[asking] ?? "asking";
  if (misses > 1 || (misses && (stale || known === null))) return "unreachable";
  return known === null ? "loading" : phase();
}

function show() {
  const state = stateNow(), own = mine();
  main.dataset.state = state;
  if (refusal && known && refusal.phase !== phase()) refusal = null;
  if (own !== seen) [seen, seenAt] = [own, performance.now()];
  of("mine").hidden = !own;
  if (own) of("mine").firstElementChild.href = main.dataset.order.replace("ID", own);
  say("buy", own ? text("js.again") : label);
  // A press that was meant for the former label does nothing.
  button.disabled = state !== "open" || performance.now() - seenAt < ARMED_MS;
  if (asking) say("state", text(asking));
  else if (refusal) say("state", refusal.text);
  else if (state === "open" && kept(names.asked)) say("state", text("js.unasked"));
  else if (state !== "loading") say("state", text(`js.${state}`));
  say("old", known !== null && stale && !asking && state !== "unreachable" ? text("js.old") : "");
  if (known === null) return;
  of("soon").hidden = phase() !== "before";
  if (phase() === "before") countDown(Date.parse(known.startsAt));
  say("stock", state === "unreachable" && !asking ? "–" : number(stock));
  const bar = of("bar");
  bar.max = Math.max(known.allotment ?? bar.max, stock, 1);
  bar.value = stock;
}

// An answer may come from a process that has not heard of the newest change, or from an older release without versions.
function learn(now) {
  if (terms === null || !(now.version < terms.version)) terms = now;
  follow();
}

// It may be sold by another cell now, under another number. What this page has asked for is decided first.
function follow() {
  if (terms?.movedTo && !asking) location.replace(location.href.replace(`/p/${product}`, `/p/${terms.movedTo}`));
}

function describe() {
  if (known === terms) return;
  known = terms;
  say("name", known.name);
  document.title = known.name + document.title.slice(document.title.lastIndexOf(" · "));
  say("price", amount(known.price, known.currency));
  if (known.allotment !== undefined) say("units", number(known.allotment));
  const lines = [...termsOf(known)].map(([key, values, at]) => item(key, values, at));
  if (lines.map((line) => line.outerHTML).join() === shownTerms) return;
  shownTerms = lines.map((line) => line.outerHTML).join();
  of("terms").replaceChildren(...lines);
  localTimes();
}

// As the server writes them.
function* termsOf({ limitPerBuyer, paymentMode, paymentWindowS, refundableByBuyer, startsAt, endsAt }) {
  if (limitPerBuyer !== null) yield ["js.each", { limit: limitPerBuyer }];
  if (paymentMode === "automatic") yield ["js.at_once"];
  else if (paymentWindowS % 60 || paymentWindowS === 60) yield ["js.window_s", { seconds: paymentWindowS }];
  else yield ["js.window", { minutes: paymentWindowS / 60 }];
  if (refundableByBuyer) yield ["js.refundable"];
  if (startsAt) yield ["js.opens_at", {}, startsAt];
  if (endsAt) yield ["js.ends_at", {}, endsAt];
}

function item(key, values = {}, at = null) {
  const line = document.createElement("li");
  const [before, after] = text(key, { ...values, time: "\n" }).split("\n");
  line.append(before);
  if (at === null) return line;
  const time = document.createElement("time");
  time.dateTime = at;
  line.append(time, after);
  return line;
}

// Tell of the stock at thresholds, not at each unit.
function announce(before, now) {
  if (before === null || before === now) return;
  const half = of("bar").max / 2, tenth = of("bar").max / 10;
  const passed = (bound) => before > bound && now <= bound;
  if (now === 0) say("heard", text("js.left_none"));
  else if (now > before && (before === 0 || now - before > tenth)) say("heard", text("js.more", { left: number(now) }));
  else if (passed(5)) say("heard", text("js.left_few", { left: number(now) }));
  else if (passed(tenth)) say("heard", text("js.left_tenth"));
  else if (passed(half)) say("heard", text("js.left_half"));
}

function take(units, at) {
  announce(stock, units);
  [stock, version] = [units, at];
  show();
}

const gone = ({ status, body }) => status === 404 && body.code === "product_not_found";

async function look() {
  const answer = await call(`/api/products/${product}`);
  // A machine between shop and page may answer too: that says nothing of the product.
  const found = answer.status === 200 && answer.body.id !== undefined;
  misses = found || gone(answer) ? 0 : misses + 1;
  if (gone(answer)) location.reload();
  if (found) {
    const units = stale || answer.body.stockVersion > version ? answer.body.stock : stock;
    learn(answer.body);
    describe();
    take(units, answer.body.stockVersion);
  }
  show();
}

// The name of the session's login: another tab may have signed in as somebody else, or out.
function visitNow() {
  const name = `${location.protocol === "https:" ? "__Host-" : ""}flashsale-login=`;
  return document.cookie.split("; ").find((one) => one.startsWith(name))?.slice(name.length);
}

// Get a token for the API, which soon expires and stays in this page's memory, and names for its account and its login,
// which tell nothing about them: a null token without a session of a buyer, or why there is no answer.
async function login() {
  if (token && performance.now() < token.until && token.visit === visitNow()) return token;
  const answer = await call("/session", { method: "POST" });
  if (answer.status === 401) return { token: null };
  if (answer.status !== 200 || answer.body.token === undefined) return answer;
  const { token: made, account, visit, expiresIn, staff } = answer.body;
  token = made && { token: made, account, visit, until: performance.now() + 500 * expiresIn };
  return token ?? { token: null, staff };
}

const send = ({ key, price }, access) => call("/api/order/buy-flash", {
  method: "POST",
  headers: { Authorization: `Bearer ${access}`, "Content-Type": "application/json", "Idempotency-Key": key, "Flashsale-Product": product },
  body: JSON.stringify({ productId: Number(product), quantity: 1, expectedPrice: price }),
});

// Ask for the unit until the shop has decided, with one key. Only the shop's answer to the request itself is a decision:
// a machine between shop and page may refuse what the shop has accepted.
async function ask(request) {
  asking = "js.asking";
  show();
  for (let tries = 0; ; tries += 1) {
    const access = await login();
    if (access.staff) return dropped("js.staff");
    if (access.token === null) return signIn(request);
    if (access.token && request.account && request.account !== access.account) return ofAnother();
    if (access.token) {
      request.key ??= keyOf(access.visit);
      keep(names.asked, Object.assign(request, { sent: true, account: access.account }));
    }
    const answer = access.token ? await send(request, access.token) : access;
    const { code, orderId } = answer.body;
    if (access.token && answer.status === 202 && orderId) return accepted(orderId, access.account);
    // The button may be a moment ahead of the clock that opens the sale.
    const early = code === "sale_not_started" && tries < EARLY_TRIES && known && phase() === "open";
    if (answer.status === 401) token = null;
    else if (access.token && !early && code && answer.status < 500 && !UNDECIDED.has(answer.status)) {
      return refused(code);
    }
    if (!early) asking = code ? "js.busy" : "js.unsure";
    show();
    await sleep(Math.max(answer.wait * (1 + Math.random()), pause(tries)));
  }
}

// The request goes on after the sign-in, in this tab. One that was never sent is kept nowhere else.
function signIn(request) {
  if (!request.sent) keep(names.asked, null);
  sessionStorage.setItem(names.asked, JSON.stringify(request));
  location.assign(main.dataset.signIn);
}

function accepted(order, account) {
  keep(names.mine, { order, account });
  decided();
  asking = "js.accepted";
  show();
  location.assign(main.dataset.order.replace("ID", order));
}

function refused(code) {
  const key = `js.refused.${code}`;
  return dropped(has(key) ? key : "js.refused.other");
}

// The request is of an account that used this browser before: who is signed in now presses for an order of their own.
const ofAnother = () => dropped("js.other_account");

async function dropped(why) {
  decided();
  await look();
  asking = null;
  follow();
  refusal = { text: text(why), phase: known && phase() };
  show();
  if (button.disabled && [button, document.body].includes(document.activeElement)) focusOn("state");
}

async function press() {
  if (asking) return;
  const shown = seen;
  refusal = null;
  asking = "js.asking";
  show();
  const request = await alone(() => {
    const pending = kept(names.asked);
    if (pending) return pending;
    // Another tab has an order that this page has not shown, so this press meant the first order.
    if (mine() !== shown) return null;
    // The buyer pays the price that the page shows, or nothing is bought.
    const made = { price: known.price, at: Date.now() };
    keep(names.asked, made);
    return made;
  });
  if (request === null) return location.assign(main.dataset.order.replace("ID", mine()));
  await ask(request);
}

// After a reload, ask for the decision of a request that this browser has sent, or that waited for the sign-in. An old
// one waits for a press.
async function resume() {
  const waited = sessionStorage.getItem(names.asked);
  sessionStorage.removeItem(names.asked);
  const pending = kept(names.asked) ?? JSON.parse(waited);
  if (!pending || Date.now() - pending.at > ASK_AGAIN_MS) return login();
  // Somebody who came back without signing in presses again.
  if ((await login()).token === null || asking) return show();
  keep(names.asked, pending);
  await ask(pending);
}

function start() {
  say("state", text("js.loading"));
  localTimes();
  button.addEventListener("click", press);
  addEventListener("storage", show);
  addEventListener("online", look);
  addEventListener("offline", () => { misses = 2; show(); });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    asking = token = null;
    look();
    resume();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { look(); login(); } });
  const change = (product) => {
    learn(product);
    if (known === null) return;
    describe();
    show();
  };
  watchProduct(product, take, change, (state) => {
    const before = stale;
    stale = state === "stale";
    if (stale || before) look();
    show();
  });
  setInterval(() => { if (clock.slept()) look(); show(); }, 250);
  poll();
}

async function poll() {
  await look();
  resume();
  for (let tries = 0; ; tries = stale || misses ? tries + 1 : 0) {
    await sleep(tries ? pause(tries) : LOOK_MS * (0.5 + Math.random()));
    if (!document.hidden) await look();
  }
}

start();
