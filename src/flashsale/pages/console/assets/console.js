// Live values: the stock of what is on sale comes over a stream, everything else with the page, which htmx asks for again.
import { watchStock } from "./live.js";

const newest = new Map();

// The stream is often ahead of the page: show the higher version.
function show() {
  for (const cell of document.querySelectorAll("[data-stock]")) {
    const known = newest.get(cell.dataset.stock);
    if (known && known.version > Number(cell.dataset.version)) {
      cell.textContent = String(known.stock).replace(/\B(?=(\d{3})+$)/g, ",");
      cell.dataset.version = known.version;
    }
  }
}

for (const { dataset: { follow } } of document.querySelectorAll("[data-follow]")) {
  watchStock(follow, (stock, version) => {
    newest.set(follow, { stock, version });
    show();
  }, () => {});
}

// A table that somebody has moved sideways stays there when it is renewed.
const wide = () => [...document.querySelectorAll(".wide")];
let moved = new Map();

const late = document.getElementById("late");
let kept = false;                // a part of this answer has changed in which somebody types

// A choice without a default shows its first option.
const chosen = ({ options }) => ([...options].findLast((one) => one.defaultSelected) ?? options[0])?.selected === false;
const typed = (part) => [...part.querySelectorAll("input, textarea, select")].some((one) => {
  if (one.options) return chosen(one);
  return one.type === "checkbox" ? one.checked !== one.defaultChecked : one.value !== one.defaultValue;
});

// A part that stands as it stood stays, so that no press on a button is lost; so does what somebody types.
function swaps(part, fresh) {
  if (!part.dataset.stand) return true;
  const same = part.dataset.stand === fresh?.dataset.stand;
  if (same && fresh.dataset.at) part.dataset.at = fresh.dataset.at;
  const stays = !same && typed(part);
  kept ||= stays;
  return !same && !stays;
}

function isLate(reason) {
  const now = document.getElementById("now");
  if (!now) return;
  late.textContent = `${reason}: these values are from ${now.dataset.at} UTC. The page keeps trying.`;
  late.hidden = false;
}

// A page that nobody sees asks for nothing; a form that somebody has sent goes on.
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.matches("[hx-trigger^=every]")) event.preventDefault();
});
document.body.addEventListener("htmx:beforeOnLoad", () => { kept = false; });
document.body.addEventListener("htmx:beforeSwap", ({ detail }) => {
  moved = new Map(wide().map(({ id, scrollLeft }) => [id, scrollLeft]));
  if (!detail.shouldSwap || !detail.target.dataset.stand) return;
  const page = new DOMParser().parseFromString(detail.serverResponse, "text/html");
  detail.shouldSwap = swaps(detail.target, page.getElementById(detail.target.id));
});
document.body.addEventListener("htmx:oobBeforeSwap", ({ detail }) => {
  detail.shouldSwap = swaps(detail.target, detail.fragment.firstElementChild);
});
document.body.addEventListener("htmx:afterSwap", ({ detail }) => {
  show();
  for (const one of wide()) one.scrollLeft = moved.get(one.id) ?? 0;
  // A question that came in place of another part is read out, and the next key is for it.
  if (detail.target.id === "confirm") document.getElementById("question")?.focus();
});
document.body.addEventListener("htmx:sendError", () => isLate("The shop does not answer"));
document.body.addEventListener("htmx:timeout", () => isLate("The shop does not answer"));
document.body.addEventListener("htmx:responseError", ({ detail }) => isLate(`The shop answers ${detail.xhr.status}`));
document.body.addEventListener("htmx:afterOnLoad", ({ detail }) => {
  if (!detail.successful) return;
  late.hidden = !kept;
  if (kept) late.textContent = "This has changed since you began to type: load the page again to see it.";
});
