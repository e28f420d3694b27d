/**
 * Tones of different loudness: the loudest speaks, which is told once for each change. Of many only the loudest three are
 * heard, and whoever is pinned.
 */

import { chromium } from "../lib/browser.mjs";
import { events, joinAs, perceive, PEOPLE, TONE_TOLERANCE } from "../lib/call.mjs";
import { always, assert, room, step, story, until } from "../lib/story.mjs";

const LOUD = 0.6;
const QUIET = 0.02;
const SILENT = 0;

await story("who speaks", async () => {
  const browser = await chromium();
  const id = room("speakers");
  const pages = {};
  const speak = async (name, loudness) => pages[name].evaluate((value) => e2e.setLoudness(value), loudness);
  const enter = async (name, loudness) => {
    pages[name] = await joinAs(browser, name, id, { colour: null, loudness, slots: { audio: 1, video: 0 } });
  };
  const carol = await joinAs(browser, "carol", id, { colour: null, tone: null, also: ["active-speaker"] });
  await enter("alice", LOUD);
  await enter("bob", QUIET);

  const speakers = async () => (await events(carol, "active-speaker")).map(({ speakers: list }) => list);
  const forget = () => carol.evaluate(() => (e2e.state.events.length = 0));
  const speaks = async (name) => {
    const began = performance.now();
    await until(`${name} to speak`, async () => {
      const now = (await speakers()).at(-1) ?? [];
      const known = await carol.evaluate((who) => e2e.participant(who)?.level ?? 0, name);
      return now[0]?.userId === name && now[0].level > 0 && known === now[0].level ? true : { ok: false, now, known };
    }, { interval: 50 });
    return Math.round(performance.now() - began);
  };
  await speaks("alice");
  for (const [louder, quieter] of [["bob", "alice"], ["alice", "bob"], ["bob", "alice"]]) {
    await forget();
    await Promise.all([speak(louder, LOUD), speak(quieter, QUIET)]);
    const ms = await speaks(louder);
    const seen = JSON.stringify((await speakers()).map((list) => list.map(({ userId }) => userId)));
    step(`${louder} speaks, ${ms} ms after the change: ${seen}`);
    await always(`${louder} goes on`, async () => (await speakers()).at(-1)[0]?.userId === louder);
    const firsts = (await speakers()).map((list) => list[0]?.userId);
    assert(firsts.lastIndexOf(quieter) < firsts.indexOf(louder), `one change, and not back and forth: ${JSON.stringify(firsts)}`);
  }
  await forget();
  await Promise.all(["alice", "bob"].map((name) => speak(name, SILENT)));
  await until("nobody to speak", async () => (await speakers()).at(-1)?.length === 0);
  step("nobody speaks");

  const hears = async () => {
    const all = await perceive(carol);
    return Object.keys(all).filter((name) => all[name].tone !== null && Math.abs(all[name].tone - PEOPLE[name].tone) <= TONE_TOLERANCE).sort();
  };
  const hear = async (names) => {
    await until(`carol to hear ${names.join(", ")}`, async () => {
      const now = await hears();
      return JSON.stringify(now) === JSON.stringify(names) ? true : { ok: false, now };
    });
    step(`carol hears ${names.join(", ")}`);
  };
  for (const name of ["dave", "erin"]) await enter(name, LOUD);
  await enter("frank", QUIET);
  await Promise.all(["alice", "bob"].map((name) => speak(name, LOUD)));
  await Promise.all(["erin"].map((name) => speak(name, QUIET)));
  await hear(["alice", "bob", "dave"]);

  await carol.evaluate(() => e2e.state.call.setSubscription({ userId: "frank" }, { priority: 1 }));
  await until("carol to hear frank, who is quiet", async () => (await hears()).includes("frank"));
  step("who is pinned is heard");
  await Promise.all([speak("alice", QUIET), speak("erin", LOUD)]);
  await until("carol to hear erin as well", async () => (await hears()).includes("erin"));
  await always("frank is heard, whoever speaks", async () => (await hears()).includes("frank"));
});
