/** What happens in a call while it is recorded, each by the name in VARIANT; the files are as complete and right as the call was. */

import { chromium } from "../lib/browser.mjs";
import { events } from "../lib/call.mjs";
import { outbound } from "../lib/layers.mjs";
import { allSeeEachOther, analyse, cameraOf, COLOURS, enter, hostToken, publish, Recording, SYNC, voiceOf } from "../lib/recording.mjs";
import { always, assert, assertEqual, room, step, story, until } from "../lib/story.mjs";

const VARIANT = process.env.VARIANT ?? "screen";
const LENGTH_S = 12;
const SCREEN = { colour: "yellow", tone: 1760, width: 1280, height: 720, fps: 10 };
const PAUSE_S = 3;

const VARIANTS = {
  /** Three sizes are sent while packets get lost. */
  async loss(browser) {
    const call = await begin(browser, { alice: { size: { width: 960, height: 540, fps: 24 }, videoCodec: "VP8" } });
    await until("the largest size to be sent", async () => (await outbound(call.pages.alice)).h?.frames > 20, { timeout: 30_000 });
    const reached = (await call.recording.status()).durationMs / 1_000;
    await call.recording.reaches(reached + LENGTH_S);
    const { files, report } = await call.end({ tracks: [cameraOf("alice", { sizes: [[960, 540]], gapS: 2 }), voiceOf("alice", { gapS: 0.5 })] });
    assert(files["recording.webm"] && report.tracks.length === 4, "two pictures, two sounds");
  },

  /** A shared screen with its sound comes and goes, and has a file of its own. */
  async screen(browser) {
    const call = await begin(browser);
    const { alice } = call.pages;
    await call.recording.reaches(3);
    await alice.evaluate(async (media) => {
      navigator.mediaDevices.getDisplayMedia = async () => e2e.flashes.make(media).stream;
      await e2e.state.call.shareScreen();
    }, SCREEN);
    await call.recording.reaches(9);
    await alice.evaluate(() => e2e.state.call.stopScreenShare());
    await call.recording.reaches(LENGTH_S);
    const both = { participant: "alice", startS: [2.5, 6], endS: [8, 11] };
    const screen = [
      { ...both, source: "screen", codec: "vp8", colour: COLOURS[SCREEN.colour], sizes: [[SCREEN.width, SCREEN.height]], flashes: 3 },
      { ...both, source: "screen-audio", codec: "opus", toneHz: SCREEN.tone, beeps: 3 },
    ];
    const { files } = await call.end({ tracks: [cameraOf("alice"), voiceOf("alice"), ...screen], chapters: 1 });
    await analyse(files["alice-1.webm"], { complete: true, avOffsetMs: SYNC.avOffsetMs, tracks: [cameraOf("alice"), voiceOf("alice")] });
    await analyse(files["alice-2.webm"], { complete: true, avOffsetMs: SYNC.avOffsetMs, tracks: screen });
  },

  /** A microphone is muted for a while: its sound is missing then, and comes back where it belongs. */
  async mute(browser) {
    const call = await begin(browser);
    const mute = (muted) => call.pages.alice.evaluate((value) => e2e.state.call.setMicrophoneMuted(value), muted);
    await call.recording.reaches(4);
    await mute(true);
    await call.recording.reaches(8);
    await mute(false);
    await call.recording.reaches(LENGTH_S);
    const tracks = [cameraOf("alice", { flashes: LENGTH_S - 3 }), voiceOf("alice", { endS: [LENGTH_S - 1, LENGTH_S + 2] })];
    const { report } = await call.end({ tracks });
    const voice = report.tracks.find(({ participant, source }) => participant === "alice" && source === "microphone");
    const beeps = (from, to) => voice.beeps.filter(({ atS }) => atS >= from && atS <= to).length;
    const seen = [beeps(0, 4), beeps(5.2, 7.8), beeps(9, LENGTH_S)];
    assert(seen[0] >= 2 && seen[1] === 0 && seen[2] >= 2, `beeps before, during and after the mute: ${seen}`);
    step("nothing is heard of a muted microphone");
  },

  /** A picture becomes larger. */
  async resize(browser) {
    const call = await begin(browser);
    await call.recording.reaches(5);
    await call.pages.alice.evaluate(() => Object.assign(e2e.state.flashes.canvas, { width: 640, height: 360 }));
    await call.recording.reaches(LENGTH_S);
    const sizes = [[320, 180], [640, 360]];
    const { files } = await call.end({ tracks: [cameraOf("alice", { sizes, flashes: LENGTH_S - 3, gapS: 1 }), voiceOf("alice")] });
    await analyse(files["alice-1.webm"], { tracks: [cameraOf("alice", { sizes })] });
  },

  VP9: (browser) => codec(browser, "VP9", "webm"),
  AV1: (browser) => codec(browser, "AV1", "webm"),
  /** Which WebM does not allow. */
  H264: (browser) => codec(browser, "H264", "mkv"),

  /** Somebody leaves, and comes again. */
  async rejoin(browser) {
    const call = await begin(browser);
    const { alice, bob } = call.pages;
    await call.recording.reaches(4);
    await bob.evaluate(() => e2e.state.call.leave({ stopTracks: true }));
    await until("alice to see bob leave", async () => (await events(alice, "participant-left")).some(({ userId }) => userId === "bob"));
    await call.recording.reaches(7);
    await enter(bob, "bob", call.id);
    await allSeeEachOther(call.pages);
    await call.recording.reaches(LENGTH_S + 2);
    const tracks = [cameraOf("alice", { flashes: LENGTH_S - 2 }), voiceOf("alice"), cameraOf("bob"), voiceOf("bob")];
    const { report } = await call.end({ tracks });
    for (const [source, marks] of [["camera", "flashes"], ["microphone", "beeps"]]) {
      const own = report.tracks.filter((track) => track.participant === "bob" && track.source === source);
      const times = own.flatMap((track) => track[marks].map(({ atS }) => atS)).sort((a, b) => a - b);
      const away = Math.max(...times.slice(1).map((time, n) => time - times[n]));
      const seen = [times.filter((time) => time < 4.5).length, away, times.filter((time) => time > 7).length];
      assert(seen[0] >= 2 && away > 2 && away < 8 && seen[2] >= 2, `bob's ${marks} before, away and after: ${seen}`);
    }
    step("bob is recorded before and after");
  },

  /** A recording is paused: what happens meanwhile takes no time in it. */
  async pause(browser) {
    const call = await begin(browser);
    const { recording } = call;
    await recording.reaches(4);
    await betweenFlashes();
    await recording.order("pause");
    const paused = Date.now();
    const { status, durationMs } = await recording.status();
    assertEqual(status, "paused", "state of what is paused");
    await always("nothing is recorded while it is paused", async () => {
      const now = await recording.status();
      return (now.status === "paused" && now.durationMs <= durationMs + 500) || { ok: false, now, durationMs };
    }, { duration: PAUSE_S * 1_000 });
    const pausedS = (Date.now() - paused) / 1_000;
    await betweenFlashes();
    await recording.order("resume");
    await recording.reaches(LENGTH_S - 2);
    const tracks = [cameraOf("alice", { flashes: 6 }), voiceOf("alice", { beeps: 6 })];
    const { report, lengthS } = await call.end({ steps: { count: 1, s: [pausedS - 0.5, pausedS + 1] }, tracks });
    const isWithout = Math.abs(report.durationS - (lengthS - pausedS)) < 1;
    assert(isWithout, `its length is that without the pause: ${report.durationS}, ${lengthS}, ${pausedS}`);
  },
};

