/** Participants made with the SDK, and what they must perceive. */

import { blankPage } from "./browser.mjs";
import { step, token, until } from "./story.mjs";

/** Tones 110 Hz or more apart, colours far apart: nobody can be taken for somebody else. */
export const PEOPLE = {
  alice: { colour: "red", tone: 440 },
  bob: { colour: "green", tone: 660 },
  carol: { colour: "blue", tone: 880 },
  dave: { colour: "yellow", tone: 1100 },
  erin: { colour: "magenta", tone: 1320 },
  frank: { colour: "cyan", tone: 1540 },
};

/** Hertz; the analyser's bins are 6 Hz apart. */
export const TONE_TOLERANCE = 15;

/** Opens a page and joins the call as `userId`, sending the colour and tone of that person. */
export async function joinAs(browser, userId, roomId, options = {}) {
  const page = await blankPage(browser, userId);
  await join(page, userId, roomId, options);
  return page;
}

export async function join(page, userId, roomId, { role, ...options } = {}) {
  const jwt = await token(userId, roomId, role ? { role } : {});
  const result = await page.evaluate((given) => globalThis.e2e.join(given), {
    token: jwt,
    roomId,
    displayName: userId,
    ...PEOPLE[userId],
    ...options,
  });
  step(`${userId} joined ${roomId}, sees ${JSON.stringify(result.participants)}`);
  return result;
}

export function perceive(page) {
  return page.evaluate(() => globalThis.e2e.perceive());
}

export function counters(page, userId) {
  return page.evaluate((id) => globalThis.e2e.counters(id), userId);
}

export function events(page, type) {
  return page.evaluate((wanted) => globalThis.e2e.state.events.filter((event) => event.type === wanted), type);
}

/** Waits until `page` sees and hears exactly `others`, each with the right colour and tone. */
export async function perceivesExactly(page, who, others, { tones = true, timeout = 20_000 } = {}) {
  const expected = [...others].sort();
  await until(
    `${who} to see${tones ? " and hear" : ""} exactly ${expected.join(", ") || "nobody"}`,
    async () => {
      const seen = await perceive(page);
      const right =
        JSON.stringify(Object.keys(seen).sort()) === JSON.stringify(expected) &&
        expected.every((id) => {
          const { colour, tone } = PEOPLE[id];
          const toneRight = !tones || (seen[id].tone !== null && Math.abs(seen[id].tone - tone) <= TONE_TOLERANCE);
          return seen[id].colour === colour && toneRight;
        });
      return right ? true : { ok: false, seen };
    },
    { timeout, interval: 200 },
  );
  step(`${who} sees${tones ? " and hears" : ""} ${expected.join(", ") || "nobody"}`);
}

/** Waits until the picture from `userId` goes on: the frame counter rises between two readings. */
export async function framesRise(page, who, userId, { by = 5, timeout = 15_000 } = {}) {
  const before = await counters(page, userId);
  return until(
    `${who} to decode ${by} more frames of ${userId}`,
    async () => {
      const after = await counters(page, userId);
      return after.frames >= before.frames + by ? after : { ok: false, before, after };
    },
    { timeout },
  );
}

/** Waits until a counter stands still for `quiet` ms. */
export async function standsStill(page, who, userId, member, { quiet = 1_000, timeout = 10_000 } = {}) {
  let value = null;
  let since = 0;
  await until(
    `${member} of ${userId} to stand still at ${who}`,
    async () => {
      const { [member]: now } = await counters(page, userId);
      if (now !== value) {
        value = now;
        since = performance.now();
      }
      return performance.now() - since >= quiet ? true : { ok: false, [member]: now };
    },
    { timeout },
  );
}
