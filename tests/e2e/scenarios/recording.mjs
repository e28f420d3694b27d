/**
 * A call of three is recorded. Everybody is told before anything is recorded, who comes late and whoever looks at the page too.
 * The files are complete and right: whose picture and sound each track is, and when; they play and seek in both browsers.
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { chromium, blankPage, firefox, watch } from "../lib/browser.mjs";
import {
  allSeeEachOther,
  analyse,
  cameraOf,
  hostToken,
  playsAndSeeks,
  publish,
  Recording,
  SYNC,
  toldOf,
  voiceOf,
  wallOf,
} from "../lib/recording.mjs";
import { assert, assertEqual, room, serverUrl, step, story, token, until } from "../lib/story.mjs";

const LENGTH_S = 15;
const NAMES = ["alice", "bob", "carol"];
/** From the request to the first media. */
const BEGIN_S = 1.5;
/** What is under way from a camera to the recorder was seen before everybody was told, if at all. */
const UNDER_WAY_S = 0.15;

await story("a call is recorded", async () => {
  const browser = await chromium();
  const id = room("recording");
  const host = await hostToken(id);
  const pages = { alice: await publish(browser, "alice", id, { loudness: 0.15 }), bob: await publish(browser, "bob", id) };
  await allSeeEachOther(pages);
  const page = await openPage(browser, id);
  await indicator(page, false);

  const asked = Date.now() / 1_000;
  const recording = await Recording.start(id, host);
  const started = Date.now() / 1_000;
  const told = {};
  for (const name of ["alice", "bob"]) told[name] = await toldOf(pages[name], name, "recording-started", recording.recordingId);
  await indicator(page, true);
  step("everybody is told");

  await recording.reaches(LENGTH_S / 3);
  const came = Date.now() / 1_000;
  pages.carol = await publish(browser, "carol", id);
  const joined = await pages.carol.evaluate(() => e2e.state.call.joined.recording);
  assertEqual([joined?.recordingId, joined?.status], [recording.recordingId, "recording"], "what carol is told on joining");
  const late = await openPage(browser, id, "late");
  await indicator(late, true);
  await late.close();
  await allSeeEachOther(pages);
  await recording.reaches(LENGTH_S);

  const stopped = Date.now() / 1_000;
  const state = await recording.order("stop");
  assert(["stopping", "processing", "completed"].includes(state), `state after the stop: ${state}`);
  for (const name of NAMES) await toldOf(pages[name], name, "recording-stopped", recording.recordingId);
  await indicator(page, false);
  const entry = await recording.completed();
  for (const name of NAMES) await toldOf(pages[name], name, "recording-completed", recording.recordingId);
  for (const open of [page, ...Object.values(pages)]) await open.close();
  assert(!entry.recovered && !entry.error, `nothing had to be repaired: ${JSON.stringify(entry)}`);

  const files = await recording.download(entry);
  const whole = await analyse(files["recording.webm"], expectationOfAll(stopped - started, came - started));
  const apart = Math.abs(whole.durationS * 1_000 - entry.durationMs);
  assert(apart < 100, `the duration that is told: ${entry.durationMs} ms, ${whole.durationS} s`);
  const first = Math.min(...whole.tracks.map(({ startS }) => startS));
  const began = wallOf(whole, first, asked);
  for (const [name, at] of Object.entries(told)) {
    step(`MEASURED ${name} was told ${Math.round((began - at) * 1_000)} ms before the first media`);
    assert(at < began + UNDER_WAY_S, `${name} is told before anything is recorded: ${at}, ${began}`);
  }
  assert(began - asked < BEGIN_S, `it begins at once: ${began - asked} s`);

  for (const name of NAMES) await checkOwnFile(files, name, whole);
  checkOthers(files, entry);
  const watched = { Chromium: browser, Firefox: await firefox() };
  for (const [engine, player] of Object.entries(watched)) {
    const screen = await blankPage(player, engine);
    await playsAndSeeks(screen, engine, recording.fileUrl("alice-1.webm"), whole.durationS);
  }
});

