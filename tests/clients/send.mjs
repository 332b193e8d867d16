// Sends the calls given on stdin with a real Node SDK, and tells on stdout how it went.
// stdin:  {"sdk": "segment" | "rudder", "modules": folder, "url", "key", "options": {}, "calls": [...]}
// stdout: {"errors": [...]}
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const job = JSON.parse(readFileSync(0, "utf8"));
const load = createRequire(`${job.modules}/`);
const errors = [];
const failed = (error) => error && errors.push(String(error.reason ?? error.message ?? error));

function message({ type, timestamp, category, ...rest }) {
  return {
    ...rest,
    ...(category && { category }),
    ...(timestamp && { timestamp: new Date(timestamp) }),
  };
}

async function segment() {
  const { Analytics } = load("@segment/analytics-node");
  const analytics = new Analytics({ host: job.url, writeKey: job.key, ...job.options });
  analytics.on("error", failed);
  for (const call of job.calls) analytics[call.type](message(call));
  await analytics.closeAndFlush({ timeout: job.secondsMax * 1000 });
}

async function rudder() {
  const Analytics = load("@rudderstack/rudder-sdk-node");
  const analytics = new Analytics(job.key, {
    dataPlaneUrl: job.url,
    logLevel: "error",
    errorHandler: failed,
    ...job.options,
  });
  const sent = job.calls.map(
    (call) => new Promise((done) => analytics[call.type](message(call), (error) => done(failed(error)))),
  );
  // The first event leaves alone, the others wait for company; what is asked to leave now does so in turn.
  while (analytics.queue.length > 0) await analytics.flush();
  await Promise.all(sent);
}

await { segment, rudder }[job.sdk]();
console.log(JSON.stringify({ errors }));
process.exit(0); // timers of the SDKs would hold it open
