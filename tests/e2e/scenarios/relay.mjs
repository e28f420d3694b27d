/** Two people whose networks allow nothing but the relay: everything goes through a real TURN server. */

import { chromium } from "../lib/browser.mjs";
import { framesRise, joinAs, perceivesExactly } from "../lib/call.mjs";
import { assertEqual, room, step, story, until } from "../lib/story.mjs";

await story("media through a TURN relay", async () => {
  const browser = await chromium();
  const id = room("relay");
  const pages = {};
  for (const name of ["alice", "bob"]) pages[name] = await joinAs(browser, name, id, { iceTransportPolicy: "relay" });
  const servers = await pages.alice.evaluate(() => e2e.state.call.joined.iceServers);
  step(`iceServers: ${JSON.stringify(servers.map(({ urls, username }) => ({ urls, username })))}`);
  await perceivesExactly(pages.alice, "alice", ["bob"]);
  await perceivesExactly(pages.bob, "bob", ["alice"]);
  for (const [name, other] of [["alice", "bob"], ["bob", "alice"]]) {
    await framesRise(pages[name], name, other);
    const pair = await until(`${name}'s nominated pair`, () => pages[name].evaluate(() => e2e.nominatedPair()));
    step(`${name}: ${JSON.stringify(pair)}`);
    assertEqual(pair.local, "relay", `${name}'s side of the pair`);
  }
});
