/**
 * Media is encrypted between encoder and network, and the server forwards what it cannot read. Who has the key sees and hears
 * everybody, at once also who comes late; who has another key, or none, does not.
 */

import { readFileSync } from "node:fs";
import { blankPage, chromium } from "../lib/browser.mjs";
import { counters, framesRise, join, perceive, perceivesExactly, PEOPLE, TONE_TOLERANCE } from "../lib/call.mjs";
import { outbound } from "../lib/layers.mjs";
import { assert, assertEqual, room, step, story, until } from "../lib/story.mjs";

const ENCRYPTION = readFileSync(new URL("../lib/encryption.js", import.meta.url), "utf8");
const CODECS = (process.env.CODECS ?? "VP8,VP9,H264,AV1").split(",");
const KEY = [0x5a, 0xc3, 0x17, 0x88, 0xe1, 0x3d, 0x71];
const OTHER_KEY = [0x3c, 0x95, 0xfe, 0x21, 0x07];
const FIRST_PICTURE_MS = 1_000;
/** Readings in which whoever has no key must not see or hear what was sent. */
const READINGS = 15;

await story(`end-to-end encryption of ${CODECS.join(", ")}`, async () => {
  const browser = await chromium({ bypassCSP: true });
  const pages = {};
  for (const name of ["alice", "bob", "carol", "dave"]) {
    pages[name] = await blankPage(browser, name);
    await pages[name].evaluate(ENCRYPTION);
  }
  for (const codec of CODECS) {
    const id = room(`e2ee-${codec.toLowerCase()}`);
    const enter = async (name, key, options = {}) => {
      await pages[name].evaluate(([bytes, video]) => (e2e.encryption = bytes && encryption.hooks(bytes, video)), [key, codec]);
      await join(pages[name], name, id, { videoCodec: codec, encrypted: key !== null, ...options });
    };
    await enter("alice", KEY);
    await enter("bob", KEY);
    await perceivesExactly(pages.bob, "bob", ["alice"]);
    await perceivesExactly(pages.alice, "alice", ["bob"]);
    await framesRise(pages.bob, "bob", "alice", { by: 20 });
    assertEqual((await counters(pages.bob, "alice")).codec?.toLowerCase(), `video/${codec.toLowerCase()}`, "codec at the viewer");
    const passed = await pages.alice.evaluate(() => encryption.codecs.splice(0));
    assert(passed.includes(codec.toLowerCase()) && passed.includes("opus"), `what went through the transform: ${passed}`);

    // Decoding for a while: who comes late must not live on the key frames of the start.
    const before = (await outbound(pages.alice))[""];
    await enter("dave", KEY, { colour: null, tone: null });
    await perceivesExactly(pages.dave, "dave", ["alice", "bob"]);
    const first = await pages.dave.evaluate(() => e2e.state.firstFrames["alice/camera"]);
    const after = (await outbound(pages.alice))[""];
    step(`MEASURED first picture for who comes late: ${first} ms, requests for key frames: ${after.plis - before.plis}`);
    assert(first <= FIRST_PICTURE_MS, `first picture within ${FIRST_PICTURE_MS} ms: ${first}`);
    await framesRise(pages.dave, "dave", "alice");

    // What another key does is no matter of the codec.
    for (const key of codec === CODECS[0] ? [OTHER_KEY, null] : [null]) {
      await enter("carol", key, { colour: null, tone: null });
      await seesNothingOf("alice", pages.carol);
      step(`${codec}: nothing to see and hear with ${key ? "another key" : "no key"}`);
      await pages.carol.evaluate(() => e2e.state.call.leave());
    }
    await framesRise(pages.bob, "bob", "alice");
    for (const name of ["alice", "bob", "dave"]) await pages[name].evaluate(() => e2e.state.call.leave());
    step(`${codec} works`);
  }
});

/** Media comes, and it is neither the colour nor the tone of that person. */
async function seesNothingOf(userId, page) {
  const start = await until("media", async () => {
    const now = await counters(page, userId);
    return now.audioPackets > 0 && now.videoBytes > 0 ? now : { ok: false, now };
  });
  let readings = 0;
  await until("more media", async () => {
    const now = await counters(page, userId);
    const { colour, tone } = (await perceive(page))[userId];
    assert(colour !== PEOPLE[userId].colour, `the picture is not to be seen: ${colour}`);
    assert(tone === null || Math.abs(tone - PEOPLE[userId].tone) > TONE_TOLERANCE, `the tone is not to be heard: ${tone}`);
    readings += 1;
    const isMore = now.audioPackets >= start.audioPackets + 50 && now.videoBytes > start.videoBytes;
    return (isMore && readings >= READINGS) || { ok: false, start, now, readings };
  });
}
