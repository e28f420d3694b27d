/** Every video codec that browsers send is negotiated and forwarded: VP8, VP9, H.264, AV1. */

import { chromium } from "../lib/browser.mjs";
import { counters, framesRise, join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { assertEqual, room, step, story } from "../lib/story.mjs";

const CODECS = (process.env.CODECS ?? "VP8,VP9,H264,AV1").split(",");

await story(`codecs ${CODECS.join(", ")}`, async () => {
  const browser = await chromium();
  const bob = await joinAs(browser, "bob", room("start"));
  const alice = await joinAs(browser, "alice", room("start"));
  const failures = [];
  for (const codec of CODECS) {
    try {
      const id = room(codec.toLowerCase());
      for (const [page, name] of [[alice, "alice"], [bob, "bob"]]) {
        await page.evaluate(() => e2e.state.call.leave());
        await join(page, name, id, name === "alice" ? { videoCodec: codec } : {});
      }
      await perceivesExactly(bob, "bob", ["alice"], { timeout: 12_000 });
      await framesRise(bob, "bob", "alice");
      const { codec: received } = await counters(bob, "alice");
      assertEqual(received?.toLowerCase(), `video/${codec.toLowerCase()}`, "codec at the receiver");
      step(`${codec} works`);
    } catch (error) {
      step(`${codec} FAILED: ${error.message}`);
      failures.push(codec);
    }
  }
  assertEqual(failures, [], "codecs that failed");
});
