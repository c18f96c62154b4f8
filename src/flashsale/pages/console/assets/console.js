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

const late = document.getElementById("late");

function isLate(reason) {
  const now = document.getElementById("now");
  if (!now) return;
  late.textContent = `${reason}: these values are from ${now.dataset.at} UTC. The page keeps trying.`;
  late.hidden = false;
}

document.body.addEventListener("htmx:afterSwap", ({ detail }) => {
  show();
  // A question that came in place of another part is read out, and the next key is for it.
  if (detail.target.id === "confirm") document.getElementById("question")?.focus();
});
document.body.addEventListener("htmx:sendError", () => isLate("The shop does not answer"));
document.body.addEventListener("htmx:timeout", () => isLate("The shop does not answer"));
document.body.addEventListener("htmx:responseError", ({ detail }) => isLate(`The shop answers ${detail.xhr.status}`));
document.body.addEventListener("htmx:afterOnLoad", ({ detail }) => {
  if (detail.successful) late.hidden = true;
});
