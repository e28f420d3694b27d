/** Recordings by REST, and what must be in their files. */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { blankPage, temporaryDirectory } from "./browser.mjs";
import { join as enterCall, PEOPLE, perceive, TONE_TOLERANCE } from "./call.mjs";
import { assert, assertEqual, onFailure, serverUrl, Skip, step, token, until } from "./story.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const PYTHON = here("../.venv/bin/python");
const ANALYSIS = here("analyse_recording.py");
const FLASHES = readFileSync(here("flashes.js"), "utf8");

/** What is promised of every recording (interface.md, section 6). */
export const SYNC = { avOffsetMs: 40, betweenMs: 100 };
/** Downloads are made in pieces of this size, so that they need several. */
const PIECE = 100_000;
/** For the files of a short recording. */
const FINISH_MS = 30_000;

/** As `in-page.js` has them. */
export const COLOURS = {
  red: [224, 32, 32],
  green: [32, 160, 64],
  blue: [32, 64, 224],
  yellow: [224, 208, 32],
  magenta: [200, 32, 200],
  cyan: [32, 190, 200],
};

// In pages

/** Opens a page and joins the call as `userId`, sending what can be measured; it notes what it is told of recordings. */
export async function publish(browser, userId, roomId, options = {}) {
  const page = await blankPage(browser, userId);
  await page.evaluate(FLASHES);
  await enter(page, userId, roomId, options);
  return page;
}

/** The same, again, in a page that is there. */
export async function enter(page, userId, roomId, options = {}) {
  await enterCall(page, userId, roomId, { media: "flashes", ...options });
  await page.evaluate((types) => {
    globalThis.told = [];
    for (const type of types) e2e.state.call.addEventListener(type, ({ detail }) => told.push({ type, at: e2e.clock(), detail }));
  }, ["recording-started", "recording-stopped", "recording-completed"]);
}

/** Waits until everybody sees and hears everybody else, whoever watches besides: then all media flows. */
export async function allSeeEachOther(pages) {
  for (const [name, page] of Object.entries(pages)) {
    const others = Object.keys(pages).filter((other) => other !== name);
    await until(`${name} to see and hear ${others.join(", ")}`, async () => {
      const seen = await perceive(page);
      const isRight = (other) => {
        const { colour, tone } = seen[other] ?? {};
        return colour === PEOPLE[other].colour && tone !== null && Math.abs(tone - PEOPLE[other].tone) <= TONE_TOLERANCE;
      };
      return others.every(isRight) || { ok: false, seen };
    });
  }
  step("everybody sees and hears everybody");
}

/** Waits until the page was told so, and returns when: seconds of the wall clock. */
export async function toldOf(page, who, type, recordingId) {
  const event = await until(`${who} to be told of ${type}`, async () => {
    const seen = await page.evaluate(() => told);
    return seen.find((event) => event.type === type && event.detail?.recordingId === recordingId) ?? { ok: false, seen };
  });
  return event.at / 1_000;
}

// REST

