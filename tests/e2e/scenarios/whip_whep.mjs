/**
 * A publisher by WHIP with simulcast, seen by a participant with the SDK and by viewers by WHEP in Chromium and Firefox. ICE
 * is restarted, and the end is told. All requests are plain fetch.
 */

import { readFileSync } from "node:fs";
import { blankPage, chromium, firefox } from "../lib/browser.mjs";
import { events, framesRise, joinAs, PEOPLE, perceivesExactly, TONE_TOLERANCE } from "../lib/call.mjs";
import { assert, assertEqual, onFailure, room, serverUrl, step, story, token, until } from "../lib/story.mjs";

const IN_PAGE = readFileSync(new URL("../lib/whip-in-page.js", import.meta.url), "utf8");
const ENCODINGS = [
  { rid: "l", scaleResolutionDownBy: 4, maxBitrate: 100_000 },
  { rid: "m", scaleResolutionDownBy: 2, maxBitrate: 300_000 },
  { rid: "h", maxBitrate: 800_000 },
];

await story("WHIP and WHEP in browsers", async () => {
  const [chrome, fox] = await Promise.all([chromium(), firefox()]);
  const id = room("whip");
  const call = new URL(`video-calls/${id}/`, serverUrl).href;

  // Somebody with signaling is there first, and sends as well: the viewers must not take one for the other.
  const alice = await joinAs(chrome, "alice", id);
  const publisher = await open(chrome, "bob");
  const published = await publisher.evaluate((given) => e2e.whip.publish(given), {
    endpoint: `${call}whip`,
    token: await token("bob", id),
    encodings: ENCODINGS,
    size: { width: 960, height: 540 },
    ...PEOPLE.bob,
  });
  step(`bob publishes by WHIP: ${published.location}, trickled ${JSON.stringify(published.trickled)}`);
  assert(new URL(published.location).pathname.startsWith(`/video-calls/${id}/whip/`), "a session below the endpoint");
  assert(published.trickled.length > 0 && published.trickled.every((status) => status === 204), "candidates are taken");
  assert(/^a=simulcast:recv l;m;h\r?$/m.test(published.answer), "all encodings are taken");
  await perceivesExactly(alice, "alice", ["bob"]);
  await framesRise(alice, "alice", "bob");
  await arrive(id, "bob", ENCODINGS.map(({ rid }) => rid));

  const carol = await open(chrome, "carol");
  const dave = await open(fox, "dave");
  const viewers = [[carol, "carol", true], [dave, "dave", false]];
  for (const [page, who] of viewers) {
    const watching = await page.evaluate((given) => e2e.whip.watch(given), {
      endpoint: `${call}whep?publisher=bob`,
      token: await token(who, id, { role: "viewer" }),
      // One offer holds its candidates, the other is followed by them.
      trickle: who === "dave",
    });
    step(`${who} watches by WHEP: ${watching.location}, trickled ${JSON.stringify(watching.trickled)}`);
    assert(watching.trickled.every((status) => status === 204), "candidates are taken");
  }
  for (const [page, who, tones] of viewers) {
    await seesAndHears(page, who, "bob", { tones });
    await goesOn(page, who);
  }
  // Who only watches is somebody in the call.
  await until("alice to know the viewers", () =>
    alice.evaluate(() => ["carol", "dave"].every((who) => e2e.state.call.participants.has(who))),
  );

  for (const [page, who] of [[publisher, "bob"], [carol, "carol"], [dave, "dave"]]) {
    const restarted = await page.evaluate(() => e2e.session.restart());
    assert(restarted.after !== restarted.before, `another ICE session has another entity tag: ${JSON.stringify(restarted)}`);
    assertEqual(restarted.stale, 412, "status for the entity tag of before");
    await until(`the ICE session of ${who} to be the new one`, async () => {
      const seen = await page.evaluate(async () => ({
        ...(await e2e.session.iceSession()),
        connection: e2e.session.pc.connectionState,
        signaling: e2e.session.pc.signalingState,
      }));
      const renewed = seen.ufrag === restarted.ufrag && seen.state === "connected";
      return renewed && seen.connection === "connected" && seen.signaling === "stable" ? true : { ok: false, seen, restarted };
    });
    step(`ICE of ${who} restarted`);
    for (const [viewer, name] of viewers) await goesOn(viewer, name);
    await framesRise(alice, "alice", "bob");
  }

  assertEqual(await publisher.evaluate(() => e2e.session.end()), 200, "status of DELETE");
  await until("alice to be told that bob left", async () => {
    const left = await events(alice, "participant-left");
    return left.some(({ userId }) => userId === "bob") ? true : { ok: false, left };
  });
  await until("the server to say goodbye to bob", () =>
    publisher.evaluate(() => {
      const states = e2e.session.pc.getSenders().map(({ transport }) => transport.state);
      return states.every((state) => state === "closed") || { ok: false, states };
    }),
  );
  step("bob has ended the session");
  assertEqual(await publisher.evaluate(() => e2e.session.look()), 404, "status of a session that has ended");
  for (const [page, who] of viewers) {
    await stands(page, who);
    assertEqual(await page.evaluate(() => e2e.session.look()), 204, `status of ${who}'s session, which goes on`);
  }

  // A viewer's session waits for whoever comes, without another request.
  await publisher.evaluate((given) => e2e.whip.publish(given), {
    endpoint: `${call}whip`,
    token: await token("bob", id),
    trickle: false,
    ...PEOPLE.bob,
  });
  step("bob publishes again");
  for (const [page, who, tones] of viewers) {
    await seesAndHears(page, who, "bob", { tones });
    assertEqual(await page.evaluate(() => e2e.session.end()), 200, "status of DELETE");
  }
  await until("alice to be alone with bob", () =>
    alice.evaluate(() => {
      const seen = [...e2e.state.call.participants.keys()];
      return (seen.length === 1 && seen[0] === "bob") || { ok: false, seen };
    }),
  );
});

