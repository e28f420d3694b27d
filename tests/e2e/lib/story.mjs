/** Frame of every scenario: steps with times, polled conditions, cleaning up, and a report that says what was seen. */

/** The server under test, always with a slash at the end. */
export const serverUrl = withSlash(process.env.SERVER_URL ?? process.argv[2]);

/** A little less than the limit of the caller, so that the report is written here. */
const LIMIT_MS = Number(process.env.STORY_LIMIT_MS ?? 60_000) - 5_000;

const started = performance.now();
const cleanups = [];
const diagnostics = [];

function withSlash(url) {
  if (!url) {
    console.error("SERVER_URL (or the first argument) must name the server, e.g. http://127.0.0.1:3000/");
    process.exit(2);
  }
  return url.endsWith("/") ? url : `${url}/`;
}

function stamp() {
  return `${((performance.now() - started) / 1000).toFixed(2).padStart(6)} s`;
}

/** Says what happens; the last one printed is where a story failed. */
export function step(text) {
  console.log(`${stamp()}  ${text}`);
}

/** Runs when the story is over, the last registered first. */
export function cleanup(run) {
  cleanups.push(run);
}

/** Called only when the story fails; its text is part of the report. */
export function onFailure(name, describe) {
  diagnostics.push({ name, describe });
}

export class Skip extends Error {}

/** Runs a story and ends the process: 0 fine, 1 failed, 77 skipped. */
export async function story(name, run) {
  console.log(`story: ${name} (${serverUrl})`);
  let code = 0;
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the story took longer than ${LIMIT_MS} ms`)), LIMIT_MS);
  });
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.once(signal, async () => {
      console.log(`${stamp()}  ended by ${signal}`);
      await clean();
      process.exit(1);
    });
  }
  try {
    await Promise.race([run(), limit]);
    step("done");
  } catch (error) {
    if (error instanceof Skip) {
      console.log(`SKIPPED: ${error.message}`);
      code = 77;
    } else {
      console.log(`${stamp()}  FAILED: ${error?.stack ?? error}`);
      for (const { name: what, describe } of diagnostics) {
        const text = await Promise.race([
          Promise.resolve().then(describe).catch((failure) => `(no report: ${failure.message})`),
          new Promise((resolve) => setTimeout(resolve, 3_000, "(no report in time)")),
        ]);
        console.log(`--- ${what}\n${typeof text === "string" ? text : JSON.stringify(text, null, 1)}`);
      }
      code = 1;
    }
  }
  clearTimeout(timer);
  await clean();
  process.exit(code);
}

async function clean() {
  for (const run of cleanups.splice(0).reverse()) {
    await Promise.race([
      Promise.resolve().then(run).catch((error) => console.log(`cleaning up: ${error.message}`)),
      new Promise((resolve) => setTimeout(resolve, 4_000)),
    ]);
  }
}

/**
 * Asks again and again until `probe` gives something true, and returns it. What was seen last is in the error.
 *
 * @param {string} what completes "waited for …"
 */
export async function until(what, probe, { timeout = 15_000, interval = 100 } = {}) {
  const deadline = performance.now() + timeout;
  let seen;
  for (;;) {
    let failure = null;
    try {
      seen = await probe();
    } catch (error) {
      failure = error;
      seen = `error: ${error.message}`;
    }
    if (!failure && (seen === true || (seen && seen.ok !== false))) return seen;
    if (performance.now() > deadline) {
      throw new Error(`waited ${timeout} ms for ${what}; last seen: ${JSON.stringify(seen)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
}

/**
 * Watches that `probe` stays true for `duration`: the only way to show that something does not happen.
 */
export async function always(what, probe, { duration = 1_500, interval = 150 } = {}) {
  const end = performance.now() + duration;
  while (performance.now() < end) {
    const seen = await probe();
    if (!seen || seen.ok === false) throw new Error(`expected throughout: ${what}; seen: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
}

export function assert(condition, what) {
  if (!condition) throw new Error(`expected: ${what}`);
}

export function assertEqual(actual, expected, what) {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: expected ${b}, got ${a}`);
}

/** A room of this run's own. */
export function room(prefix = "room") {
  return `${prefix}-${Math.random().toString(36).slice(2, 10)}`;
}

/** A token of the development mode. */
export async function token(userId, roomId, more = {}) {
  const response = await fetch(new URL("dev/token", serverUrl), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ userId, name: more.name ?? userId, roomId, ...more }),
  });
  if (!response.ok) throw new Error(`POST /dev/token: ${response.status} ${await response.text()}`);
  return (await response.json()).token;
}