/** A request; `problem` is what it is refused with, and its body is JSON or nothing. */
export async function rest(jwt, method, path, body) {
  const response = await fetch(new URL(path, serverUrl), {
    method,
    headers: {
      ...(jwt && { authorization: `Bearer ${jwt}` }),
      ...(body !== undefined && { "content-type": "application/json" }),
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    throw new Error(`${method} ${path}: ${response.status} with no JSON: ${text.slice(0, 300)}`);
  }
  return { status: response.status, type: response.headers.get("content-type"), body: value };
}

/** Asserts that it is refused so, as RFC 9457 says. Returns the problem. */
export async function refused(jwt, method, path, body, status, code) {
  const answer = await rest(jwt, method, path, body);
  const seen = { status: answer.status, code: answer.body?.code, type: answer.type?.split(";")[0], inBody: answer.body?.status };
  assertEqual(seen, { status, code, type: "application/problem+json", inBody: status }, `${method} ${path} ${JSON.stringify(body ?? "")}`);
  return answer.body;
}

/** One recording, as its host sees it. */
export class Recording {
  constructor(roomId, jwt, recordingId) {
    Object.assign(this, { roomId, jwt, recordingId });
    onFailure(`recording ${recordingId}`, () => this.status());
  }

  static path(roomId, rest = "") {
    return `video-calls/${encodeURIComponent(roomId)}/recording${rest}`;
  }

  static async start(roomId, jwt, options) {
    const { status, body } = await rest(jwt, "POST", Recording.path(roomId, "/start"), options ?? {});
    assertEqual([status, body?.status], [201, "recording"], `the start of a recording: ${JSON.stringify(body)}`);
    step(`recording ${body.recordingId}`);
    return new Recording(roomId, jwt, body.recordingId);
  }

  get path() {
    return Recording.path(this.roomId, `/${encodeURIComponent(this.recordingId)}`);
  }

  async status() {
    const { status, body } = await rest(this.jwt, "GET", this.path);
    assertEqual(status, 200, `GET ${this.path}: ${JSON.stringify(body)}`);
    return body;
  }

  /** `stop`, `pause` or `resume`. Returns the state that is answered. */
  async order(what) {
    const { status, body } = await rest(this.jwt, "POST", Recording.path(this.roomId, `/${what}`));
    assertEqual([status, body?.recordingId], [200, this.recordingId], `${what}: ${JSON.stringify(body)}`);
    step(`${what}: ${body.status}`);
    return body.status;
  }

  /** Waits until so much is recorded. */
  async reaches(seconds) {
    const { status } = await until(
      `${seconds} s to be recorded`,
      async () => {
        const seen = await this.status();
        return seen.status !== "recording" || seen.durationMs >= seconds * 1_000 ? seen : { ok: false, durationMs: seen.durationMs };
      },
      { timeout: seconds * 1_000 + 10_000, interval: 250 },
    );
    assertEqual(status, "recording", `state on the way to ${seconds} s`);
    step(`${seconds} s are recorded`);
  }

  /** Waits until it is complete. The progress that is told meanwhile has to make sense. */
  async completed({ timeout = FINISH_MS } = {}) {
    const progress = [];
    const entry = await until(
      "the recording to be complete",
      async () => {
        const seen = await this.status();
        progress.push(seen.progress);
        return ["completed", "failed"].includes(seen.status) ? seen : { ok: false, status: seen.status, progress: seen.progress };
      },
      { timeout },
    );
    assertEqual([entry.status, entry.progress], ["completed", 1], `the end of a recording: ${JSON.stringify(entry)}`);
    const rises = progress.every((now, n) => now >= (progress[n - 1] ?? 0) && now <= 1);
    assert(rises, `progress goes from 0 to 1: ${progress}`);
    step(`complete: ${entry.files.map(({ name }) => name).join(", ")}`);
    return entry;
  }

  fileUrl(name, jwt = this.jwt) {
    const url = new URL(`${this.path}/files/${encodeURIComponent(name)}`, serverUrl);
    if (jwt) url.searchParams.set("token", jwt);
    return url.href;
  }

  /** Downloads every file by its own hash and size, piece by piece; their paths by name. */
  async download({ files }) {
    const folder = join(temporaryDirectory("recording"), this.recordingId);
    mkdirSync(folder);
    const paths = {};
    for (const file of files) {
      const bytes = await this.#downloadPieces(file);
      assertEqual(createHash("sha256").update(bytes).digest("hex"), file.sha256, `SHA-256 of ${file.name}`);
      paths[file.name] = join(folder, file.name);
      writeFileSync(paths[file.name], bytes);
    }
    step(`downloaded ${files.length} files into ${folder}`);
    return paths;
  }

  async #downloadPieces({ name, size }) {
    const url = this.fileUrl(name);
    const head = await fetch(url, { method: "HEAD" });
    const etag = head.headers.get("etag");
    assertEqual([head.status, Number(head.headers.get("content-length"))], [200, size], `HEAD of ${name}`);
    assert(etag && head.headers.get("accept-ranges") === "bytes", `${name} has an ETag and can be had in ranges`);
    const pieces = [];
    for (let from = 0; from < size; from += PIECE) {
      const to = Math.min(from + PIECE, size) - 1;
      const response = await fetch(url, { headers: { range: `bytes=${from}-${to}`, "if-range": etag } });
      const seen = [response.status, response.headers.get("content-range"), response.headers.get("etag")];
      assertEqual(seen, [206, `bytes ${from}-${to}/${size}`, etag], `a range of ${name}`);
      pieces.push(Buffer.from(await response.arrayBuffer()));
    }
    const beyond = await fetch(url, { headers: { range: `bytes=${size}-` } });
    assertEqual([beyond.status, beyond.headers.get("content-range")], [416, `bytes */${size}`], `a range behind the end of ${name}`);
    return Buffer.concat(pieces);
  }
}

/** A token with which recordings may be started, seen and deleted. */
export function hostToken(roomId, userId = "host") {
  return token(userId, roomId, { role: "host" });
}

// Files

/** Measures a file; see `analyse_recording.py`. It throws where something is not as expected. */
export async function analyse(path, expected) {
  const report = await measure(path, expected);
  if (report.failures.length > 0) {
    const kept = keep(path, report);
    throw new Error(`${path}: ${report.failures.join("; ")}${kept}`);
  }
  const { durationS, tracks, sync } = report;
  const measured = JSON.stringify({ ...sync.participants, ...sync.between }, (_, value) => (typeof value === "number" ? Math.round(value * 10) / 10 : value));
  step(`${path.split("/").at(-1)}: ${durationS.toFixed(2)} s, ${tracks.length} tracks, MEASURED ${measured}`);
  return report;
}

/** The same, whatever it finds. */
export async function measure(path, expected = {}) {
  if (!existsSync(PYTHON)) throw new Skip(`${PYTHON} is not there: run tests/e2e/setup.sh`);
  const child = spawn(PYTHON, [ANALYSIS, path, "-"], { stdio: ["pipe", "pipe", "pipe"] });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (output[name] += text));
  child.stdin.end(JSON.stringify(expected));
  const code = await new Promise((resolve) => child.once("close", resolve));
  try {
    const report = JSON.parse(output.stdout);
    assertEqual(code, report.failures.length > 0 ? 1 : 0, "exit code of the analysis");
    return report;
  } catch (error) {
    throw new Error(`the analysis of ${path}: exit code ${code}, ${error.message}\n${output.stderr}`);
  }
}

