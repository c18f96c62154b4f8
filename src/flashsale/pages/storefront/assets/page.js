// What the scripts of all pages share: texts, times, and the countdown.
import { clock } from "./live.js";

export const main = document.getElementById("main");
export const of = (id) => document.getElementById(id);
const texts = JSON.parse(of("texts")?.textContent ?? "{}");

export const has = (key) => key in texts;
// A page of another release may lack a text: it says nothing then, and goes on.
export const text = (key, values = {}) =>
  (texts[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name]);

// An assistive technology reads a text once, when it changes.
export function say(id, words) {
  const place = of(id);
  if (place && place.textContent !== words) place.textContent = words;
}

// Focus must not be lost with the element that had it.
export function focusOn(id) {
  of(id).tabIndex = -1;
  of(id).focus();
}

export function number(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, texts["js.group"]);
}

export function amount(price, currency) {
  const [whole, decimals] = price.split(".");
  return `${number(whole)}${decimals ? texts["js.decimal"] + decimals : ""}\u00a0${currency}`;
}

// Times of the server are in UTC; show the visitor's own.
export function localTimes() {
  const form = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
  for (const time of document.querySelectorAll("time[datetime]")) time.textContent = form.format(new Date(time.dateTime));
}

// The time of the answer that this page is.
export function takeServed() {
  const [navigation] = performance.getEntriesByType("navigation");
  clock.take(main.dataset.now, navigation?.requestStart ?? 0, navigation?.responseStart ?? performance.now());
}

// Write the time until an instant of the shop's clock; returns the milliseconds that are left.
export function countDown(until) {
  const left = Math.max(0, until - clock.now());
  const seconds = Math.ceil(left / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  say("countdown", `${hours ? `${hours}:` : ""}${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`);
  return left;
}
