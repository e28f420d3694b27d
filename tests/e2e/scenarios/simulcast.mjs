/**
 * A camera is sent in three sizes. A viewer gets the one it wishes for, and sees nothing of a switch but the size. What
 * nobody watches is not sent, and goes on at once when it is wished for. Sizes are told as they arrive.
 */

import { blankPage, chromium, firefox } from "../lib/browser.mjs";
import { framesRise, join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { noteResumed, outbound, resumesAtOnce, stopsSending, Viewer } from "../lib/layers.mjs";
import { assert, assertEqual, room, story } from "../lib/story.mjs";

const PUBLISHER = process.env.PUBLISHER ?? "chromium";
const SIZES = { low: [240, 135], medium: [480, 270], high: [960, 540] };

await story(`simulcast from ${PUBLISHER}`, async () => {
  const browser = await chromium();
  const id = room("simulcast");
  const alice = await blankPage(PUBLISHER === "firefox" ? await firefox() : browser, "alice");
  await alice.evaluate(noteResumed);
  await join(alice, "alice", id, { videoCodec: "VP8", size: { width: 960, height: 540, fps: 24 } });
  await joinAs(browser, "carol", id, { tone: null, size: { width: 160, height: 90, fps: 24 }, slots: { audio: 0, video: 0 } });
  const bob = await blankPage(browser, "bob");
  await join(bob, "bob", id, { colour: null, tone: null, also: ["layer-changed"] });
  await perceivesExactly(bob, "bob", ["alice", "carol"], { tones: false });
  const viewer = await Viewer.of(bob, { userId: "alice", publisher: alice, beside: "carol" });

  await viewer.takes({ quality: "high" }, SIZES.high);
  assertEqual(Object.keys(await outbound(alice)).sort(), ["h", "l", "m"], "encodings");
  await resumesAtOnce(alice, async () => {
    await viewer.switches({ quality: "low" }, SIZES.low);
    await stopsSending(alice, ["m", "h"]);
    const medium = await viewer.switches({ quality: "medium" }, SIZES.medium);
    const high = await viewer.switches({ quality: "high" }, SIZES.high);
    return [{ rid: "m", ...medium }, { rid: "h", ...high }];
  });
  await framesRise(bob, "bob", "alice", { by: 20 });

  const sent = Object.entries(await outbound(alice));
  for (const [rid, { plis }] of sent) assert(plis <= viewer.wishes, `few requests for key frames reach ${rid}: ${JSON.stringify(sent)}`);
});
