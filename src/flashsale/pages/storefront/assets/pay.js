// Pays at the provider: on its page, or in Stripe's element.
import { clock } from "./live.js";
import { countDown, main, of, say, takeServed, text } from "./page.js";

of("leave")?.focus();
const form = of("payment");
let paying = false;

// When the time is over, the page of the order says what became of it.
function tick() {
  if (!paying && clock.known && countDown(Date.parse(of("countdown").dataset.until)) === 0) location.replace(main.dataset.back);
}

function element() {
  const stripe = window.Stripe(form.dataset.key);
  const elements = stripe.elements({ clientSecret: form.dataset.secret, locale: document.documentElement.lang });
  const fields = elements.create("payment");
  const button = form.querySelector("button");
  fields.on("ready", () => { say("state", ""); button.disabled = false; });
  fields.on("loaderror", () => say("state", text("js.pay_failed")));
  fields.mount("#element");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = paying = true;
    const back = new URL(main.dataset.back, location.origin).href;
    // On success Stripe leads the browser to `back`, where the order says what became of the payment.
    const { error } = await stripe.confirmPayment({ elements, confirmParams: { return_url: back } });
    if (error) { say("state", error.message ?? text("js.pay_failed")); button.disabled = paying = false; }
  });
}

takeServed();
if (of("countdown")) setInterval(tick, 250);
if (form) {
  const script = of("stripe");
  if (window.Stripe) element();
  else {
    script.addEventListener("load", element);
    script.addEventListener("error", () => say("state", text("js.pay_failed")));
  }
}
