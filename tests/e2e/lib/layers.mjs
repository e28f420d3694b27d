/** Somebody who watches a video that comes in several sizes, and wishes for another of them. */

import { assert, step, until } from "./story.mjs";

/** The longest time without a picture that a switch may cause. */
const GAP_MAX_MS = 300;
/** Pictures after a switch that still belong to it. */
const PICTURES_AFTER = 20;
/** Before a switch pictures have to come as regularly as this: right after joining the network is still full of the first ones. */
const STEADY_MS = 150;
/**
 * A switch is measured anew when the whole machine stood still during it, and once for a picture that came so late that the
 * browser counts it, which happens on a busy machine without a switch as well. What a switch causes, it causes again.
 */
const TRIES = 3;
/** From the wish for something that is not sent until it is sent, and as a rule until it is seen. */
const RESUME_MS = 1_000;
const RESUME_MAX_MS = 8_000;
const LATE_MAX = 1;

/** What `page` receives of a video of `userId`: counters, and the latest size. */
export function inbound(page, userId, source = "camera") {
  return page.evaluate(([user, what]) => globalThis.e2e.inbound(user, what), [userId, source]);
}

/** What `page` sends of videos, by the name of the encoding. */
export function outbound(page) {
  return page.evaluate(() => globalThis.e2e.outbound());
}

/** Waits until nothing of these encodings is sent, while all others are. */
export async function stopsSending(page, rids) {
  const frames = async () => Object.fromEntries(Object.entries(await outbound(page)).map(([rid, { frames: count }]) => [rid, count]));
  let before = await frames();
  let since = performance.now();
  await until(
    `${rids.join(", ")} to stop, and nothing else`,
    async () => {
      const now = await frames();
      if (rids.some((rid) => now[rid] !== before[rid])) [before, since] = [now, performance.now()];
      const rest = Object.keys(now).filter((rid) => !rids.includes(rid));
      return (performance.now() - since >= 1_000 && rest.every((rid) => now[rid] >= before[rid] + 10)) || { ok: false, before, now };
    },
    { timeout: 20_000 },
  );
  step(`not sent any more: ${JSON.stringify(rids)}`);
}

/** In a page, before it joins: notes when an encoding that was switched off is switched on. */
export function noteResumed() {
  globalThis.resumed = {};
  const off = new Set();
  const { prototype } = RTCRtpSender;
  const { setParameters } = prototype;
  prototype.setParameters = function (parameters) {
    for (const { rid = "", active } of parameters.encodings) {
      if (!active) off.add(rid);
      else if (off.delete(rid)) resumed[rid] = e2e.clock();
    }
    return setParameters.call(this, parameters);
  };
}

/**
 * What nobody watched is sent again at once when it is wished for. `resume` makes it be paused and resumed, and returns for each
 * encoding when it was wished for and seen. On a busy machine the network seems to be too narrow for a while, to the server or to
 * a browser, and then all have to wait; so that it is measured anew when each of them took long.
 */
export async function resumesAtOnce(publisher, resume) {
  for (let tries = 1; ; tries += 1) {
    const took = [];
    for (const { rid, wished, shown } of await resume()) {
      const resumed = await publisher.evaluate((name) => globalThis.resumed[name], rid);
      // A switch that was measured anew found it sent already.
      if (resumed < wished) continue;
      const [onMs, seenMs] = [resumed - wished, shown - wished].map(Math.round);
      step(`MEASURED ${rid || "all"}: switched on ${onMs} ms after the wish, seen after ${seenMs} ms`);
      assert(onMs <= seenMs && seenMs <= RESUME_MAX_MS, `it goes on: ${JSON.stringify({ onMs, seenMs })}`);
      took.push(seenMs);
    }
    if (Math.min(...took) <= RESUME_MS) return;
    assert(tries < TRIES, `pictures of what was not sent come at once: ${took}`);
  }
}

export class Viewer {
  #page;
  #publisher;
  #userId;
  #now;
  #late = 0;
  /** How often something else was wished for. */
  wishes = 0;

  /**
   * Of `userId`, who is at the page `publisher`; the pictures of `beside` show whether the machine keeps up. The viewer's page
   * has joined with `also: ["layer-changed"]`.
   */
  static async of(page, { userId, publisher, beside }) {
    const viewer = new Viewer();
    viewer.#page = page;
    viewer.#publisher = publisher;
    viewer.#userId = userId;
    await page.evaluate(([user, other]) => {
      const [track, control] = [user, other].map((one) => e2e.participant(one).stream("camera").getVideoTracks()[0]);
      globalThis.watched = Object.assign(e2e.watch(track, control), { userId: user });
    }, [userId, beside]);
    return viewer;
  }

