/** The client of the documentation, which only answers, calls through the media server. */

import { chromium } from "../lib/browser.mjs";
import { errors, messages, seesColour, simplest } from "../lib/simplest.mjs";
import { assert, assertEqual, room, story } from "../lib/story.mjs";

await story("the simplest client through the media server", async () => {
  const browser = await chromium();
  const roomId = room("simplest");
  const alice = await simplest(browser, { user: "alice", roomId, mode: "sfu", colour: "red" });
  const bob = await simplest(browser, { user: "bob", roomId, mode: "sfu", colour: "green" });
  await seesColour(alice, "alice", "green");
  await seesColour(bob, "bob", "red");
  for (const [name, page] of [["alice", alice], ["bob", bob]]) {
    assertEqual(await errors(page), [], `${name}'s failures`);
    assertEqual(await messages(page, "error"), [], `errors the server sent to ${name}`);
    const offers = await messages(page, "offer");
    assert(offers.length > 0, `${name} got an offer`);
    for (const offer of offers) {
      assertEqual(offer.userId, "sfu", "who offers");
      assert(typeof offer.id === "string" && offer.id !== "", "every offer of the server carries an id");
      assert(typeof offer.data.sdp?.sdp === "string", "the object form before the client has used any, and after it used that");
    }
  }
});
