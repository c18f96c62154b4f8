// Buy with the types that openapi-typescript generates and the client openapi-fetch; `tsc --strict` checks them.
// `node buyer.js BASE_URL PRODUCT_ID SOLD_OUT_ID` prints what became of it.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[]; exit(code: number): never };

type Problem = components["schemas"]["Problem"];
type Code = components["schemas"]["ProblemCode"];

function good<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.data === undefined) throw new Error(`${answer.error?.code}: ${answer.error?.detail}`);
  return answer.data;
}

async function main(baseUrl: string, productId: number, soldOutId: number): Promise<void> {
  const client = createClient<paths>({ baseUrl });
  const email = `${crypto.randomUUID()}@example.com`;
  const password = crypto.randomUUID();
  const { user } = good(await client.POST("/api/auth/register", { body: { name: "Ada", email, password } }));
  const { token } = good(await client.POST("/api/auth/login", { body: { email, password } }));
  const product = good(await client.GET("/api/products")).find(({ id }) => id === productId);
  client.use({
    onRequest({ request }) {
      request.headers.set("Authorization", `Bearer ${token}`);
    },
  });

  async function buy(id: number, key: string) {
    for (;;) {
      const answer = await client.POST("/api/order/buy-flash", {
        body: { productId: id },
        params: { header: { "Idempotency-Key": key } },
        headers: { "Flashsale-Product": String(id) },
      });
      if (answer.response.status !== 429 && answer.response.status !== 503) return answer;
      const seconds = Number(answer.response.headers.get("Retry-After"));
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    }
  }

  const key = crypto.randomUUID();
  const accepted = good(await buy(productId, key));
  const again = good(await buy(productId, key));
  const status: "queued" = accepted.status;
  const look = () =>
    client.GET("/api/order/{order_id}/status", { params: { path: { order_id: accepted.orderId } } });
  let order = good(await look());
  while (order.status !== "confirmed") {
    await new Promise((done) => setTimeout(done, 50));
    order = good(await look());
  }
  const refused = await buy(soldOutId, crypto.randomUUID());
  const soldOut: Code = "sold_out";
  if (refused.error?.code !== soldOut) throw new Error(`sold out, but: ${JSON.stringify(refused)}`);
  const same = again.orderId === accepted.orderId && order.userId === user.id && status === "queued";
  console.log(order.status, product?.name, order.totalPrice, refused.error.code, same ? "True" : "False");
}

main(process.argv[2]!, Number(process.argv[3]), Number(process.argv[4])).catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