  /**
   * Wishes for something, and waits until the picture has this size, and the SDK knows it. Returns when it was wished for
   * and when its first picture was shown, by the pages' clock.
   */
  async takes(wishes, [width, height]) {
    const wished = await this.#wish(wishes);
    const isIt = (seen) => seen?.width === width && seen.height === height;
    await this.#until(`a picture of ${width}x${height}`, ({ latest, layer }) => latest?.at > wished && isIt(latest) && isIt(layer));
    this.#now = { wishes, size: [width, height] };
    const shown = await this.#page.evaluate(
      ([size, since]) => watched.pictures.find((picture) => picture.at > since && picture.width === size).at,
      [width, wished],
    );
    return { wished, shown };
  }

  /** Wishes for no pictures, and waits until the SDK knows that there are none. */
  async pauses() {
    await this.#wish({ paused: true });
    await this.#until("no picture", ({ layer, paused }) => layer === null && paused);
  }

  /** Of the latest pictures. */
  async framerate() {
    const times = await this.#page.evaluate((count) => watched.pictures.slice(-count).map(({ at }) => at), PICTURES_AFTER);
    return ((times.length - 1) * 1_000) / (times.at(-1) - times[0]);
  }

  #wish(wishes) {
    this.wishes += 1;
    return this.#page.evaluate(
      ([userId, given]) => {
        e2e.state.events.length = 0;
        e2e.state.call.setSubscription({ userId }, given);
        return e2e.clock();
      },
      [this.#userId, wishes],
    );
  }

  /** The same from one layer to another, of which nothing may be seen but the size. */
  async switches(wishes, size) {
    const back = this.#now;
    for (let tries = 1; ; tries += 1) {
      await this.#until("regular pictures", ({ times }) => {
        const latest = times.slice(-PICTURES_AFTER);
        return latest.length === PICTURES_AFTER && latest.every((time, n) => n === 0 || time - latest[n - 1] < STEADY_MS);
      });
      const before = await inbound(this.#page, this.#userId);
      const { wished: from, shown: at } = await this.takes(wishes, size);
      await this.#until("pictures after the switch", ({ times }) => times.filter((time) => time > at).length >= PICTURES_AFTER);
      const after = await inbound(this.#page, this.#userId);
      const { gap, limited } = await this.#page.evaluate((since) => ({
        gap: watched.gap(since),
        limited: e2e.state.events.some(({ reason }) => reason === "bandwidth"),
      }), from);
      const rise = (member) => after[member] - before[member];
      const seen = { tookMs: Math.round(at - from), gapMs: Math.round(gap.ms), freezes: rise("freezes") };
      const [plis, dropped, keyFrames] = ["plis", "dropped", "keyFrames"].map(rise);
      step(`${JSON.stringify(wishes)}: ${size.join("x")} ${JSON.stringify({ ...seen, plis, dropped, keyFrames })}`);
      assert(rise("frames") >= PICTURES_AFTER, `decoded pictures: ${JSON.stringify({ before, after })}`);
      assert(plis <= 1, `no storm of requests for key frames: ${JSON.stringify({ before, after })}`);
      if (seen.gapMs <= GAP_MAX_MS && seen.freezes === 0) return { wished: from, shown: at };

      const stalls = await this.#stalls(from);
      step(`not smooth: ${JSON.stringify({ stalls, limited })}`);
      const isMachine = stalls.length > 0 || limited;
      if (!isMachine && seen.gapMs <= GAP_MAX_MS) this.#late += 1;
      const isPardoned = isMachine || (seen.gapMs <= GAP_MAX_MS && this.#late <= LATE_MAX);
      assert(isPardoned && tries < TRIES, `a switch that cannot be seen: ${JSON.stringify({ seen, gap, stalls })}`);
      await this.takes(back.wishes, back.size);
    }
  }

  async #until(what, isRight) {
    return until(`${what} at the viewer`, async () => {
      const seen = await this.#page.evaluate(() => {
        const { layer, paused } = [...e2e.participant(watched.userId).tracks.values()].find(({ source }) => source === "camera");
        const { pictures } = watched;
        return { latest: pictures.at(-1), times: pictures.slice(-100).map(({ at }) => at), layer, paused };
      });
      if (isRight(seen)) return true;
      const { estimate } = await this.#page.evaluate(() => e2e.state.call.serverStats());
      return { ok: false, latest: seen.latest, layer: seen.layer, estimate, counters: await inbound(this.#page, this.#userId) };
    }, { timeout: 20_000, interval: 50 });
  }

  /** When something regular came late in either page since then. */
  async #stalls(from) {
    const found = [];
    for (const page of [this.#page, this.#publisher]) {
      found.push(...(await page.evaluate((since) => e2e.stalls.found.filter(({ to }) => to > since), from)));
    }
    return found.map(({ name, from: began, to }) => `${name} ${Math.round(to - began)} ms`);
  }
}
