/**
 * A shared screen and its sound come beside camera and microphone, each as a track and a source of its own. The screen loses
 * pictures and not size. Everybody is told when it ends, by the page or by the browser's own button, and it can begin again.
 */

import { blankPage, chromium } from "../lib/browser.mjs";
import { events, framesRise, join, joinAs, PEOPLE, perceivesExactly, TONE_TOLERANCE } from "../lib/call.mjs";
import { inbound, outbound } from "../lib/layers.mjs";
import { always, assert, assertEqual, room, step, story, until } from "../lib/story.mjs";

const SCREEN = { colour: "yellow", tone: 1760, width: 1280, height: 720, fps: 20 };
const SOURCES = ["camera", "microphone", "screen", "screen-audio"];

await story("a shared screen", async () => {
  const browser = await chromium();
  const id = room("screen");
  const alice = await joinAs(browser, "alice", id, { also: ["local-track-ended"] });
  const bob = await blankPage(browser, "bob");
  await join(bob, "bob", id, { tone: null, also: ["layer-changed"] });
  await perceivesExactly(bob, "bob", ["alice"]);
  await alice.evaluate((media) => {
    navigator.mediaDevices.getDisplayMedia = async () => (globalThis.display = e2e.makeMedia(media));
  }, SCREEN);

  await alice.evaluate(() => e2e.state.call.shareScreen());
  await seesScreen(bob);
  const tracks = await bob.evaluate(() => [...e2e.participant("alice").tracks.values()].map(({ trackId, kind, source, mid }) => ({ trackId, kind, source, mid })));
  assertEqual(tracks.map(({ source }) => source).sort(), SOURCES, "sources of alice");
  for (const member of ["trackId", "mid"]) assertEqual(new Set(tracks.map((track) => track[member])).size, SOURCES.length, `different ${member}s`);
  for (const { kind, source } of tracks) assertEqual(kind, ["camera", "screen"].includes(source) ? "video" : "audio", `kind of ${source}`);
  await perceivesExactly(bob, "bob", ["alice"]);
  step("screen and camera, sound and voice");

  // Who comes late has all four as well.
  const carol = await joinAs(browser, "carol", id, { colour: null, tone: null });
  await seesScreen(carol);
  await perceivesExactly(carol, "carol", ["alice", "bob"], { tones: false });
  step("who comes late sees it too");

  // Fewer pictures, each as sharp as before.
  const screen = tracks.find(({ source }) => source === "screen").trackId;
  const size = await until("the screen in its full size", async () => {
    const { width, height } = await inbound(bob, "alice", "screen");
    return width === SCREEN.width && height === SCREEN.height ? `${width}x${height}` : { ok: false, width, height, sent: await outbound(alice) };
  });
  const full = await framerate(bob, (rate) => rate > SCREEN.fps * 0.7);
  await bob.evaluate((trackId) => e2e.state.call.setSubscription({ trackId }, { maxFramerate: 5, quality: "low" }), screen);
  const least = await framerate(bob, (rate) => rate < SCREEN.fps * 0.35 && rate > SCREEN.fps * 0.15);
  const { width, height } = await inbound(bob, "alice", "screen");
  assertEqual(`${width}x${height}`, size, "size with fewer pictures");
  step(`${size}: ${full.toFixed(1)} pictures a second, then ${least.toFixed(1)}`);
  await bob.evaluate((trackId) => e2e.state.call.setSubscription({ trackId }, {}), screen);
  await framerate(bob, (rate) => rate > SCREEN.fps * 0.7);

  // The page ends it.
  for (const page of [bob, carol]) await page.evaluate(() => (e2e.state.events.length = 0));
  await alice.evaluate(() => e2e.state.call.stopScreenShare());
  for (const [page, name] of [[bob, "bob"], [carol, "carol"]]) await seesItEnd(page, name);
  await carol.evaluate(() => e2e.state.call.leave());
  await framesRise(bob, "bob", "alice");
  await perceivesExactly(bob, "bob", ["alice"]);

  // Again, and the browser's own button ends it.
  await alice.evaluate(() => e2e.state.call.shareScreen());
  await seesScreen(bob);
  await bob.evaluate(() => (e2e.state.events.length = 0));
  await alice.evaluate(() => {
    for (const track of display.getTracks()) {
      track.stop();
      track.dispatchEvent(new Event("ended"));
    }
  });
  await seesItEnd(bob, "bob");
  const ended = (await events(alice, "local-track-ended")).map(({ source }) => source);
  assert(ended.includes("screen"), `alice is told as well: ${ended}`);
  await always("the camera of alice is seen", async () => {
    const { colour } = (await bob.evaluate(() => e2e.perceive())).alice;
    return colour === PEOPLE.alice.colour || { ok: false, colour };
  });
});

/** Colour and tone of the screen, each in its own stream. */
async function seesScreen(page) {
  await until("the screen with its sound", async () => {
    const seen = await page.evaluate(() => {
      const of = (source) => e2e.participant("alice").stream(source);
      return {
        picture: e2e.lookAtTrack(of("screen")?.getVideoTracks()[0]),
        sound: e2e.listen(of("screen-audio")?.getAudioTracks()[0]),
        voice: e2e.listen(of("microphone")?.getAudioTracks()[0]),
      };
    });
    const isTone = ({ ok, hertz }, tone) => ok && Math.abs(hertz - tone) <= TONE_TOLERANCE;
    const isIt = seen.picture.ok && seen.picture.colour === SCREEN.colour && isTone(seen.sound, SCREEN.tone) && isTone(seen.voice, PEOPLE.alice.tone);
    return isIt || { ok: false, seen };
  });
}

/** Told of both tracks, and has neither any more. */
async function seesItEnd(page, name) {
  await until(`${name} to be told that the screen is not shared any more`, async () => {
    const seen = await page.evaluate(() => ({
      told: e2e.state.events.filter(({ type }) => type === "track-unsubscribed").map(({ userId, source }) => `${userId} ${source}`),
      streams: [...e2e.participant("alice").streams.keys()].sort(),
      tracks: [...e2e.participant("alice").tracks.values()].map(({ source }) => source).sort(),
    }));
    const rest = JSON.stringify(["camera", "microphone"]);
    const isOver =
      JSON.stringify(seen.told.sort()) === JSON.stringify(["alice screen", "alice screen-audio"]) &&
      JSON.stringify(seen.streams) === rest &&
      JSON.stringify(seen.tracks) === rest;
    return isOver || { ok: false, seen };
  });
  step(`${name} is told that the screen is not shared any more`);
}

/** Of the screen that `page` sees, between two readings a second apart, once it is right. */
async function framerate(page, isRight) {
  const read = async () => ({ at: performance.now(), frames: (await inbound(page, "alice", "screen")).frames });
  let before = await read();
  return until("the right number of pictures", async () => {
    const now = await read();
    if (now.at - before.at < 1_000) return { ok: false };
    const rate = ((now.frames - before.frames) * 1_000) / (now.at - before.at);
    before = now;
    return isRight(rate) ? rate : { ok: false, rate };
  });
}
