/**
 * A client that is no browser ($PEER, see `lib/peer.mjs`) publishes by WHIP, with each codec that it can, and watches by WHEP:
 * itself, and a browser that takes part by signaling. That browser sees and hears it.
 */

import { chromium } from "../lib/browser.mjs";
import { counters, framesRise, joinAs, PEOPLE, perceivesExactly, TONE_TOLERANCE } from "../lib/call.mjs";
import { needsPeer, Peer } from "../lib/peer.mjs";
import { assertEqual, room, serverUrl, step, story, token } from "../lib/story.mjs";

const kind = process.env.PEER ?? "gstreamer";

await story(`WHIP and WHEP with ${kind}`, async () => {
  needsPeer(kind);
  const id = room(kind);
  const endpoint = (protocol, query = "") => new URL(`video-calls/${id}/${protocol}${query}`, serverUrl).href;
  const alice = await joinAs(await chromium(), "alice", id);
  const colours = await alice.evaluate(() => e2e.COLOURS);

  for (const codec of ["VP8", "H264"]) {
    const { colour, tone } = PEOPLE.bob;
    const given = { endpoint: endpoint("whip"), token: await token("bob", id), colour: colours[colour].join(), tone, codec };
    const bob = new Peer(kind, `bob (${codec})`, "whip", given);
    await bob.created();
    await perceivesExactly(alice, "alice", ["bob"]);
    await framesRise(alice, "alice", "bob", { by: 15 });
    const { codec: received } = await counters(alice, "bob");
    assertEqual(received?.toLowerCase(), `video/${codec.toLowerCase()}`, "the codec at alice");

    // One after the other: what is measured is whether it works, not how much of it a machine bears.
    for (const [who, watched, trickle] of [["carol", "bob", kind === "gstreamer"], ["dave", "alice", false]]) {
      const given = { endpoint: endpoint("whep", `?publisher=${watched}`), token: await token(who, id, { role: "viewer" }), trickle };
      const viewer = new Peer(kind, `${who} (watches ${watched})`, "whep", given);
      await viewer.created();
      await viewer.perceives(PEOPLE[watched], colours, TONE_TOLERANCE);
      if (trickle) assertEqual(viewer.said.status, 204, "status of the PATCH with candidates");
      await viewer.end();
    }
    await bob.end();
    await perceivesExactly(alice, "alice", []);
    step(`${codec} is done`);
  }
});
