/**
 * A camera is sent as one stream with layers of size and of time in it. A viewer gets the ones it wishes for and sees nothing
 * of a switch but the size, or fewer pictures. While nobody watches nothing is sent, and it goes on at once when wished for.
 */

import { blankPage, chromium } from "../lib/browser.mjs";
import { counters, framesRise, join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { noteResumed, outbound, resumesAtOnce, stopsSending, Viewer } from "../lib/layers.mjs";
import { assert, assertEqual, room, step, story, until } from "../lib/story.mjs";

const CODEC = process.env.CODEC ?? "VP9";
const SIZES = { low: [240, 136], medium: [480, 272], high: [960, 544] };
const FPS = 20;

await story(`scalable ${CODEC}`, async () => {
  const browser = await chromium();
  const id = room("svc");
  const alice = await blankPage(browser, "alice");
  await alice.evaluate(noteResumed);
  await join(alice, "alice", id, { videoCodec: CODEC, size: { width: 960, height: 544, fps: FPS } });
  await joinAs(browser, "carol", id, { tone: null, size: { width: 160, height: 90, fps: FPS }, slots: { audio: 0, video: 0 } });
  const bob = await blankPage(browser, "bob");
  await join(bob, "bob", id, { colour: null, tone: null, also: ["layer-changed"] });
  await perceivesExactly(bob, "bob", ["alice", "carol"], { tones: false });
  const viewer = await Viewer.of(bob, { userId: "alice", publisher: alice, beside: "carol" });

  await viewer.takes({ quality: "high" }, SIZES.high);
  const [sent, ...more] = Object.values(await outbound(alice));
  assertEqual([sent.mode, more.length], ["L3T3_KEY", 0], "scalability mode, and further encodings");
  for (const quality of ["low", "high", "medium", "low", "high"]) await viewer.switches({ quality }, SIZES[quality]);

  // Fewer pictures of the same size.
  const full = await viewer.framerate();
  await viewer.switches({ quality: "high", maxFramerate: FPS / 2 }, SIZES.high);
  const half = await until("half of the pictures", async () => {
    const rate = await viewer.framerate();
    return rate < full * 0.65 && rate > full * 0.35 ? rate : { ok: false, full, rate };
  });
  step(`${full.toFixed(1)} pictures a second, then ${half.toFixed(1)}`);
  await viewer.switches({ quality: "high" }, SIZES.high);

  await resumesAtOnce(alice, async () => {
    await viewer.pauses();
    await stopsSending(alice, [""]);
    return [{ rid: "", ...(await viewer.takes({ quality: "medium" }, SIZES.medium)) }];
  });
  await framesRise(bob, "bob", "alice", { by: 20 });
  const { plis } = (await outbound(alice))[""];
  assert(plis <= viewer.wishes + 1, `few requests for key frames reach the publisher: ${plis}`);
  assertEqual((await counters(bob, "alice")).codec?.toLowerCase(), `video/${CODEC.toLowerCase()}`, "codec at the viewer");
});
