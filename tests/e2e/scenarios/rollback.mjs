/**
 * A client that negotiates as the specification's example does ("perfect negotiation", the polite side) offers its own
 * media at the same moment as the server offers it others'. Whichever way the two offers cross, everybody is seen.
 */

import { addHelpers, chromium, watch } from "../lib/browser.mjs";
import { seesColour } from "../lib/simplest.mjs";
import { assert, onFailure, room, serverUrl, step, story, token, until } from "../lib/story.mjs";

/** Runs in the page. The browser rolls its own offer back when another comes. */
function perfect({ url, roomId, userId, colour, hold }) {
  const client = { messages: [], errors: [], remote: [], crossed: 0 };
  globalThis.client = client;
  const pc = new RTCPeerConnection();
  client.pc = pc;
  const ws = new WebSocket(url);
  const send = (type, more) => ws.send(JSON.stringify({ type, roomId, userId, ...more }));
  pc.ontrack = (event) => client.remote.push(event.track);
  pc.onicecandidate = (event) => send("ice-candidate", { data: { candidate: event.candidate } });
  pc.onnegotiationneeded = async () => {
    await pc.setLocalDescription();
    if (pc.localDescription?.type === "offer") send("offer", { data: { sdp: pc.localDescription } });
  };
  const handle = async ({ type, id, data }) => {
    if (type === "offer" || type === "answer") {
      if (type === "offer" && pc.signalingState !== "stable") client.crossed += 1;
      await pc.setRemoteDescription(data.sdp);
      if (type === "offer") {
        await pc.setLocalDescription();
        send("answer", { id, data: { sdp: pc.localDescription } });
      }
    } else if (type === "ice-candidate") {
      await pc.addIceCandidate(data.candidate);
    }
  };
  // What comes is handled in order, and only once the client's own offer is out where the two are to cross.
  let before = Promise.resolve();
  ws.onmessage = (event) => {
    const message = JSON.parse(event.data);
    client.messages.push(message);
    if (message.type === "joined") {
      const stream = globalThis.e2e.makeMedia({ colour });
      for (const track of stream.getTracks()) pc.addTrack(track, stream);
    }
    before = before
      .then(async () => {
        while (hold && message.type === "offer" && pc.signalingState === "stable" && !client.crossed) {
          await new Promise((resolve) => pc.addEventListener("signalingstatechange", resolve, { once: true }));
        }
        await handle(message);
      })
      .catch((error) => client.errors.push(`${message.type}: ${error}`));
  };
  ws.onopen = () => send("join");
}

await story("a client that lets its browser roll back", async () => {
  const browser = await chromium();
  const roomId = room("rollback");
  const join = async (userId, colour, hold) => {
    const page = await browser.newPage();
    watch(page, userId);
    onFailure(`state of ${userId}`, () =>
      page.evaluate(() => {
        const brief = client.messages.map(({ type, id, data }) => [type, id, data?.code ?? data?.mid ?? ""].join(" "));
        return JSON.stringify({ errors: client.errors, crossed: client.crossed, brief }, null, 1);
      }),
    );
    await page.goto(new URL("style.css", serverUrl).href);
    await addHelpers(page);
    const url = new URL("video-calls/ws", serverUrl);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ token: await token(userId, roomId) });
    await page.evaluate(`(${perfect})(${JSON.stringify({ url: url.href, roomId, userId, colour, hold })})`);
    await until(`${userId} to have joined`, () => page.evaluate(() => client.messages.some((m) => m.type === "joined")));
    return page;
  };
  const alice = await join("alice", "red", false);
  await until("alice to publish", () => alice.evaluate(() => client.pc.connectionState === "connected"));
  step("alice publishes");
  const bob = await join("bob", "green", true);
  await seesColour(bob, "bob", "red");
  await seesColour(alice, "alice", "green");
  const crossed = await bob.evaluate(() => client.crossed);
  assert(crossed > 0, "the offers crossed");
  const carol = await join("carol", "blue", true);
  await seesColour(carol, "carol", "red");
  await seesColour(carol, "carol", "green");
  await seesColour(bob, "bob", "blue");
  await seesColour(alice, "alice", "blue");
});