async function open(browser, who) {
  const page = await blankPage(browser, who);
  await page.evaluate(IN_PAGE);
  onFailure(`session of ${who}`, () =>
    page.evaluate(async () => ({
      connection: globalThis.e2e.session?.pc.connectionState,
      ice: globalThis.e2e.session?.pc.iceConnectionState,
      perceived: globalThis.e2e.whip.perceive(),
      video: await globalThis.e2e.session?.counters("video"),
    })),
  );
  return page;
}

async function seesAndHears(page, who, other, { tones }) {
  const { colour, tone } = PEOPLE[other];
  await until(
    `${who} to see${tones ? " and hear" : ""} ${other}`,
    async () => {
      const { picture, sound } = await page.evaluate(() => e2e.whip.perceive());
      const toneRight = !tones || (sound.ok && Math.abs(sound.hertz - tone) <= TONE_TOLERANCE);
      return picture.ok && picture.colour === colour && toneRight ? true : { ok: false, picture, sound };
    },
    { timeout: 20_000, interval: 200 },
  );
  step(`${who} sees${tones ? " and hears" : ""} ${other}`);
}

function received(page) {
  return page.evaluate(async () => {
    const [audio, video] = [await e2e.session.counters("audio"), await e2e.session.counters("video")];
    return { packets: audio.packets, frames: video.frames, codec: video.codec };
  });
}

/** Picture and sound go on: both counters rise between two readings. */
async function goesOn(page, who) {
  const before = await received(page);
  await until(`${who}'s picture and sound to go on`, async () => {
    const after = await received(page);
    return (after.frames >= before.frames + 5 && after.packets >= before.packets + 25) || { ok: false, before, after };
  });
}

/** Nothing comes any more. */
async function stands(page, who) {
  let last = null;
  let since = 0;
  await until(`${who}'s picture and sound to stand still`, async () => {
    const now = JSON.stringify(await received(page));
    if (now !== last) [last, since] = [now, performance.now()];
    return performance.now() - since >= 1_000 || { ok: false, now };
  });
}

/** Waits until every encoding of the video of `userId` gets to the server, by the server's own count. */
async function arrive(id, userId, rids) {
  const headers = { authorization: `Bearer ${await token("watcher", id, { role: "moderator" })}` };
  const counts = async () => {
    const response = await fetch(new URL(`video-calls/${id}/stats`, serverUrl), { headers });
    const { participants } = await response.json();
    const video = participants.find((one) => one.userId === userId)?.sent.filter(({ kind }) => kind === "video") ?? [];
    assertEqual(video.length, 1, "simulcast is one track");
    return Object.fromEntries(video[0].encodings.map(({ rid, packets }) => [rid, packets]));
  };
  const before = await counts();
  const after = await until(`packets of all of ${rids.join(", ")}`, async () => {
    const now = await counts();
    return rids.every((rid) => now[rid] >= (before[rid] ?? 0) + 20) ? now : { ok: false, before, now };
  });
  step(`encodings that arrive, in packets: ${JSON.stringify(after)}`);
}
