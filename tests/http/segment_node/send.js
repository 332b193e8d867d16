// Sends one call of each type to the server at argv[2] with the write key argv[3].
import { Analytics } from "@segment/analytics-node";

const [host, writeKey] = process.argv.slice(2);
const analytics = new Analytics({ host, writeKey, flushAt: 4, maxRetries: 2 });
analytics.on("error", (error) => {
  console.error(error);
  process.exitCode = 1;
});

const userId = "node-user";
const context = { locale: "de-AT" };
const timestamp = new Date("2020-01-02T03:04:05.678Z");
analytics.identify({ userId, anonymousId: "node-anonymous", traits: { email: "Node@Example.org", age: 36 }, context });
analytics.track({ userId, event: "Order Completed", properties: { revenue: 42.5, half: "\ud83d" }, timestamp });
analytics.page({ userId, category: "Docs", name: "Pricing", properties: { url: "https://shop.example.org" } });
analytics.screen({ userId, name: "Basket", properties: { items: 3 } });
analytics.group({ userId, groupId: "node-org", traits: { name: "Acme", employees: 120 } });
analytics.alias({ userId, previousId: "node-before" });
analytics.track({ anonymousId: "node-anonymous", event: "Signed In" });
await analytics.closeAndFlush();
