/** Whoever comes late has a decoded picture of everybody within a second of being let in. */

import { chromium } from "../lib/browser.mjs";
import { blankPage } from "../lib/browser.mjs";
import { join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { assert, room, step, story, until } from "../lib/story.mjs";

/** From `joined` to the first decoded frame of the last of the three. */
const LIMIT_MS = Number(process.env.LATE_JOINER_LIMIT_MS ?? 1_000);

await story("a late joiner sees everybody at once", async () => {
  const browser = await chromium();
  const id = room();
  const here = ["alice", "bob", "carol"];
  const pages = {};
  for (const name of here) pages[name] = await joinAs(browser, name, id);
  // Decoding for a while: the joiner must not live on the key frames of the start.
  for (const name of here) await perceivesExactly(pages[name], name, here.filter((other) => other !== name));

  const dave = await blankPage(browser, "dave");
  await join(dave, "dave", id);
  const first = await until("dave's first pictures", async () => {
    const frames = await dave.evaluate(() => e2e.state.firstFrames);
    return here.every((name) => `${name}/camera` in frames) ? frames : { ok: false, frames };
  });
  step(`MEASURED first picture after joined, ms: ${JSON.stringify(first)}`);
  await perceivesExactly(dave, "dave", here);
  const slowest = Math.max(...Object.values(first));
  assert(slowest <= LIMIT_MS, `every first picture within ${LIMIT_MS} ms, the slowest took ${slowest} ms`);
});