/** Where `KEEP_RECORDINGS` names a folder, what was wrong is kept there. */
function keep(path, report) {
  const folder = process.env.KEEP_RECORDINGS;
  if (!folder) return "";
  mkdirSync(folder, { recursive: true });
  const copy = join(folder, path.split("/").at(-1));
  writeFileSync(copy, readFileSync(path));
  writeFileSync(`${copy}.json`, JSON.stringify(report, null, 1));
  return ` (kept as ${copy})`;
}

/**
 * The second of the wall clock at which something in a file was, by the strips in its pictures. They know no more than 256
 * seconds: it is the one next to `near`.
 */
export function wallOf({ sync }, fileS, near) {
  const wall = sync.beginsAtS + fileS;
  return wall + 256 * Math.round((near - wall) / 256);
}

/** Expectations for the picture of somebody. */
export function cameraOf(userId, more = {}) {
  return { participant: userId, source: "camera", codec: "vp8", colour: COLOURS[PEOPLE[userId].colour], ...more };
}

/** For the voice. */
export function voiceOf(userId, more = {}) {
  return { participant: userId, source: "microphone", codec: "opus", toneHz: PEOPLE[userId].tone, ...more };
}

/**
 * Plays a file from a URL in a page of the server's origin: it knows how long it is, and goes on from wherever one seeks to.
 */
export async function playsAndSeeks(page, who, url, durationS) {
  const duration = await page.evaluate(async (src) => {
    const video = document.createElement("video");
    document.body.append(video);
    video.muted = true;
    globalThis.played = { video, frames: [], errors: [] };
    const note = (_, { mediaTime }) => {
      played.frames.push(mediaTime);
      video.requestVideoFrameCallback?.(note);
    };
    video.requestVideoFrameCallback?.(note);
    const loaded = new Promise((resolve, reject) => {
      video.onloadedmetadata = resolve;
      video.onerror = () => {
        played.errors.push(video.error?.message ?? "?");
        reject(new Error(video.error?.message));
      };
    });
    video.src = src;
    await loaded;
    await video.play();
    return video.duration;
  }, url);
  assert(Number.isFinite(duration) && Math.abs(duration - durationS) < 0.2, `${who}: ${duration} s is about ${durationS} s`);
  for (const share of [0.25, 0.5, 0.75]) {
    const at = share * duration;
    await page.evaluate(async (time) => {
      const { video, frames } = played;
      const seeked = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
      video.currentTime = time;
      await seeked;
      frames.length = 0;
    }, at);
    await until(`${who} to play from ${at.toFixed(2)} s`, async () => {
      const seen = await page.evaluate(() => {
        const { video, frames, errors } = played;
        return { first: frames[0], last: frames.at(-1), errors, at: video.currentTime, end: video.seekable.end(0) };
      });
      const isThere = seen.first > at - 0.5 && seen.first < at + 1 && seen.last > seen.first + 0.3;
      return (isThere && seen.errors.length === 0 && Math.abs(seen.end - duration) < 0.01) || { ok: false, ...seen };
    });
  }
  await page.evaluate(() => played.video.remove());
  step(`${who} plays and seeks in ${durationS.toFixed(2)} s`);
}
