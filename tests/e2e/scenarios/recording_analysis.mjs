/**
 * What is told of recordings can be relied on: files that are made here are measured right, and what is wrong with a file is
 * found. Needs no server.
 */

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryDirectory } from "../lib/browser.mjs";
import { PEOPLE } from "../lib/call.mjs";
import { cameraOf, COLOURS, measure, SYNC, voiceOf } from "../lib/recording.mjs";
import { assert, step, story } from "../lib/story.mjs";

const DURATION_S = 6;
/** Of the wall clock, at the beginning. The long beep is that of 100 and 104. */
const SECOND = 99;
const FPS = 50;
/** FFmpeg writes pictures so much too late, as the encoder of the sound looks ahead. */
const MUXED_LATE_S = 0.007;
const folder = temporaryDirectory("analysis");

const TWO = {
  durationS: [5.9, 6.2],
  complete: true,
  ...SYNC,
  tracks: ["alice", "bob"].flatMap((userId) => [
    cameraOf(userId, { startS: [0, 0.1], endS: [5.9, 6.1], framesPerS: [FPS - 1, FPS + 1], sizes: [[320, 180]], flashes: 5, gapS: 0.1 }),
    voiceOf(userId, { startS: [-0.01, 0.1], endS: [5.9, 6.1], beeps: 5, gapS: 0.02 }),
  ]),
};

