/** WebRTC clients that are no browsers: the programs of `peers/`, which say as lines of JSON what they perceive. */

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { assertEqual, cleanup, onFailure, Skip, step, until } from "./story.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const PROGRAMS = {
  // The one for which Debian has GStreamer's bindings, whatever else is called python3.
  gstreamer: ["/usr/bin/python3", here("../peers/gstreamer.py")],
  aiortc: [here("../.venv/bin/python"), here("../peers/aiortc_peer.py")],
};
/** What a peer exits with when something that it needs is missing. */
const EXIT_SKIPPED = 77;

/** Skips the story when the peer cannot run here. */
export function needsPeer(kind) {
  const [interpreter, program] = PROGRAMS[kind];
  if (!existsSync(interpreter)) throw new Skip(`${interpreter} is not there: run tests/e2e/setup.sh`);
  const { status, stdout, stderr } = spawnSync(interpreter, [program, "check"], { encoding: "utf8" });
  if (status === EXIT_SKIPPED) throw new Skip(stdout.trim().replace(/^SKIPPED: /, ""));
  if (status !== 0) throw new Error(`${program} check: exit code ${status}\n${stdout}${stderr}`);
  step(`${kind} can run`);
}

/** A running peer. */
export class Peer {
  /** Of each member of the lines, the latest value. */
  said = {};
  #child;
  #exited;

  /** `options` become arguments; see `peers/session.py`. */
  constructor(kind, who, protocol, options) {
    this.who = who;
    const given = Object.entries(options).flatMap(([name, value]) => {
      if (value === true) return [`--${name}`];
      return value === false || value === undefined ? [] : [`--${name}`, String(value)];
    });
    const [interpreter, program] = PROGRAMS[kind];
    this.#child = spawn(interpreter, [program, protocol, ...given], { stdio: ["pipe", "pipe", "pipe"] });
    const lines = [];
    const keep = (line) => {
      lines.push(line.slice(0, 1_000));
      if (lines.length > 100) lines.shift();
    };
    byLine(this.#child.stdout, (line) => {
      keep(line);
      if (line.startsWith("{")) Object.assign(this.said, JSON.parse(line));
    });
    byLine(this.#child.stderr, keep);
    this.#exited = new Promise((resolve) => this.#child.once("exit", (code, signal) => resolve(code ?? signal)));
    this.#exited.then((how) => (this.said.exit = how));
    cleanup(() => this.#child.kill("SIGKILL"));
    onFailure(`output of ${kind}, ${who}`, () => lines.join("\n"));
  }

  async created() {
    await until(`${this.who} to have a session`, () => "exit" in this.said || this.said.location || { ok: false, ...this.said });
    if (!this.said.location) throw new Error(`${this.who} ended: ${this.said.exit}`);
    step(`${this.who}: ${this.said.location}`);
  }

  /** Waits until it sees and hears what is `expected`, and that both go on. */
  async perceives(expected, colours, tolerance) {
    let first = null;
    const seen = await until(
      `${this.who} to see ${expected.colour} and to hear ${expected.tone} Hz`,
      () => {
        if ("exit" in this.said) throw new Error(`${this.who} ended: ${this.said.exit}`);
        const { frames, colour, samples, hertz } = this.said.perceived ?? {};
        const right =
          colour && hertz !== null && nearest(colour, colours) === expected.colour && Math.abs(hertz - expected.tone) <= tolerance;
        if (!right) return { ok: false, seen: this.said.perceived, connection: this.said.connection };
        first ??= { frames, samples };
        const goesOn = frames >= first.frames + 15 && samples >= first.samples + 24_000;
        return goesOn ? this.said.perceived : { ok: false, first, seen: this.said.perceived };
      },
      { timeout: 20_000 },
    );
    step(`${this.who} perceives ${JSON.stringify(seen)}`);
  }

  /** Has it end its session, which it does by DELETE. */
  async end() {
    this.#child.stdin.end();
    const exit = await Promise.race([this.#exited, new Promise((resolve) => setTimeout(resolve, 10_000, "still runs"))]);
    assertEqual({ deleted: this.said.ended, exit }, { deleted: 200, exit: 0 }, `how ${this.who} ended`);
  }
}

function byLine(stream, handle) {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    lines.forEach(handle);
  });
}

function nearest(rgb, colours) {
  const distance = ([, known]) => Math.hypot(...known.map((value, c) => value - rgb[c]));
  return Object.entries(colours).sort((a, b) => distance(a) - distance(b))[0][0];
}
