/**
 * What the SDK does when a socket or the media connection is lost, against a scripted server in the page: it comes back
 * by itself, keeps what the server kept, builds anew what it did not, and tells only what really changed.
 */

import { blankPage, chromium, scriptedServer } from "../lib/browser.mjs";
import { always, assert, assertEqual, step, story, until } from "../lib/story.mjs";

await story("the SDK comes back", async () => {
  const browser = await chromium();
  const page = await blankPage(browser, "me");
  const other = await blankPage(browser, "other");
  for (const each of [page, other]) await scriptedServer(each);

  const sent = (type) => page.evaluate((wanted) => server.sent(wanted), type);
  const state = () => page.evaluate(() => e2e.state.call.state);
  /** Types of the events since the last call, with what matters of them. */
  const told = () =>
    page.evaluate(() =>
      e2e.state.events
        .splice(0)
        .filter(({ type }) => type !== "connection-state")
        .map(({ type, userId, resumed, error }) => [type, userId ?? resumed ?? error].filter((part) => part !== undefined).join(" ")),
    );
  const back = () => until("the call to be back", async () => (await state()) === "connected");
  const ufrags = async () => (await sent("offer")).map(({ data }) => /a=ice-ufrag:(\S+)/.exec(data.sdp.sdp)[1]);

  await page.evaluate(() => e2e.join({ token: "a.b.c", roomId: "r", colour: "red", getToken: async () => `t.${(globalThis.tokens = (globalThis.tokens ?? 0) + 1)}` }));
  await back();
  await told();

  // The socket alone is lost; the server kept everything.
  await page.evaluate(() => {
    globalThis.firstPc = e2e.state.call.peerConnection;
    server.joined = { resumed: true, media: true };
    server.drop(1006, "");
  });
  assertEqual(await state(), "reconnecting", "state right after the loss");
  await back();
  assertEqual((await sent("join")).map(({ data }) => data.resumeToken ?? null), [null, "r1"], "resume tokens of the joins");
  assertEqual(await page.evaluate(() => e2e.state.call.peerConnection === firstPc), true, "the same media connection");
  assertEqual((await sent("offer")).length, 1, "offers when nothing was lost but the socket");
  assertEqual(await told(), ["reconnecting", "reconnected true"], "events of a resumed session");
  step("a lost socket is resumed without a trace");

  // An offer whose answer was lost with the socket goes out again as it was.
  await page.evaluate(() => {
    server.hold = true;
    globalThis.publishing = e2e.state.call.publish(e2e.makeVideo("blue"), { source: "screen" });
  });
  await until("the offer", async () => (await sent("offer")).length === 2);
  await page.evaluate(() => {
    server.hold = false;
    server.drop(1006, "");
    return publishing;
  });
  const [, first, again] = await sent("offer");
  assertEqual([again.id, again.data.sdp.sdp.split("a=candidate")[0]], [first.id, first.data.sdp.sdp.split("a=candidate")[0]], "the offer made again");
  await back();
  step("an offer without its answer is made again, and publish() resolves");

  // People come and go, and somebody mutes, while we are away for several tries.
  await told();
  await page.evaluate(() => {
    server.say({ type: "user-joined", userId: "ben", data: { displayName: "Ben", tracks: [{ trackId: "b1", kind: "video", source: "camera" }] } });
    const { mid } = e2e.state.call.peerConnection.getTransceivers().find(({ direction, receiver }) => direction === "recvonly" && receiver.track.kind === "video");
    server.say({ type: "track-subscribed", userId: "sfu", data: { mid, userId: "ben", trackId: "b1", kind: "video", source: "camera" } });
    e2e.state.events.length = 0;
    server.reachable = false;
    globalThis.socketsBefore = server.sockets;
    server.drop(1006, "");
    e2e.state.call.setCameraMuted(true);
    server.joined = {
      resumed: true,
      media: true,
      participants: [
        { userId: "ann", displayName: "Ann B.", role: "host", muted: { audio: true, video: false }, tracks: [] },
        { userId: "cid", displayName: "Cid", role: "participant", tracks: [] },
      ],
    };
  });
  await until("three tries", () => page.evaluate(() => server.sockets >= socketsBefore + 3));
  assertEqual((await page.evaluate(() => { try { e2e.state.call.chat("anybody?"); } catch (error) { return error.code; } })), "not_connected", "a message meanwhile");
  await page.evaluate(() => {
    server.reachable = true;
    dispatchEvent(new Event("online"));
  });
  await back();
  assertEqual(
    await told(),
    ["reconnecting", "muted me", "track-unsubscribed ben", "participant-left ben", "participant-updated ann", "participant-joined cid", "reconnected true"],
    "events for what changed meanwhile",
  );
  assertEqual((await sent("mute")).at(-1).data, { kind: "video" }, "a mute made meanwhile is told");
  step("only real changes are told");

  // The server lost everything: a new media connection with the same publications.
  await page.evaluate(() => {
    server.joined = {};
    server.forget();
    server.drop(1001, "going away");
  });
  await until("another media connection", () => page.evaluate(() => e2e.state.call.peerConnection !== firstPc));
  await back();
  assertEqual((await sent("offer")).at(-1).data.tracks.map(({ source }) => source), ["camera", "screen"], "publications in the new offer");
  assertEqual((await told()).filter((text) => /^(reconnect|closed|error)/.test(text)), ["reconnecting", "reconnected false"], "events of a session begun anew");
  await page.evaluate(() => server.say({ type: "track-subscribed", userId: "sfu", data: { mid: "3", userId: "ann", trackId: "a1", kind: "video", source: "camera" } }));
  assert(await page.evaluate(() => Boolean(e2e.participant("ann").stream("camera"))), "slots of the new connection carry tracks");
  step("a session that is gone is begun anew, publications and all");

  // A network that is gone without a word.
  await page.evaluate(() => {
    server.silent = true;
    globalThis.socketsBefore = server.sockets;
    dispatchEvent(new Event("online"));
  });
  await until("the silent socket to be given up", () => page.evaluate(() => server.sockets > socketsBefore), { timeout: 6_000 });
  await page.evaluate(() => {
    server.silent = false;
    server.joined = { resumed: true, media: true };
  });
  await back();
  assert((await page.evaluate(() => server.closedWith)) > 1001, "the close of a silent socket is no leave");
  step("a silent socket is replaced");

  // Media alone is lost: ICE restarts, then another connection.
  const lose = (media) =>
    page.evaluate((value) => {
      const pc = e2e.state.call.peerConnection;
      globalThis.secondPc = pc;
      Object.defineProperty(pc, "connectionState", { configurable: true, get: () => value });
      Object.defineProperty(pc, "iceConnectionState", { configurable: true, get: () => value });
      pc.onconnectionstatechange();
    }, media);
  let before = (await sent("offer")).length;
  await told();
  await lose("disconnected");
  assertEqual(await state(), "connected", "state while it may heal by itself");
  await until("an offer", async () => (await sent("offer")).length > before, { timeout: 4_000 });
  assertEqual(await state(), "reconnecting", "state when it did not");
  assertEqual(new Set((await ufrags()).slice(before - 1)).size, 2, "the ICE credentials are new");
  before = (await sent("offer")).length;
  await lose("failed");
  await until("an offer at once", async () => (await sent("offer")).length > before, { timeout: 1_000 });
  await page.evaluate(() => {
    delete secondPc.connectionState;
    delete secondPc.iceConnectionState;
    secondPc.onconnectionstatechange();
  });
  await back();
  assertEqual(await told(), ["reconnecting", "reconnected true"], "events of media that was lost and found");
  step("lost media restarts ICE");

  before = (await sent("offer")).length;
  await page.evaluate(() => {
    // The server answers the restart with a connection of its own that knows nothing of ours.
    server.forget();
  });
  await lose("failed");
  await until("another media connection", () => page.evaluate(() => e2e.state.call.peerConnection !== secondPc));
  await back();
  assertEqual((await sent("offer")).at(-1).data.tracks.map(({ source }) => source), ["camera", "screen"], "publications again");
  step("an answer of another connection means a new one here");

  before = (await sent("offer")).length;
  await page.evaluate(() => (server.refuse = "internal"));
  await lose("failed");
  await until("another media connection", () => page.evaluate(() => e2e.state.call.peerConnection !== secondPc));
  await back();
  assertEqual((await told()).filter((text) => /^error/.test(text)), [], "errors of what mended itself");
  step("a restart that the server refuses means a new connection");

  // An ordinary offer: the server has given the connection up, and nothing here has shown that yet.
  await page.evaluate(async () => {
    globalThis.secondPc = e2e.state.call.peerConnection;
    server.refuse = "not_available";
    e2e.state.call.publish(e2e.makeVideo("green"), { source: "camera2" }).catch(() => {});
  });
  await until("another media connection", () => page.evaluate(() => e2e.state.call.peerConnection !== secondPc));
  await back();
  assertEqual((await told()).filter((text) => /^error/.test(text)), [], "errors of what mended itself");
  step("an offer of a connection that was given up means a new one");

  // Tokens.
  await page.evaluate(() => server.say({ type: "token-expiring", data: {} }));
  await until("the renewed token", async () => (await sent("token")).length === 1);
  assertEqual((await sent("token"))[0].data, { token: "t.1" }, "the renewed token");
  await page.evaluate(() => server.drop(4004, "token expired"));
  await back();
  assertEqual(await page.evaluate(() => server.protocols[1]), "bearer.t.2", "the token after an expiry");
  step("tokens are renewed");

  // Whoever was sent away stays away.
  await told();
  const endings = [];
  for (const [code, error] of [[4001, "kicked"], [4002, "call_ended"], [4003, "replaced"], [1008, "policy"], [4004, "token_expired"]]) {
    await other.evaluate(() => e2e.join({ token: "a.b.c", roomId: "r" }));
    const sockets = await other.evaluate((number) => {
      server.drop(number, "because");
      return server.sockets;
    }, code);
    await always("no socket is opened", () => other.evaluate((count) => server.sockets === count, sockets), { duration: 600 });
    endings.push(await other.evaluate(() => e2e.state.closed));
    assertEqual(endings.at(-1), { code, reason: "because", error }, `the end by ${code}`);
  }
  await other.evaluate(() => e2e.join({ token: "a.b.c", roomId: "r" }));
  await other.evaluate(() => {
    server.refuseJoin = "call_full";
    server.drop(1006, "");
  });
  await until("the end", () => other.evaluate(() => e2e.state.closed?.error === "call_full"));
  await other.evaluate(() => e2e.join({ token: "a.b.c", roomId: "r", reconnectTimeoutMs: 1_500 }));
  await other.evaluate(() => {
    server.reachable = false;
    server.drop(1006, "");
  });
  await until("the end", () => other.evaluate(() => e2e.state.closed?.error === "lost"), { timeout: 10_000 });
  step("what is final, and what took too long, ends the call");

  // Leaving while away needs nobody's answer.
  await page.evaluate(() => {
    server.reachable = false;
    server.drop(1006, "");
    return e2e.state.call.leave();
  });
  assertEqual(await page.evaluate(() => e2e.state.closed), { code: 1000, reason: "left", error: null }, "leaving while away");
});
