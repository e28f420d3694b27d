/** The client of the documentation calls another one directly; the server only relays and makes no offers. */

import { chromium } from "../lib/browser.mjs";
import { errors, messages, seesColour, simplest } from "../lib/simplest.mjs";
import { always, assert, assertEqual, room, step, story } from "../lib/story.mjs";

await story("the simplest client, peer to peer", async () => {
  const browser = await chromium();
  const roomId = room("p2p");
  const alice = await simplest(browser, { user: "alice", roomId, mode: "call", colour: "red" });
  const bob = await simplest(browser, { user: "bob", roomId, mode: "wait", colour: "green" });
  await seesColour(alice, "alice", "green");
  await seesColour(bob, "bob", "red");

  const fromServer = async (page) => (await messages(page, "offer")).filter((message) => message.userId === "sfu").length;
  await always("no offer of the server", async () => (await fromServer(alice)) + (await fromServer(bob)) === 0);
  step("the server made no offers");

  const [offer] = await messages(bob, "offer");
  assertEqual(offer.userId, "alice", "the relayed offer's sender");
  assert(typeof offer.data.sdp?.sdp === "string", "a relayed message passes unchanged");
  for (const [name, page] of [["alice", alice], ["bob", bob]]) {
    assertEqual(await errors(page), [], `${name}'s failures`);
    assertEqual(await messages(page, "error"), [], `errors the server sent to ${name}`);
    const pair = await page.evaluate(() => e2e.nominatedPair(client.pc));
    step(`${name}'s pair: ${JSON.stringify(pair)}`);
  }
});