/** Everybody's picture and sound, from when they came until the stop. */
function expectationOfAll(lengthS, carolCameS) {
  const until = [lengthS - 1, lengthS + 1];
  const since = { alice: [0, BEGIN_S], bob: [0, BEGIN_S], carol: [carolCameS - BEGIN_S, carolCameS + 4] };
  return {
    ...SYNC,
    durationS: until,
    complete: true,
    chapters: 1,
    tracks: NAMES.flatMap((name) => {
      const seconds = Math.floor(lengthS - since[name][1]) - 1;
      const both = { startS: since[name], endS: until };
      return [
        cameraOf(name, { ...both, framesPerS: [12, 16], sizes: [[320, 180]], flashes: seconds, gapS: 0.5, keyFrameS: 12 }),
        voiceOf(name, { ...both, beeps: seconds, gapS: 0.1 }),
      ];
    }),
  };
}

/** One participant's picture and sound alone, on the clock of the whole. */
async function checkOwnFile(files, name, whole) {
  const lasts = [whole.durationS - 1, whole.durationS + 0.2];
  const own = await analyse(files[`${name}-1.webm`], {
    durationS: lasts,
    complete: true,
    avOffsetMs: SYNC.avOffsetMs,
    tracks: [cameraOf(name, { flashes: 3 }), voiceOf(name, { beeps: 3 })],
  });
  const apart = wallOf(own, 0, 0) - wallOf(whole, 0, 0);
  assert(Math.abs(apart - 256 * Math.round(apart / 256)) < 0.05, `${name}'s file has the clock of the whole: ${apart} s apart`);
}

/** What belongs to the recording beside media. */
function checkOthers(files, entry) {
  const metadata = JSON.parse(readFileSync(files["metadata.json"], "utf8"));
  assertEqual([metadata.callId, metadata.recordingId], [entry.callId, entry.recordingId], "whose metadata it is");
  for (const { name, size, sha256 } of metadata.files) {
    const known = entry.files.find((file) => file.name === name);
    assertEqual([size, sha256], [known?.size, known?.sha256], `size and SHA-256 of ${name}, in the metadata and told`);
  }
  const kinds = Object.fromEntries(entry.files.map(({ name, kind }) => [name, kind]));
  const expected = { "recording.webm": "call", "metadata.json": "metadata", "speakers.vtt": "captions", "poster.webp": "poster" };
  for (const name of NAMES) expected[`${name}-1.webm`] = "participant";
  for (const [name, kind] of Object.entries(expected)) assertEqual(kinds[name], kind, `kind of ${name}`);
  for (const name of NAMES) {
    const own = entry.files.find((file) => file.name === `${name}-1.webm`);
    assertEqual(own.participant, name, `whose ${own.name} is`);
  }

  const captions = readFileSync(files["speakers.vtt"], "utf8");
  const cue = /^(\d\d:)?\d\d:\d\d\.\d{3} --> (\d\d:)?\d\d:\d\d\.\d{3}$/m;
  assert(captions.startsWith("WEBVTT\n") && cue.test(captions) && captions.includes("<v alice>"), `captions: ${captions.slice(0, 300)}`);

  const poster = readFileSync(files["poster.webp"]);
  assertEqual([poster.toString("latin1", 0, 4), poster.toString("latin1", 8, 12)], ["RIFF", "WEBP"], "head of the poster");
  const decoded = spawnSync("ffmpeg", ["-nostdin", "-v", "error", "-i", files["poster.webp"], "-f", "null", "-"], { encoding: "utf8" });
  assertEqual([decoded.status, decoded.stderr], [0, ""], "decoding the poster");
  step("metadata, captions and poster are right");
}

/** The built-in page of somebody who only watches. */
async function openPage(browser, id, name = "dora") {
  const jwt = await token(name, id, { role: "viewer" });
  const page = await browser.newPage();
  watch(page, name);
  await page.goto(new URL(`?room=${id}&token=${jwt}`, serverUrl).href);
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join", exact: true }).click();
  await page.locator("#call").waitFor({ state: "visible" });
  return page;
}

/** Waits until the page shows that the call is recorded, or does not any more. */
function indicator(page, isThere) {
  const shown = page.locator(".recording-indicator");
  return until(`the page ${isThere ? "to show" : "not to show"} that it is recorded`, async () => (await shown.isVisible()) === isThere);
}