/** Each is a file, and what must be found: nothing, or a failure of these words. `also` is what must have been measured. */
const CASES = {
  right: { also: ({ sync }) => near(sync.participants.alice.p99Ms, 0, 5) && near(sync.between["alice bob"].p99Ms, 0, 5) },
  "sound 30 ms late": { bob: { sound: 0.03 }, also: ({ sync }) => near(sync.participants.bob.meanMs, -30, 4) },
  "picture 40 ms late": {
    bob: { picture: 0.04 },
    expected: { avOffsetMs: 50 },
    also: ({ sync }) => near(sync.participants.bob.meanMs, 40, 4),
  },
  "sound 120 ms late": {
    bob: { sound: 0.12 },
    fails: /flashes and beeps of bob apart/,
    also: ({ sync }) => near(sync.participants.bob.p50Ms, 120, 4),
  },
  "somebody 160 ms late": {
    bob: { sound: 0.16, picture: 0.16 },
    fails: /alice bob apart/,
    also: ({ sync }) => near(sync.between["alice bob"].p50Ms, 160, 4) && near(sync.participants.bob.p99Ms, 0, 5),
  },
  "sound a whole second late": { bob: { sound: 1 }, fails: /bob: \d+ of \d+ beeps are of another second/ },
  "somebody a whole second late": { bob: { sound: 1, picture: 1 }, fails: /alice bob apart/ },
  "names exchanged": { alice: { tag: "bob" }, bob: { tag: "alice" }, fails: /alice's camera: its colour is.*alice's microphone: tone/s },
  "no names": { alice: { tag: null }, fails: /alice's camera: there is no such track/ },
  "one track more": { expected: { tracks: TWO.tracks.slice(1) }, fails: /more tracks than expected/ },
  "another codec": { expected: only(cameraOf("alice", { codec: "vp9" })), fails: /alice's camera: vp8, expected vp9/ },
  "another size": { expected: only(cameraOf("alice", { sizes: [[640, 360]] })), fails: /expected \[\[640, 360\]\] as well/ },
  "too short": { expected: { durationS: [7, 8] }, fails: /duration/ },
  "chapters missing": { expected: { chapters: 1 }, fails: /chapters/ },
  "a gap in the sound": { bob: { soundFilter: "aselect='not(between(t,2.2,2.5))'" }, fails: /bob's microphone: gapS/ },
  "a gap in the picture": { bob: { pictureFilter: "select='not(between(t,2.2,2.5))'" }, fails: /bob's camera: gapS/ },
  "two seconds left out": {
    cut: [2.5, 4.5],
    fails: /alice: its clock has the steps/,
    expected: { durationS: [3.9, 4.2], tracks: [], complete: false },
    also: ({ sync }) => sync.steps.length === 2 && sync.steps.every(({ byS }) => near(byS, -2, 0.1)),
  },
  "two seconds left out on purpose": {
    cut: [2.5, 4.5],
    expected: { durationS: [3.9, 4.2], tracks: [], complete: false, steps: { count: 1, s: [1.9, 2.1] } },
  },
  "cut off": { edit: (bytes) => bytes.subarray(0, bytes.length * 0.6), fails: /ffmpeg|mkvmerge|mkvinfo/ },
  "bytes overwritten": { edit: (bytes) => bytes.fill(0x55, bytes.length >> 1, (bytes.length >> 1) + 5_000), fails: /ffmpeg/ },
  "a time that goes back": { edit: turnBack, fails: /comes after/ },
  "no index": { options: ["-live", "1"], fails: /no Cues/ },
  "no key frame at first": { options: ["-bsf:v:0", "noise=drop=eq(n\\,0)"], fails: /does not begin with a key frame/ },
};

await story("the analysis of recordings", async () => {
  for (const [name, { fails, also, expected, ...file }] of Object.entries(CASES)) {
    // Many differ in what is expected only.
    const isRight = Object.keys(file).length === 0;
    const path = join(folder, isRight ? "right.webm" : `${name.replaceAll(" ", "-")}.webm`);
    if (!isRight || !existsSync(path)) make(path, file);
    const report = await measure(path, { ...TWO, ...expected });
    const said = report.failures.join("; ");
    assert(fails ? fails.test(said) : said === "", `${name}: ${fails ?? "nothing"} is found, not: ${said}`);
    assert(!also || also(report), `${name}: it is measured right: ${JSON.stringify(report.sync)}`);
    step(`${name}: ${said || "nothing wrong"}`);
  }
});

/** One track, and whatever there is. */
function only(track) {
  return { tracks: [track], complete: false };
}

function near(value, expected, tolerance) {
  return value !== null && Math.abs(value - expected) <= tolerance;
}

/** A file of alice and bob, each with delays of sound and picture in seconds, another name in the tags, or filters. */
function make(path, { alice = {}, bob = {}, cut, edit, options = [] }) {
  const people = Object.entries({ alice, bob });
  const inputs = people.flatMap(([userId, { sound = 0, picture = 0, soundFilter, pictureFilter }]) => [
    ...["-f", "lavfi", "-i", [pictureOf(userId, picture), pictureFilter, cut && cutting("select", "setpts", cut)].filter(Boolean).join(",")],
    ...["-f", "lavfi", "-i", [soundOf(userId, sound), soundFilter, cut && cutting("aselect", "asetpts", cut)].filter(Boolean).join(",")],
  ]);
  const maps = people.flatMap(([userId, { tag = userId }], n) => [
    ...["-map", `${2 * n}:v`, "-map", `${2 * n + 1}:a`],
    ...["v", "a"].flatMap((kind) => [
      ...[`-metadata:s:${kind}:${n}`, `title=${userId}`],
      ...(tag ? [`-metadata:s:${kind}:${n}`, `PARTICIPANT_ID=${tag}`] : []),
    ]),
  ]);
  const encoding = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k", "-g", "100", "-c:a", "libopus", "-b:a", "48k"];
  const muxing = ["-fps_mode", "passthrough", "-cluster_time_limit", "500", ...options];
  const all = ["-nostdin", "-v", "error", "-y", ...inputs, ...maps, ...encoding, ...muxing, path];
  const { status, stderr } = spawnSync("ffmpeg", all, { encoding: "utf8" });
  assert(status === 0, `ffmpeg makes ${path}: ${stderr}`);
  if (edit) writeFileSync(path, edit(readFileSync(path)));
}

/** What `flashes.js` draws. */
function pictureOf(userId, delay) {
  const now = `(t-${delay}+${SECOND})`;
  const [colour] = [COLOURS[PEOPLE[userId].colour]].map((rgb) => Buffer.from(rgb).toString("hex"));
  const bit = (n) => `drawbox=x=${n}*iw/8:y=150:w=iw/8:h=30:color=white:t=fill:enable='gte(mod(floor(${now}),${2 ** (8 - n)}),${2 ** (7 - n)})'`;
  return [
    `color=c=0x${colour}:s=320x180:r=${FPS}:d=${DURATION_S},drawbox=color=white:t=fill:enable='lt(mod(${now},1),0.12)'`,
    "drawbox=y=150:h=30:color=black:t=fill",
    ...Array.from({ length: 8 }, (_, n) => bit(n)),
  ].join(",");
}

/** And what beeps with it. */
function soundOf(userId, delay) {
  const now = `(t-${delay + MUXED_LATE_S}+${SECOND})`;
  const length = `if(eq(mod(floor(${now}),4),0),0.2,0.1)`;
  return `aevalsrc='sin(2*PI*${PEOPLE[userId].tone}*t)*if(lt(mod(${now},1),${length}),0.5,0.03)':s=48000:d=${DURATION_S}`;
}

function cutting(select, setpts, [from, to]) {
  return `${select}='not(between(t,${from},${to}))',${setpts}='if(gt(T,${from}),PTS-${to - from}/TB,PTS)'`;
}

/** Gives a Cluster in the middle the time of the first. */
function turnBack(bytes) {
  const cluster = Buffer.from([0x1f, 0x43, 0xb6, 0x75]);
  let at = bytes.indexOf(cluster, bytes.length >> 1);
  at = bytes.indexOf(Buffer.from([0xe7, 0x82]), at);
  bytes.writeUInt16BE(0, at + 2);
  return bytes;
}
