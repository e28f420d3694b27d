/**
 * The socket of somebody is cut, and the network takes no other for a while. Media goes on all the time; the others are told
 * that the connection is lost, and that it is back, and see nobody leave or come.
 */

import { blankPage, chromium, firefox } from "../lib/browser.mjs";
import { events, framesRise, join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { Proxy } from "../lib/proxy.mjs";
import { assert, assertEqual, room, step, story, until } from "../lib/story.mjs";

const BROWSER = process.env.BROWSER ?? "chromium";
/** From the moment at which the network is back. */
const BACK_MS = 6_000;

await story(`a lost socket in ${BROWSER} is resumed`, async () => {
  const browser = await chromium();
  const proxy = await Proxy.start();
  const id = room("reconnect");
  const alice = await blankPage(BROWSER === "firefox" ? await firefox() : browser, "alice", { path: `${proxy.url}style.css` });
  await join(alice, "alice", id, { also: ["participant-connection", "joined"] });
  const bob = await joinAs(browser, "bob", id, { also: ["participant-connection"] });
  await perceivesExactly(bob, "bob", ["alice"], { tones: false });
  await perceivesExactly(alice, "alice", ["bob"], { tones: false });
  await until("all to be connected", async () => (await Promise.all([alice, bob].map((page) => page.evaluate(() => e2e.state.call.state)))).every((state) => state === "connected"));

  for (const round of [1, 2]) {
    for (const page of [alice, bob]) await page.evaluate(() => (e2e.state.events.length = 0));
    await alice.evaluate(() => (globalThis.before = e2e.state.call.peerConnection));
    const connections = async () => (await events(bob, "participant-connection")).map(({ userId, connection }) => `${userId} ${connection}`);
    proxy.cut();
    step(`round ${round}: the socket is cut`);
    await until("bob to be told that alice is lost", async () => (await connections())[0] === "alice lost", { timeout: 2_000 });
    await until("alice to notice", () => alice.evaluate(() => e2e.state.call.state === "reconnecting"));
    await framesRise(bob, "bob", "alice", { by: 15 });
    await framesRise(alice, "alice", "bob", { by: 15 });
    step("media goes on meanwhile");

    proxy.mend();
    const mended = performance.now();
    await until("bob to be told that alice is back", async () => (await connections()).at(-1) === "alice ok", { timeout: BACK_MS, interval: 20 });
    const [back] = await until("alice to be back", async () => {
      const found = await events(alice, "reconnected");
      return found.length > 0 ? found : false;
    });
    step(`MEASURED back after ${Math.round(performance.now() - mended)} ms: ${JSON.stringify(back)}`);
    assertEqual(back.resumed, true, "alice is the one she was");
    assert(await alice.evaluate(() => before === e2e.state.call.peerConnection), "the media connection is the same");
    assertEqual(await connections(), ["alice lost", "alice ok"], "what bob was told of the connection");
    await perceivesExactly(bob, "bob", ["alice"], { tones: false });
    await perceivesExactly(alice, "alice", ["bob"], { tones: false });
    await framesRise(bob, "bob", "alice");
    await framesRise(alice, "alice", "bob");

    // What is said now comes by the new socket, and what is wished for as well.
    await alice.evaluate((text) => e2e.state.call.chat(text), `round ${round}`);
    await bob.evaluate((text) => e2e.state.call.chat(text), `round ${round}`);
    for (const [page, other] of [[bob, "alice"], [alice, "bob"]]) {
      await until(`a word of ${other}`, () =>
        page.evaluate(([userId, text]) => e2e.state.chats.some((chat) => chat.userId === userId && chat.text === text), [other, `round ${round}`]),
      );
    }
    for (const [page, who] of [[alice, "alice"], [bob, "bob"]]) {
      for (const type of ["participant-left", "participant-joined", "track-unsubscribed", "closed"]) {
        assertEqual(await events(page, type), [], `${type} at ${who}`);
      }
    }
  }

  // Whoever leaves is gone at once, reconnections or not.
  await alice.evaluate(() => e2e.state.call.leave());
  await until("alice to be gone", () => bob.evaluate(() => e2e.state.call.participants.size === 0), { timeout: 3_000 });
});
