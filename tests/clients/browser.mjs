// Drives one headless Chromium: a command on each line of stdin, its answer on a line of stdout.
//   {"do": "open", "url"}                       -> number of a page with storage of its own
//   {"do": "run", "page", "name", "argument"}   -> what the page's function `name` returns
//   {"do": "offline", "page", "offline"}        -> null
//   {"do": "forward", "page", "seconds"}        -> null, when the page's timers of that time have run
//   {"do": "leave", "page"}                     -> null; the visitor goes to an empty page
//   {"do": "requests", "page"}                  -> [{"method", "url", "type", "status", "failure"}], all of it, from DevTools
//   {"do": "messages", "page"}                  -> what the page wrote to its console, and errors nobody caught
//   {"do": "close", "page"}                     -> null
// Ends with its stdin.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [modules, executablePath, ...args] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
// The sandbox of Chromium does not work as root.
const browser = await chromium.launch({ executablePath, args, chromiumSandbox: process.geteuid() !== 0 });
const pages = [];

async function open({ url }) {
  const context = await browser.newContext();
  const requests = new Map();
  const messages = [];
  context.on("request", (request) => {
    const seen = { method: request.method(), url: request.url(), type: request.resourceType() };
    requests.set(request, { ...seen, status: null, failure: null });
  });
  context.on("response", (response) => (requests.get(response.request()).status = response.status()));
  context.on("requestfailed", (request) => (requests.get(request).failure = request.failure()?.errorText));
  const page = await context.newPage();
  page.on("console", (message) => messages.push(message.text()));
  page.on("pageerror", (error) => messages.push(String(error)));
  await page.clock.install();
  await page.goto(url);
  return pages.push({ context, page, requests, messages }) - 1;
}

const commands = {
  open,
  // The argument goes as text: half a surrogate pair would not survive otherwise.
  run: ({ page, name, argument }) =>
    pages[page].page.evaluate(([name, text]) => window[name](JSON.parse(text)), [name, argument]),
  offline: ({ page, offline }) => pages[page].context.setOffline(offline),
  forward: ({ page, seconds }) => pages[page].page.clock.fastForward(seconds * 1000),
  leave: ({ page }) => pages[page].page.goto("about:blank"),
  requests: ({ page }) => [...pages[page].requests.values()],
  messages: ({ page }) => pages[page].messages,
  close: ({ page }) => pages[page].context.close(),
};

const COMMAND_SECONDS_MAX = 60;

function late(command) {
  return new Promise((_, reject) => {
    const error = new Error(`${command.do} did not end within ${COMMAND_SECONDS_MAX} s`);
    setTimeout(() => reject(error), COMMAND_SECONDS_MAX * 1000).unref();
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const answer = await Promise.race([commands[command.do](command), late(command)]).then(
    (value) => ({ value: value ?? null }),
    (error) => ({ error: String(error) }),
  );
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
