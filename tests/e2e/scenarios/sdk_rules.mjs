/**
 * The SDK's side of the signaling rules, against a scripted server in the page: glare, refused offers, answers that
 * come too late, slots that change hands, mutes by others, close codes. Media is a real pair of connections.
 */

import { blankPage, chromium, scriptedServer } from "../lib/browser.mjs";
import { assert, assertEqual, step, story, until } from "../lib/story.mjs";

await story("the rules of signaling, as the SDK keeps them", async () => {
  const browser = await chromium();
  const page = await blankPage(browser, "me");
  await scriptedServer(page);
  const sent = (type) => page.evaluate((wanted) => server.sent(wanted), type);
  const events = (type) => page.evaluate((wanted) => e2e.state.events.filter((event) => event.type === wanted), type);

  // Glare: the server's offer comes while ours is outstanding.
  await page.evaluate(() => {
    server.hold = true;
    globalThis.joining = e2e.join({ token: "a.b.c", roomId: "r", colour: "red" });
  });
  await until("the first offer", async () => (await sent("offer")).length === 1);
  assertEqual(await page.evaluate(() => server.protocols), ["webrtc-engine.v1", "bearer.a.b.c"], "subprotocols");
  const [offer] = await sent("offer");
  const mline = (kind) => offer.data.sdp.sdp.split("\r\n").filter((line) => line.startsWith(`m=${kind}`)).length;
  assertEqual([mline("audio"), mline("video")], [3, 10], "m-lines of the first offer: 3 and 9 slots, one camera");
  assertEqual(offer.data.tracks.map(({ mid, source }) => ({ mid, source })), [{ mid: "12", source: "camera" }], "named tracks");
  const described = offer.data.sdp.sdp.split(/(?=^m=)/m).filter((part) => part.startsWith("m=video") && part.includes("#dependency-descriptor"));
  assertEqual(described.length, 10, "video m-lines with the dependency descriptor");
  await page.evaluate(async () => {
    const other = new RTCPeerConnection();
    other.addTransceiver("video");
    const { type, sdp } = await other.createOffer();
    server.say({ type: "offer", userId: "sfu", id: "s-glare", data: { sdp: { type, sdp } } });
    server.say({ type: "answer", userId: "sfu", id: "not-ours", data: { sdp: { type: "answer", sdp } } });
    server.hold = false;
    await server.answer(server.sent("offer")[0]);
    await joining;
  });
  assertEqual((await sent("answer")).length, 0, "answers to an offer in glare");
  await until("media", () => page.evaluate(() => e2e.state.call.state === "connected"));
  step("glare is settled for the client; an answer to another offer is ignored");

  const cap = await page.evaluate(() =>
    e2e.state.call.peerConnection.getSenders().find((sender) => sender.track).getParameters().encodings[0].maxBitrate,
  );
  assertEqual(cap, 300000, "the bitrate cap of `encoding`");

  await page.evaluate(() => server.offer("s-restart"));
  await until("an answer", async () => (await sent("answer")).length === 1);
  assertEqual((await sent("answer"))[0].id, "s-restart", "the id an answer echoes");
  await until("stable", () => page.evaluate(() => server.pc.signalingState === "stable"));
  step("a server offer is answered with its id");

  // A refusal that passes is tried again, any other reaches the caller, and neither blocks what comes after.
  const refused = await page.evaluate(async () => {
    const { call } = e2e.state;
    server.refuse = "forbidden";
    const failure = await call.publish(e2e.makeVideo("green"), { source: "screen" }).catch((error) => error.code);
    return { failure, state: call.peerConnection.signalingState, left: call.local.stream("screen") };
  });
  assertEqual(refused, { failure: "forbidden", state: "stable", left: null }, "a refused publication");
  let before = (await sent("offer")).length;
  await page.evaluate(() => {
    server.refuse = "rate_limited";
    return e2e.state.call.publish(e2e.makeVideo("blue"), { source: "screen" });
  });
  assertEqual((await sent("offer")).length - before, 2, "offers until one was taken");
  const published = (await sent("offer")).at(-1).data.tracks.map(({ source }) => source);
  assertEqual(published, ["camera", "screen"], "sources in the last offer");
  await page.evaluate(() => e2e.state.call.unpublish("screen"));
  const sending = await page.evaluate(() =>
    e2e.state.call.peerConnection.getTransceivers().filter(({ currentDirection }) => /send/.test(currentDirection ?? "")).length,
  );
  assertEqual(sending, 1, "m-lines that send after unpublishing");
  step("refused offers are rolled back");

  // Cameras are sent in sizes, and what nobody watches is not sent.
  const encodings = (source) =>
    page.evaluate((wanted) => {
      const { mid } = server.sent("offer").at(-1).data.tracks.find(({ source: name }) => name === wanted);
      const { sender } = e2e.state.call.peerConnection.getTransceivers().find((transceiver) => transceiver.mid === mid);
      return sender.getParameters().encodings.map(({ rid, active, maxBitrate, scaleResolutionDownBy }) => [rid ?? null, active, maxBitrate, scaleResolutionDownBy]);
    }, source);
  for (const [width, height, expect] of [
    [320, 180, [[null, true, 300000, 1]]],
    [640, 360, [["l", true, 300000, 2], ["h", true, 300000, 1]]],
    [720, 1280, [["l", true, 100000, 4], ["m", true, 300000, 2], ["h", true, 300000, 1]]],
  ]) {
    await page.evaluate(
      async (size) => {
        await e2e.state.call.unpublish("camera");
        await e2e.state.call.publish(e2e.makeVideo("red", size));
      },
      { width, height },
    );
    assertEqual(await encodings("camera"), expect, `encodings of ${width}x${height}`);
  }
  const lines = await page.evaluate(() => e2e.state.call.peerConnection.getTransceivers().length);
  await page.evaluate(async () => {
    await e2e.state.call.unpublish("camera");
    await e2e.state.call.publish(e2e.makeVideo("red", { width: 1280, height: 720 }));
  });
  assertEqual(await page.evaluate(() => e2e.state.call.peerConnection.getTransceivers().length), lines, "m-lines after publishing the like again");
  const active = async () => (await encodings("camera")).map(([rid, on]) => (on ? rid : "-")).join("");
  const wanted = (list) =>
    page.evaluate((rids) => {
      const { mid } = server.sent("offer").at(-1).data.tracks.find(({ source }) => source === "camera");
      server.say({ type: "layers-wanted", userId: "sfu", data: { trackId: "x", mid, encodings: ["l", "m", "h"].map((rid) => ({ rid, active: rids.includes(rid) })) } });
    }, list);
  await wanted("l");
  await until("the others to be off", async () => (await active()) === "l--");
  // Many orders in a row, between negotiations and other tracks: the last one holds.
  await page.evaluate(async () => {
    const { call } = e2e.state;
    const sender = () => call.peerConnection.getSenders().find(({ track }) => track?.kind === "video");
    const { mid } = server.sent("offer").at(-1).data.tracks.find(({ source }) => source === "camera");
    const say = (rids) => server.say({ type: "layers-wanted", data: { mid, encodings: ["l", "m", "h"].map((rid) => ({ rid, active: rids.includes(rid) })) } });
    say("lm");
    const publishing = call.publish(e2e.makeAudio(440));
    say("lmh");
    await call.replaceTrack(sender().track, e2e.makeVideo("blue", { width: 1280, height: 720 }));
    say("");
    await publishing;
    say("mh");
    say("lh");
  });
  await until("the last order to hold", async () => (await active()) === "l-h", { timeout: 3_000 });
  await page.evaluate(() => {
    const { mid } = server.sent("offer").at(-1).data.tracks.find(({ source }) => source === "camera");
    server.say({ type: "layers-wanted", data: { mid, encodings: [{ rid: "m", active: true }] } });
  });
  await until("one more", async () => (await active()) === "lmh");
  const audio = (await sent("offer")).at(-1).data.sdp.sdp.split("m=").find((part) => part.startsWith("audio") && part.includes("a=sendonly"));
  const names = audio.split("\r\n")[0].split(" ").slice(3).map((pt) => new RegExp(`a=rtpmap:${pt} ([^/]+)`).exec(audio)[1]);
  assertEqual(names, ["red", "opus"], "audio codecs in the order of preference");
  step("encodings follow the size of the capture and the server's orders");

  // A shared screen, with its sound, that the browser's own bar ends.
  await page.evaluate(async () => {
    navigator.mediaDevices.getDisplayMedia = async (constraints) => {
      globalThis.displayConstraints = constraints;
      return e2e.makeMedia({ colour: "yellow", tone: 700, width: 1600, height: 900 });
    };
    globalThis.shared = await e2e.state.call.shareScreen();
  });
  const sources = async () => (await sent("offer")).at(-1).data.tracks.map(({ source }) => source).sort();
  assertEqual(await sources(), ["camera", "microphone", "screen", "screen-audio"], "sources while sharing");
  const screen = await page.evaluate(() => {
    const [track] = shared.getVideoTracks();
    const parameters = e2e.state.call.peerConnection.getSenders().find((sender) => sender.track === track).getParameters();
    const { rid = null, maxFramerate, priority, scalabilityMode } = parameters.encodings[0];
    return [track.contentHint, parameters.degradationPreference, parameters.encodings.length, rid, maxFramerate, priority, scalabilityMode];
  });
  assertEqual(screen, ["detail", "maintain-resolution", 1, null, 20, "high", "L1T3"], "how a screen is sent");
  assertEqual(await page.evaluate(() => e2e.state.call.shareScreen().catch(({ code }) => code)), "already_published", "a second share");
  before = (await sent("offer")).length;
  await page.evaluate(() => shared.getVideoTracks()[0].dispatchEvent(new Event("ended")));
  await until("the screen to be gone", async () => JSON.stringify(await sources()) === '["camera","microphone"]');
  assertEqual((await sent("offer")).length - before, 1, "offers that end a share");
  assertEqual(await page.evaluate(() => shared.getTracks().map(({ readyState }) => readyState)), ["ended", "ended"], "tracks of the ended share");
  await page.evaluate(() => e2e.state.call.shareScreen({ audio: false }));
  await page.evaluate(() => e2e.state.call.stopScreenShare());
  assertEqual(await sources(), ["camera", "microphone"], "sources after stopping");
  const denied = await page.evaluate(() => {
    navigator.mediaDevices.getDisplayMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
    return e2e.state.call.shareScreen().catch(({ code }) => code);
  });
  assertEqual(denied, "not_allowed", "a share that the user decided against");
  step("a screen is shared and ends cleanly");

  // Messages over data channels.
  const closing = await page.evaluate(async () => {
    const { call } = e2e.state;
    const text = (frame) => (typeof frame === "string" ? frame : `bytes ${[...new Uint8Array(frame)]}`);
    const frames = (globalThis.frames = []);
    globalThis.got = [];
    call.addEventListener("message", ({ detail: { participant, data, ...rest } }) =>
      got.push({ ...rest, name: participant?.displayName ?? null, data: data instanceof Uint8Array ? `bytes ${[...data]}` : data }),
    );
    for (const channel of server.channels.values()) {
      channel.binaryType = "arraybuffer";
      channel.onmessage = ({ data }) => frames.push(`${channel.label} ${text(data)}`);
    }
    await call.sendMessage("hello");
    await call.sendMessage({ n: 1 }, { to: "ann" });
    await call.sendMessage(new Uint8Array([7, 8, 9]).subarray(1), { to: "é" });
    await call.sendMessage(new ArrayBuffer(2));
    await call.sendMessage([true], { lossy: true });
    const errors = [];
    for (const [data, options] of [["x".repeat(65_536)], [undefined], [() => 0], [new Uint8Array(65_536)]]) {
      errors.push(await call.sendMessage(data, options).catch((error) => error.code ?? error.name));
    }
    return errors;
  });
  assertEqual(closing, ["too_large", "TypeError", "TypeError", "too_large"], "messages that cannot be sent");
  await until("the messages", () => page.evaluate(() => frames.length === 5));
  assertEqual(
    await page.evaluate(() => frames.sort()),
    ['lossy {"data":[true]}', "reliable bytes 0,0,0", "reliable bytes 2,195,169,8,9", 'reliable {"data":"hello"}', 'reliable {"to":"ann","data":{"n":1}}'],
    "frames as they arrive",
  );
  await page.evaluate(() => {
    const channel = server.channels.get("reliable");
    channel.send('{"from":"ann","to":"me","data":{"n":2}}');
    channel.send(new Uint8Array([3, 97, 110, 110, 1, 2]));
    channel.send("not JSON");
    channel.send(new Uint8Array([9, 1]));
    server.channels.get("lossy").send('{"from":"zoe","data":null}');
  });
  await until("the messages", () => page.evaluate(() => got.length === 3));
  assertEqual(
    await page.evaluate(() => got.sort((a, b) => JSON.stringify(a.data).localeCompare(JSON.stringify(b.data)))),
    [
      { userId: "ann", lossy: false, to: null, channel: "reliable", name: "Ann", data: "bytes 1,2" },
      { userId: "ann", lossy: false, to: "me", channel: "reliable", name: "Ann", data: { n: 2 } },
      { userId: "zoe", lossy: true, to: null, channel: "lossy", name: null, data: null },
    ],
    "messages as they are told",
  );
  // A closed channel is opened again; what is sent meanwhile waits, in order, and not without bound.
  const waited = await page.evaluate(async () => {
    const { call } = e2e.state;
    const old = server.channels.get("reliable");
    const mine = new Promise((resolve) => call.addEventListener("error", ({ detail }) => resolve(detail.code), { once: true }));
    await new Promise((resolve) => {
      old.onclose = resolve;
      old.close();
    });
    const sends = [0, 1, 2].map((n) => call.sendMessage(n));
    const big = [];
    for (let n = 0; n < 40; n += 1) big.push(call.sendMessage("x".repeat(60_000)).catch(({ code }) => code));
    const waiting = call.bufferedAmount.reliable;
    await Promise.all(sends);
    const results = await Promise.all(big);
    const told = await mine;
    return { told, again: server.channels.get("reliable") !== old, waiting, refused: [...new Set(results)] };
  });
  assert(waited.waiting > 900_000 && waited.waiting <= 1_048_576, `bytes that wait: ${waited.waiting}`);
  assertEqual([waited.told, waited.again, waited.refused], ["channel_closed", true, [true, "too_fast"]], "a channel that was closed");
  step("messages go over data channels");

  // A slot changes hands.
  const subscribed = (data) =>
    page.evaluate((given) => server.say({ type: "track-subscribed", userId: "sfu", data: given }), data);
  const mid = await page.evaluate(() =>
    e2e.state.call.peerConnection.getTransceivers().find(({ direction, receiver }) => direction === "recvonly" && receiver.track.kind === "video").mid,
  );
  await page.evaluate(() =>
    server.say({ type: "user-joined", userId: "ben", data: { displayName: "Ben", role: "participant", tracks: [] } }),
  );
  await subscribed({ mid, userId: "ann", trackId: "t1", kind: "video", source: "camera" });
  await subscribed({ mid, userId: "ben", trackId: "t2", kind: "video", source: "screen" });
  const carried = await page.evaluate(() => [e2e.participant("ann").stream("camera"), e2e.participant("ben").stream("screen")].map(Boolean));
  assertEqual(carried, [false, true], "who has a stream when the slot went from Ann to Ben");
  await page.evaluate(() => server.say({ type: "user-left", userId: "ben", data: { reason: "left" } }));
  const slotEvents = (await page.evaluate(() => e2e.state.events)).filter(({ type }) => type.startsWith("track-")).map(({ type, userId }) => `${type} ${userId}`);
  assertEqual(
    slotEvents,
    ["track-subscribed ann", "track-unsubscribed ann", "track-subscribed ben", "track-unsubscribed ben"],
    "events of the slot",
  );
  step("slots change hands");

  // An attached element follows the track from slot to slot, and the server hears how large it is seen.
  await page.setViewportSize({ width: 800, height: 600 });
  const [one, two] = await page.evaluate(() => {
    const mids = e2e.state.call.peerConnection.getTransceivers().filter(({ direction, receiver }) => direction === "recvonly" && receiver.track.kind === "video").map(({ mid }) => mid);
    const element = document.createElement("video");
    element.style.cssText = "position: absolute; top: 0; left: 0; width: 330px; height: 180px";
    document.body.append(element);
    globalThis.view = e2e.state.call.attach(element, { userId: "dan" });
    return mids.slice(-2);
  });
  const wishes = async () => (await sent("subscribe")).map(({ data }) => data);
  const lastWish = (expect, what) => until(what, async () => JSON.stringify((await wishes()).at(-1)) === JSON.stringify(expect) || { ok: false, wishes: await wishes() });
  assertEqual(await wishes(), [], "wishes before there is somebody to see");
  await page.evaluate(() => server.say({ type: "user-joined", userId: "dan", data: { displayName: "Dan", tracks: [{ trackId: "d1", kind: "video", source: "camera" }, { trackId: "d2", kind: "audio", source: "microphone" }] } }));
  await lastWish({ trackId: "d1", maxWidth: 480, maxHeight: 272, priority: 0, paused: false }, "the size of the element");
  const shows = () => page.evaluate(() => [...e2e.state.call.peerConnection.getTransceivers()].find(({ receiver }) => receiver.track === view.element.srcObject?.getTracks()[0])?.mid ?? null);
  await subscribed({ mid: one, userId: "dan", trackId: "d1", kind: "video", source: "camera" });
  assertEqual(await shows(), one, "the slot that the element shows");
  await subscribed({ mid: two, userId: "dan", trackId: "d1", kind: "video", source: "camera" });
  assertEqual(await shows(), two, "the slot that the element shows after a move");
  await page.evaluate(() => (view.element.style.objectFit = "cover") && (view.element.style.width = "700px"));
  await lastWish({ trackId: "d1", maxWidth: 1056, maxHeight: 592, priority: 0, paused: false }, "the new size");
  await page.evaluate(() => view.update({ priority: 5 }));
  await lastWish({ trackId: "d1", maxWidth: 1056, maxHeight: 592, priority: 5, paused: false }, "the priority");
  await page.evaluate(() => (view.element.style.top = "5000px"));
  await lastWish({ trackId: "d1", paused: true }, "a pause out of sight");
  await page.evaluate(() => (view.element.style.top = "0"));
  await lastWish({ trackId: "d1", maxWidth: 1056, maxHeight: 592, priority: 5, paused: false }, "no pause in sight");
  await page.evaluate(() => e2e.state.call.setSubscription({ trackId: "d1" }, { quality: "low", maxWidth: 100 }));
  await lastWish({ trackId: "d1", maxWidth: 100, maxHeight: 592, priority: 5, paused: false, quality: "low" }, "the application's own wish");
  await page.evaluate(() => server.say({ type: "layer-changed", data: { mid: "x", trackId: "d1", userId: "dan", layer: null, paused: true, reason: "bandwidth" } }));
  await page.evaluate(() => server.say({ type: "quality", data: { userId: "dan", quality: 2, reason: "packet-loss" } }));
  const dan = await page.evaluate(() => {
    const { tracks, quality, qualityReason } = e2e.participant("dan");
    const { paused, pausedReason, layer } = tracks.get("d1");
    return { quality, qualityReason, paused, pausedReason, layer };
  });
  assertEqual(dan, { quality: 2, qualityReason: "packet-loss", paused: true, pausedReason: "bandwidth", layer: null }, "what is known of Dan");
  await page.evaluate(() => view.detach());
  assertEqual(await shows(), null, "what the element shows in the end");
  await lastWish({ trackId: "d1", quality: "low", maxWidth: 100 }, "the application's wish alone");
  await page.evaluate(() => server.say({ type: "user-left", userId: "dan", data: { reason: "left" } }));
  step("elements follow their track and tell their size");

  // Somebody else mutes us; the echo of our own message does not undo the next one.
  await page.evaluate(() => server.say({ type: "muted", userId: "ann", targetUserId: "me", data: { kind: "video" } }));
  const enabled = () => page.evaluate(() => e2e.state.call.local.stream("camera").getVideoTracks()[0].enabled);
  assertEqual(await enabled(), false, "camera after a moderator's mute");
  await page.evaluate(() => {
    e2e.state.call.setCameraMuted(false);
    server.say({ type: "muted", userId: "me", data: { kind: "video" } });
  });
  assertEqual(await enabled(), true, "camera after a late echo");
  assertEqual((await sent("unmute")).at(-1).data, { kind: "video" }, "the unmute message");

  before = (await events("error")).length;
  await page.evaluate(() => {
    server.socket.onmessage({ data: "not json" });
    server.say({ type: "from-the-future", data: {} });
    server.say({ type: "track-subscribed", userId: "sfu", data: { mid: "99", trackId: "t9", userId: "ann" } });
    server.say({ type: "active-speaker", data: { speakers: [{ userId: "ann", level: 0.5 }, { userId: "nobody" }] } });
  });
  assertEqual((await events("error")).length, before, "errors from messages that make no sense");

  // Transforms: one call for each sender and receiver, and nothing in the clear when one fails.
  const guarded = await blankPage(browser, "guarded");
  await scriptedServer(guarded);
  const hooked = await guarded.evaluate(async () => {
    const infos = [];
    let fails = false;
    const e2ee = {
      sender: (sender, info) => {
        if (fails) throw new Error("no key");
        infos.push(info);
      },
      receiver: (receiver, info) => infos.push(info),
    };
    await e2e.join({ token: "a.b.c", roomId: "r", colour: "red", tone: 440, slots: { audio: 1, video: 1 }, e2ee });
    const { call } = e2e.state;
    const { mid } = infos.find(({ kind, source }) => kind === "video" && source === null);
    server.say({ type: "track-subscribed", data: { mid, userId: "ann", trackId: "t1", kind: "video", source: "camera" } });
    await call.unpublish("camera");
    await call.publish(e2e.makeVideo("blue"));
    const seen = infos.map(({ kind, userId, source }) => [kind, userId === undefined ? "sends" : (userId ?? "-"), source].join(" "));
    fails = true;
    const refused = await call.publish(e2e.makeVideo("green"), { source: "screen" }).catch(({ code }) => code);
    const sending = call.peerConnection.getSenders().filter(({ track }) => track).length;
    return { seen, refused, sending, red: /a=sendonly[^]*?red/.test(server.sent("offer")[0].data.sdp.sdp.split(/(?=m=)/).filter((part) => /^m=audio[^]*a=sendonly/.test(part)).join("")) };
  });
  assertEqual(
    hooked,
    { seen: ["audio - ", "video ann camera", "audio sends microphone", "video sends camera"], refused: "e2ee_failed", sending: 2, red: false },
    "transforms",
  );
  step("transforms are asked for");

  await page.evaluate(() => server.drop(4003, "replaced"));
  const closed = await page.evaluate(() => ({ closed: e2e.state.closed, state: e2e.state.call.state }));
  assertEqual(closed, { closed: { code: 4003, reason: "replaced", error: "replaced" }, state: "closed" }, "the end");
  const after = await page.evaluate(() => {
    try {
      e2e.state.call.chat("anybody?");
      return "sent";
    } catch (error) {
      return error.code;
    }
  });
  assertEqual(after, "not_connected", "a message after the end");
  step("close codes have names");
});