await story(`a recording: ${VARIANT}`, async () => {
  const browser = await chromium();
  await VARIANTS[VARIANT](browser);
});

/** Until no flash or beep is under way, of which otherwise a part would be cut off: they begin with the second. */
async function betweenFlashes() {
  const ms = (1_500 - (Date.now() % 1_000)) % 1_000;
  await new Promise((resolve) => setTimeout(resolve, ms));
}

/** A call of alice and bob that is recorded; `end` stops it and checks what holds for all of them. */
async function begin(browser, { alice = {} } = {}) {
  const id = room(VARIANT);
  const pages = { alice: await publish(browser, "alice", id, alice), bob: await publish(browser, "bob", id) };
  await allSeeEachOther(pages);
  const recording = await Recording.start(id, await hostToken(id));
  const began = performance.now();
  return {
    id,
    pages,
    recording,
    async end(expected) {
      const lengthS = (performance.now() - began) / 1_000;
      await recording.order("stop");
      const entry = await recording.completed();
      for (const page of Object.values(pages)) await page.close();
      const files = await recording.download(entry);
      const report = await analyse(files["recording.webm"] ?? files["recording.mkv"], { ...SYNC, ...expected });
      return { entry, files, report, lengthS };
    },
  };
}

/** Each codec is recorded as it is sent. */
async function codec(browser, name, extension) {
  const call = await begin(browser, { alice: { videoCodec: name } });
  await call.recording.reaches(LENGTH_S);
  const camera = cameraOf("alice", { codec: name.toLowerCase(), flashes: LENGTH_S - 3, gapS: 0.5, keyFrameS: 12 });
  const { entry, files } = await call.end({ complete: true, tracks: [camera, voiceOf("alice"), cameraOf("bob"), voiceOf("bob")] });
  const expected = ["recording", "alice-1"].map((file) => `${file}.${extension}`).concat("bob-1.webm");
  for (const file of expected) {
    const known = entry.files.find((one) => one.name === file);
    const type = file.endsWith(".mkv") ? "video/x-matroska" : "video/webm";
    assertEqual(known?.contentType, type, `type of ${file} among ${Object.keys(files)}`);
  }
  await analyse(files[`alice-1.${extension}`], { complete: true, avOffsetMs: SYNC.avOffsetMs, tracks: [camera, voiceOf("alice")] });
}
