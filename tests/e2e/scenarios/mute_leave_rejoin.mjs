/** Muting stops sound and picture at the others and is enforced by the server; leaving and coming back works. */

import { chromium } from "../lib/browser.mjs";
import {
  counters,
  events,
  framesRise,
  join,
  joinAs,
  PEOPLE,
  perceive,
  perceivesExactly,
  standsStill,
  TONE_TOLERANCE,
} from "../lib/call.mjs";
import { always, assert, room, step, story, until } from "../lib/story.mjs";

await story("mute, unmute, leave, rejoin", async () => {
  const browser = await chromium();
  const id = room();
  const alice = await joinAs(browser, "alice", id);
  const bob = await joinAs(browser, "bob", id);
  await perceivesExactly(alice, "alice", ["bob"]);
  await perceivesExactly(bob, "bob", ["alice"]);

  const told = (kind, muted) =>
    until(`bob to be told that alice's ${kind} is ${muted ? "" : "un"}muted`, async () => {
      const heard = (await events(bob, "muted")).filter((event) => event.userId === "alice" && event.kind === kind);
      return heard.at(-1)?.muted === muted;
    });
  const sound = async () => (await perceive(bob)).alice.sound;
  const heard = () => until("alice to be heard", async () => {
    const { ok, ...now } = await sound();
    return ok && Math.abs(now.hertz - PEOPLE.alice.tone) <= TONE_TOLERANCE ? true : { ok: false, now };
  });
  const silent = () => until("alice not to be heard", async () => !(await sound()).ok);

  await heard();
  await alice.evaluate(() => e2e.state.call.setMicrophoneMuted(true));
  await told("audio", true);
  await silent();
  await standsStill(bob, "bob", "alice", "audioPackets");
  step("a muted microphone gives no sound");

  // The browser sends again, the server has not been told: nothing may get through.
  await alice.evaluate(() => {
    e2e.state.stream.getAudioTracks()[0].enabled = true;
  });
  const { audioPackets } = await counters(bob, "alice");
  await always("the server keeps alice silent", async () => (await counters(bob, "alice")).audioPackets === audioPackets);
  step("the server enforces it");
  await alice.evaluate(() => e2e.state.call.setMicrophoneMuted(false));
  await told("audio", false);
  await heard();
  step("unmuted, alice is heard again");

  await alice.evaluate(() => e2e.state.call.setCameraMuted(true));
  await told("video", true);
  await standsStill(bob, "bob", "alice", "frames");
  step("a muted camera gives no frames");
  await alice.evaluate(() => e2e.state.call.setCameraMuted(false));
  await told("video", false);
  await framesRise(bob, "bob", "alice");
  await perceivesExactly(bob, "bob", ["alice"]);

  await alice.evaluate(() => e2e.state.call.leave({ stopTracks: true }));
  await until("bob to see alice leave", async () => (await events(bob, "participant-left")).some((event) => event.userId === "alice"));
  await perceivesExactly(bob, "bob", []);
  const closed = await alice.evaluate(() => e2e.state.closed);
  assert(closed?.error === null && closed.code === 1000, `a clean end, got ${JSON.stringify(closed)}`);
  step("alice left");

  await join(alice, "alice", id);
  await perceivesExactly(bob, "bob", ["alice"]);
  await perceivesExactly(alice, "alice", ["bob"]);

  // A track taken away and given back uses the same m-line.
  await alice.evaluate(() => e2e.state.call.unpublish("camera"));
  await until("bob's slot to be empty", () => bob.evaluate(() => e2e.participant("alice").stream("camera") === null));
  await alice.evaluate(() => e2e.state.call.publish(e2e.state.stream.getVideoTracks()[0]));
  await perceivesExactly(bob, "bob", ["alice"]);
  step("unpublished and published again");
});
