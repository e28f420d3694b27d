/**
 * Two people in a call over what the network lets through: UDP where it works, else the TCP connection that the server
 * takes on its HTTP port. Either way both candidates are offered.
 */

import { chromium } from "../lib/browser.mjs";
import { framesRise, joinAs, perceivesExactly } from "../lib/call.mjs";
import { assertEqual, room, serverUrl, step, story, until } from "../lib/story.mjs";

const protocol = process.env.UDP === "blocked" ? "tcp" : "udp";

await story(`a call over ${protocol}`, async () => {
  const tls = serverUrl.startsWith("https:");
  const id = room("tcp");
  const pages = {};
  // A browser each, as two people have.
  for (const name of ["alice", "bob"]) {
    const browser = await chromium({ args: tls ? ["--ignore-certificate-errors"] : [] });
    pages[name] = await joinAs(browser, name, id);
  }
  await perceivesExactly(pages.alice, "alice", ["bob"], { timeout: 30_000 });
  await perceivesExactly(pages.bob, "bob", ["alice"], { timeout: 30_000 });
  for (const [name, other] of [["alice", "bob"], ["bob", "alice"]]) {
    const offered = await pages[name].evaluate(() =>
      e2e.state.call.peerConnection.remoteDescription.sdp.match(/a=candidate:.*/g).map((line) => line.split(" ")),
    );
    const port = new URL(serverUrl).port;
    const tcp = offered.filter((words) => words[2].toLowerCase() === "tcp");
    if (!tcp.length || tcp.some((words) => words[5] !== port || !words.join(" ").includes("tcptype passive"))) {
      throw new Error(`not what ICE-TCP needs: ${JSON.stringify(offered)}`);
    }
    await framesRise(pages[name], name, other, { by: 30 });
    const pair = await until(`${name}'s nominated pair`, () => pages[name].evaluate(() => e2e.nominatedPair()));
    step(`${name}: ${JSON.stringify(pair)}`);
    assertEqual(pair.protocol, protocol, `the protocol of ${name}`);
  }
});
